"""A rosbag2 folder, an MCAP or a SQLite file as frames of the model.

A bag is read twice. The first time only times, poses and calibrations are, and all that may be wrong is told; the second time
images are, one frame after the other, and no more of them are held than belong together.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from uniad.deploy.sensors import Sensors
from uniad.deploy.sources import Scene, info_of
from uniad.errors import UserError
from uniad.files import atomic_path, open_outside
from uniad.formats.layout import CAMERAS
from uniad.formats.times import check_times
from uniad.ros import messages as m
from uniad.ros.rig import TF_TOPICS, Car, absent_notes
from uniad.ros.synchronise import JUMP_NS, TOLERANCE_S, Instant, Synchroniser
from uniad.ros.topics import Held, find_topics, listed
from uniad.ros.transforms import Series

SUFFIXES = (".mcap", ".db3")
FORWARD_NS = 10_000_000_000  # that a topic's clock may run ahead of the recorder's from one message to the next
JPEG_QUALITY = 95  # of images that had to be changed, for pictures; the model gets them as they are
_HEADED = (m.IMAGE, m.COMPRESSED, m.POINTS)
HUMBLE = "ROS2_HUMBLE"  # the types that are read have not changed since


def typestore() -> Any:
    """The message types of ROS 2 as ``rosbags`` has them. UserError where that is not installed."""
    try:
        from rosbags.typesys import Stores, get_typestore
    except ImportError as error:
        raise UserError(f"bags need the package rosbags ({error}): pip install 'uniad[bags]', or `make env`") from None
    return get_typestore(getattr(Stores, HUMBLE))


class Bag:
    """An open bag; a context manager."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.store = typestore()
        from rosbags.rosbag2 import Reader

        with self._reading():
            self.reader = Reader(_storage(self.path))
            self.reader.open()

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.reader.close()

    def held(self) -> list[Held]:
        """Its topics. Of images and point clouds the first message is looked at, for its frame."""
        with self._reading():
            out = []
            for connection in self.reader.connections:
                frame = ""
                if connection.msgtype in _HEADED and connection.msgcount:
                    for _, _, data in self.reader.messages([connection]):
                        frame = header(data, f"{self.path}: {connection.topic}: message 0")[1]
                        break
                out.append(Held(connection.topic, connection.msgtype, connection.msgcount, frame))
        merged: dict[tuple[str, str], Held] = {}  # two writers of a topic are two connections
        for entry in out:
            known = merged.get(entry[:2])
            if known is not None:
                entry = known._replace(count=known.count + entry.count, frame=known.frame or entry.frame)
            merged[entry[:2]] = entry
        return list(merged.values())

    def messages(self, topics: Iterable[str], stop_ns: int | None = None) -> Iterator[tuple[str, int, int, Any, str]]:
        """topic, its n-th message from 0 on, when it was recorded (ns), bytes, type; in the order of recording."""
        wanted = set(topics)
        connections = [connection for connection in self.reader.connections if connection.topic in wanted]
        if not connections:
            return
        counts = dict.fromkeys(wanted, 0)
        with self._reading():
            messages = self.reader.messages(connections, stop=stop_ns)
        while True:
            with self._reading():
                entry = next(messages, None)
            if entry is None:
                return
            connection, log_ns, data = entry
            if not isinstance(log_ns, int) or isinstance(data, str):  # a cell of SQLite holds any type
                number = counts[connection.topic]
                raise UserError(f"{self.path}: {connection.topic}: message {number} is damaged: its time or its data is none")
            yield connection.topic, counts[connection.topic], log_ns, data, connection.msgtype
            counts[connection.topic] += 1

    def decode(self, topic: str, number: int, data: Any, kind: str) -> Any:
        """A message from its bytes."""
        try:
            return self.store.deserialize_cdr(data, kind)
        except Exception as error:  # damaged bytes can raise nearly anything
            raise UserError(f"{self.path}: {topic}: message {number} is no {kind.replace('/msg/', '/')}: {error}") from None

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Whatever a damaged file makes the reader raise is one line."""
        try:
            yield
        except (UserError, MemoryError, GeneratorExit):
            raise
        except OSError as error:
            if error.errno is not None:
                raise  # the system's: told as such
            raise UserError(f"{self.path} cannot be read: {error}") from None
        except Exception as error:
            raise UserError(f"{self.path} cannot be read: {_advised(error)}") from None


def _storage(path: Path) -> Path:
    """What the reader opens: a folder with its metadata, or the one file of a folder that lost it."""
    if not path.exists():
        raise UserError(f"{path} does not exist; needed is a rosbag2 folder, an .mcap or a .db3 file")
    if path.is_dir():
        if (path / "metadata.yaml").exists():
            for file in path.iterdir():
                if not file.is_dir():
                    open_outside(file).close()  # a pipe would be waited for
            return path
        files = [file for file in sorted(path.iterdir()) if file.suffix in SUFFIXES]
        if len(files) == 1:
            open_outside(files[0]).close()
            return files[0]
        found = f"{len(files)} files" if files else "no .mcap or .db3 file"
        raise UserError(f"{path} has {found} and no metadata.yaml; `ros2 bag reindex {path}` writes it")
    if path.suffix == ".bag":
        raise UserError(f"{path} is a bag of ROS 1; `rosbags-convert --src {path} --dst {path.stem}` makes one of ROS 2")
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} is no bag: needed is a rosbag2 folder, an .mcap or a .db3 file")
    open_outside(path).close()
    return path


def _advised(error: Exception) -> str:
    text = str(error) or type(error).__name__
    if "end magic" in text or "footer" in text or "Truncated" in text:
        return f"{text.rstrip('.')}: it was cut short; `mcap recover FILE -o MENDED` keeps what is whole"
    # Where a file ends too early its reader may fail by an error of Python's own, whose words are about the reader.
    if isinstance(error, (TypeError, IndexError, struct.error)):
        text = "a record in it has no end"
    if any(words in text for words in ("image is malformed", "not a database", "missing tables", "empty", "no end")):
        return f"{text.rstrip('.')}: it was cut short, or is no bag"
    if "not in timestamp order" in text:
        return f"{text.rstrip('.')}: `mcap sort FILE -o SORTED` writes one"
    return text


def header(data: Any, where: str = "a header") -> tuple[int, str]:
    """Time (ns) and frame of a message that begins with a std_msgs/Header, without reading the rest."""
    order = "<" if data[1] & 1 else ">"
    seconds, nanoseconds, length = struct.unpack_from(f"{order}iII", data, 4)
    return m.time_ns(seconds, nanoseconds, where), bytes(data[16 : 16 + max(length - 1, 0)]).decode(errors="replace")


def name_of(path: str | Path) -> str:
    """What a bag's scene is called."""
    return Path(path).resolve().stem


class BagFrames:
    """A bag as one scene. Its times, topics, calibration and poses are checked as a whole when it is opened.

    given: a checked file of topics, {} where all is to be found by name. calibration: a checked file of it. every: each so
    many-th instant of the reference only. start_s, stop_s: of the bag. images: folder for the images that were used.
    """

    def __init__(
        self,
        path: str | Path,
        given: Mapping[str, Any] | None = None,
        calibration: Mapping[str, Any] | None = None,
        every: int = 1,
        tolerance_s: float = TOLERANCE_S,
        start_s: float | None = None,
        stop_s: float | None = None,
        images: Path | None = None,
    ) -> None:
        self.bag, self.images = Bag(path), images
        self.where, self.name = str(path), name_of(path)
        self.held = self.bag.held()
        self.topics = find_topics(self.held, given or {}, self.where, need_info=calibration is None)
        self.car = Car(self.topics, calibration, self.where)
        self.sync = Synchroniser(CAMERAS, self.topics.reference, tolerance_s, every, overtaken_s=math.inf)
        self.begins_ns, self.ends_ns = self.bag.reader.start_time, self.bag.reader.end_time
        stop_ns = None if stop_s is None else self.begins_ns + round(stop_s * 1e9)
        self._window = self.begins_ns + round((start_s or 0) * 1e9), stop_ns
        self._frame_ids = {entry.topic: entry.frame for entry in self.held}
        self.unstamped: dict[str, int] = {}
        instants = self._first_pass()
        if self.topics.has_lidar:
            self.car.cloud_frame = self._frame_ids.get(self.topics.reference, "").lstrip("/")
        self.left_out = [instant for instant in instants if instant.missing]
        self.frames = [instant for instant in instants if not instant.missing]
        if not self.frames:
            raise UserError(self._nothing(instants))
        start = self.frames[0].stamp_ns
        self.car.check(start, {name: self._frame_ids[camera.topic] for name, camera in self.topics.cameras.items()})
        times = np.array([(instant.stamp_ns - self.begins_ns) / 1e9 for instant in self.frames])
        check_times(times, np.array([0]), "seconds", "its time", lambda n: f"{self.where}: frame at {times[n]:.3f} s",
                    "`--every {every}` takes every {every}th (make: INFER_ARGS='--every {every}')")  # fmt: skip
        self._rewind()

    def frame_names(self) -> dict[str, str]:
        """The frames of the world and of the car."""
        return {"world": self.car.world, "base": self.car.base}

    def close(self) -> None:
        self.bag.reader.close()

    def scene(self, most: int | None = None) -> Scene:
        """All of it, or its first ``most`` frames."""
        return Scene(self.name, self.name, self, tuple(range(len(self.frames)))[:most])

    def _first_pass(self) -> list[Instant]:
        streams, small = self.topics.streams, set(self.car.small)
        before: dict[str, tuple[int, int]] = {}
        begin_ns, stop_ns = self._window
        for topic, number, log_ns, data, kind in self.bag.messages({*streams, *small}, stop_ns):
            if topic in small:
                message = self.bag.decode(topic, number, data, kind)
                if topic not in TF_TOPICS and hasattr(message, "header"):
                    stamp = m.nanoseconds(message.header.stamp, self._said(topic, number))
                    self._check_clock(topic, number, stamp or self._untimed(topic, log_ns), log_ns, before)
                self.car.add(topic, log_ns, message)
            if topic in streams and log_ns >= begin_ns:
                stamp = self._stamp(topic, number, log_ns, data, before)
                self.sync.add(streams[topic], stamp, number)
                if streams[topic] == self.sync.reference:
                    self.car.commands.tick(log_ns, stamp)
        self.car.commands.flush()
        return [self._with_poses(instant) for instant in self.sync.flush()]

    def _said(self, topic: str, number: int) -> str:
        return f"{self.where}: {topic}: message {number}"

    def _untimed(self, topic: str, log_ns: int) -> int:
        """The time of a message whose header has none."""
        self.unstamped[topic] = self.unstamped.get(topic, 0) + 1
        return log_ns

    def _stamp(self, topic: str, number: int, log_ns: int, data: Any, before: dict[str, tuple[int, int]]) -> int:
        try:
            stamp = header(data, self._said(topic, number))[0]
        except (struct.error, IndexError):
            raise UserError(f"{self._said(topic, number)} has {len(data)} bytes, fewer than a header") from None
        stamp = stamp or self._untimed(topic, log_ns)
        self._check_clock(topic, number, stamp, log_ns, before)
        return stamp

    def _check_clock(self, topic: str, number: int, stamp: int, log_ns: int, before: dict[str, tuple[int, int]]) -> None:
        """Messages overtake each other and are recorded late; a clock that was set is something else."""
        last, last_log = before.get(topic, (stamp, log_ns))
        ahead = (stamp - last) - (log_ns - last_log)
        if stamp - last < -JUMP_NS or ahead > FORWARD_NS:
            since = (log_ns - self.begins_ns) / 1e9
            raise UserError(
                f"{self.where}: {topic}: the clock of its headers jumps by {(stamp - last) / 1e9:+.3f} s at message {number}, "
                f"{since:.3f} s after the bag's start: take the part before or after (--stop {since:.1f} or --start {since:.1f})"
            )
        before[topic] = max(last, stamp), log_ns

    def _with_poses(self, instant: Instant) -> Instant:
        """The same; where the car's pose is not known at one of its times, it lacks something."""
        if instant.missing:
            return instant
        faults = self.car.lacks(instant.stamp_ns, (stamp for stamp, _ in instant.picked.values()))
        return Instant(instant.stamp_ns, instant.picked, faults) if faults else instant

    def _nothing(self, instants: list[Instant]) -> str:
        if not instants:
            return f"{self.where}: {self.topics.reference} has no message there, and so there is no frame; {listed(self.held)}"
        lacking = {name: sum(name in i.missing for i in instants) for name in (*CAMERAS, "pose", "motion")}
        told = ", ".join(f"{name} in {count}" for name, count in lacking.items() if count)
        some = next(iter(instants[len(instants) // 2].missing.values()))
        return (
            f"{self.where}: none of {len(instants)} frames has all it needs within {self.sync.tolerance_ns / 1e6:.0f} ms "
            f"(--tolerance): missing is {told} ({some})"
        )

    # --- the second time

    def _rewind(self) -> None:
        self._wanted = {
            (self.topics.cameras[name].topic, number): (key, name)
            for key, instant in enumerate(self.frames)
            for name, (_, number) in instant.picked.items()
        }
        self._pending: dict[int, dict[str, Any]] = {}
        self._next = 0
        self._cursor = self.bag.messages((camera.topic for camera in self.topics.cameras.values()), self._window[1])

    def read(self, key: int) -> tuple[Sensors, dict[str, Any]]:
        if key < self._next:
            self._rewind()
        instant = self.frames[key]
        while len(self._pending.get(key, ())) < len(CAMERAS):
            topic, number, _, data, kind = next(self._cursor)
            owner = self._wanted.get((topic, number))
            if owner and owner[0] >= key:
                self._pending.setdefault(owner[0], {})[owner[1]] = self.bag.decode(topic, number, data, kind)
        images = self._pending.pop(key)
        self._next = key + 1
        sensors, untouched = self.car.sensors(instant, images, self.frames[0].stamp_ns)
        paths = {name: self._keep(key, name, images[name], sensors, name in untouched) for name in CAMERAS}
        before = self.frames[key - 1].stamp_ns if key else 0
        info = info_of(sensors, paths, f"{self.name}-{key:06d}", self.name)
        info["bag"] = {
            "stamp_ns": instant.stamp_ns,
            "offsets_ms": instant.offsets_ms(),
            "left_out_before": [_told(i, self.begins_ns) for i in self.left_out if before < i.stamp_ns < instant.stamp_ns],
        }
        return sensors, info

    def _keep(self, number: int, name: str, message: Any, sensors: Sensors, untouched: bool) -> str:
        if self.images is None:
            return f"{self.topics.cameras[name].topic}#{number}"
        if untouched and hasattr(message, "format"):
            content = m.jpeg_bytes(message)
        else:
            content = cv2.imencode(".jpg", sensors.images[name], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
        suffix = "png" if content.startswith(b"\x89PNG") else "jpg"
        path = self.images / f"{number:04d}.{name}.{suffix}"
        self.images.mkdir(parents=True, exist_ok=True)
        with atomic_path(path) as temporary:
            temporary.write_bytes(content)
        return str(path)

    def report(self) -> dict[str, Any]:
        """What was read and assumed, what is missing and what came late: for a summary."""
        topics = self.topics
        return {
            "path": self.where,
            "seconds": round((self.ends_ns - self.begins_ns) / 1e9, 3),
            "topics": {
                **{name: camera.topic for name, camera in topics.cameras.items()},
                "odometry": topics.odometry, "imu": topics.imu, "command": topics.command, "reference": topics.reference,
            },
            "tolerance_ms": self.sync.tolerance_ns / 1e6,
            "frames": len(self.frames),
            "replaced": self.sync.replaced,
            "left_out": [_told(instant, self.begins_ns) for instant in self.left_out],
            "messages": {stream: vars(count) for stream, count in sorted(self.sync.counts.items())},
            "notes": self.notes(),
        }  # fmt: skip

    def notes(self) -> list[str]:
        """What was assumed, a sentence each; complete when all frames were read."""
        notes = absent_notes(self.topics) + self.car.notes + self._late_notes()
        notes += [f"{topic}: {count} headers have no time, that of recording is taken" for topic, count in self.unstamped.items()]
        if self.left_out:
            lacking = {name for instant in self.left_out for name in instant.missing}
            first = _told(self.left_out[0], self.begins_ns)
            why = next(f"{name}: {reason}" for name, reason in first["missing"].items())
            notes.append(
                f"{len(self.left_out)} of {len(self.left_out) + len(self.frames)} frames are left out, they lack "
                f"{', '.join(sorted(lacking))}; the first at {first['seconds']:.3f} s ({why})"
            )
        for stream, count in sorted(self.sync.counts.items()):
            if count.reordered or count.repeated:
                notes.append(_disorder(stream, count.reordered, count.repeated))
        series_of: tuple[tuple[str | None, Series[Any]], ...] = (
            (self.topics.odometry, self.car.motions), (self.topics.imu, self.car.inertias),
        )  # fmt: skip
        for topic, series in series_of:
            if topic and (series.reordered or series.repeated):
                notes.append(_disorder(topic, series.reordered, series.repeated))
        return notes

    def _late_notes(self) -> list[str]:
        """Of topics that are there and have said nothing, or not yet."""
        notes, topics = [], self.topics
        if topics.imu and not len(self.car.inertias):
            notes.append(f"{topics.imu} has no message: the CAN bus's acceleration is 0")
        if topics.command and self.car.commands.last(self.frames[0].stamp_ns) is None:
            first = next((stamp for stamp, _ in self.car.commands.entries), None)
            since = "" if first is None else f" until {(first - self.frames[0].stamp_ns) / 1e9:.3f} s after the first frame"
            notes.append(f"{topics.command} has no message{since}: the command is straight on")
        return notes


def _disorder(stream: str, reordered: int, repeated: int) -> str:
    return f"{stream}: {reordered} messages out of order sorted, {repeated} repeated ones left out"


def _told(instant: Instant, begins_ns: int) -> dict[str, Any]:
    return {
        "seconds": round((instant.stamp_ns - begins_ns) / 1e9, 3), "stamp_ns": instant.stamp_ns, "missing": dict(instant.missing)
    }  # fmt: skip
