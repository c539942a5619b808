"""Which topic is which camera, by a file that says so, and by the names of topics and frames where none does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from uniad.errors import UserError
from uniad.formats.layout import CAMERAS
from uniad.ros import messages as m

HELP = "say which in a file of topics (--topics FILE; docs/car-logs.md)"
MOST_SHOWN = 40  # topics in a message

# Images that are no camera's colours
_OTHER = {"depth", "disparity", "mask", "segmentation", "semantic", "thermal", "infrared", "ir", "debug", "label", "annotated"}
_SIDES = {
    "front": "FRONT", "forward": "FRONT", "fwd": "FRONT", "rear": "BACK", "back": "BACK",
    "left": "LEFT", "right": "RIGHT",
    "fl": "FRONT LEFT", "fr": "FRONT RIGHT", "bl": "BACK LEFT", "br": "BACK RIGHT", "rl": "BACK LEFT", "rr": "BACK RIGHT",
}  # fmt: skip
_WORD = re.compile(r"forward|front|fwd|rear|back|left|right|[a-z]+")
_LIDAR = re.compile(r"lidar|velodyne|ouster|os_sensor|hesai|laser|livox|rslidar|pandar", re.IGNORECASE)
_BASES = ("base_link", "base_footprint", "ego_vehicle", "ego", "vehicle")
_WORLDS = ("map", "odom", "world", "earth")


class Held(NamedTuple):
    """A topic that is there."""

    topic: str
    type: str
    count: int
    frame: str = ""  # of its first message, for images and point clouds


@dataclass(frozen=True)
class CameraTopic:
    topic: str
    info: str | None  # of its CameraInfo
    frame: str | None = None  # of the camera where its messages name another one
    rectified: bool = False


@dataclass(frozen=True)
class Topics:
    """What is what. ``reference``: the camera whose images are the instants, or the topic of a point cloud."""

    cameras: dict[str, CameraTopic]
    odometry: str | None = None
    imu: str | None = None
    command: str | None = None
    reference: str = CAMERAS[0]
    frames: Mapping[str, str] = field(default_factory=dict)  # base, lidar, world: where they are said

    @property
    def streams(self) -> dict[str, str]:
        """Name by topic: a camera's, else the topic's own."""
        lidar = {self.reference: self.reference} if self.has_lidar else {}
        return {camera.topic: name for name, camera in self.cameras.items()} | lidar

    @property
    def has_lidar(self) -> bool:
        return self.reference not in self.cameras


def camera_of(name: str) -> str | None:
    """The camera that a topic's or frame's name speaks of, None where it speaks of none."""
    words = [word for part in re.split(r"[^a-z]+", name.lower()) for word in _WORD.findall(part)]
    if not _OTHER.isdisjoint(words) or "stereo" in words:
        return None
    sides = {side for word in words for side in _SIDES.get(word, "").split()}
    if {"FRONT", "BACK"} <= sides or {"LEFT", "RIGHT"} <= sides:
        return None
    named = "_".join(("CAM", *(side for side in ("FRONT", "BACK", "LEFT", "RIGHT") if side in sides)))
    return named if named in CAMERAS else None


def find_topics(held: Sequence[Held], given: Mapping[str, Any], where: str, need_info: bool = True) -> Topics:
    """``given``: a checked file of topics, {} for none. UserError, one line that lists what there is, where it is not clear.

    need_info: without a calibration file each camera needs a CameraInfo.
    """
    by_topic = {entry.topic: entry for entry in held}
    said = given.get("cameras", {})
    faults, cameras = [], {}
    for name in CAMERAS:
        found = [said[name]["topic"]] if name in said else _images_of(name, held, {entry["topic"] for entry in said.values()})
        if len(found) != 1:
            faults.append(f"no topic of {name}" if not found else f"{len(found)} of {name} ({', '.join(found)})")
            continue
        entry = said.get(name, {})
        _check_type(found[0], by_topic, (m.IMAGE, m.COMPRESSED), name, held, where)
        info = entry.get("info") or _info_of(found[0], name, held)
        if "info" in entry:
            _check_type(entry["info"], by_topic, (m.CAMERA_INFO,), f"info of {name}", held, where)
        if info is None and need_info:
            faults.append(f"no CameraInfo of {name} beside {found[0]}, nor a calibration file (--calibration FILE)")
        rectified = entry.get("rectified", "rect" in re.split(r"[^a-z]+", found[0].lower()))
        cameras[name] = CameraTopic(found[0], info, entry.get("frame"), rectified)
    twice = {c.topic: [n for n in cameras if cameras[n].topic == c.topic] for c in cameras.values()}
    faults += [f"{' and '.join(names)} are both {topic}" for topic, names in twice.items() if len(names) > 1]
    roles: dict[str, str | None] = {}
    for role, types, pattern in (
        ("odometry", (m.ODOMETRY,), ""),
        ("imu", (m.IMU,), ""),
        ("command", (*m.INTEGERS, m.STRING), r"(^|/|_)command$"),
    ):
        if role in given:
            roles[role] = given[role]
            if given[role] is not None:
                _check_type(given[role], by_topic, types, role, held, where)
            continue
        found = [entry.topic for entry in held if entry.type in types and entry.count and re.search(pattern, entry.topic)]
        if len(found) > 1:
            faults.append(f"{len(found)} topics that may be {role} ({', '.join(found)})")
        roles[role] = found[0] if found else None
    if faults:
        raise UserError(f"{where}: {'; '.join(faults)}: {HELP}; {listed(held)}")
    reference = given.get("reference") or _reference(held)
    reference = next((name for name, camera in cameras.items() if camera.topic == reference), reference)
    if reference not in CAMERAS:
        _check_type(reference, by_topic, (m.POINTS,), "reference", held, where)
    return Topics(cameras, roles["odometry"], roles["imu"], roles["command"], reference, given.get("frames", {}))


def listed(held: Sequence[Held]) -> str:
    """What there is, on one line."""
    shown = [f"{entry.topic} ({entry.type.replace('/msg/', '/')}, {entry.count})" for entry in sorted(held)[:MOST_SHOWN]]
    more = f" and {len(held) - MOST_SHOWN} more" if len(held) > MOST_SHOWN else ""
    return f"it holds {', '.join(shown)}{more}" if shown else "it holds no topic"


def frame_like(role: str, frames: Sequence[str]) -> str | None:
    """The frame of TF that is the car's (base) or the world's by its name."""
    return next((name for name in (_BASES if role == "base" else _WORLDS) if name in frames), None)


def lidar_like(frames: Sequence[str]) -> str | None:
    """The one frame that is a lidar's by its name; None where there are several, or none."""
    found = [name for name in frames if _LIDAR.search(name)]
    top = [name for name in found if "top" in name.lower()]
    return (top or found)[0] if len(top or found) == 1 else None


def _images_of(camera: str, held: Sequence[Held], taken: set[str]) -> list[str]:
    images = [e for e in held if e.type in (m.IMAGE, m.COMPRESSED) and e.count and e.topic not in taken]
    found = [e for e in images if camera_of(e.topic) == camera]
    # What the topic does not say, the frame may: /camera3/image_raw of cam_back_left_optical.
    found = found or [e for e in images if camera_of(e.topic) is None and camera_of(e.frame) == camera and not _is_other(e.topic)]
    # Raw and compressed images of one camera are the same; a rectified one needs no more work.
    rectified = [e for e in found if "rect" in e.topic]
    if rectified and len(rectified) < len(found):
        found = rectified
    raw = {e.topic for e in found if e.type == m.IMAGE}
    return [e.topic for e in found if e.type == m.IMAGE or e.topic.removesuffix("/compressed") not in raw]


def _is_other(topic: str) -> bool:
    return not _OTHER.isdisjoint(re.findall(r"[a-z]+", topic.lower()))


def _info_of(topic: str, camera: str, held: Sequence[Held]) -> str | None:
    infos = [entry.topic for entry in held if entry.type == m.CAMERA_INFO and entry.count]
    beside = topic.removesuffix("/compressed").rpartition("/")[0]
    while beside:  # /cam/image_raw/compressed has it at /cam/camera_info
        if f"{beside}/camera_info" in infos:
            return f"{beside}/camera_info"
        beside = beside.rpartition("/")[0]
    named = [info for info in infos if camera_of(info) == camera]
    return named[0] if len(named) == 1 else None


def _reference(held: Sequence[Held]) -> str:
    """The point cloud, where there is one; of several, that of the lidar on top."""
    clouds = [entry for entry in held if entry.type == m.POINTS and entry.count]
    top = [entry for entry in clouds if "top" in f"{entry.topic} {entry.frame}".lower()]
    return (top or clouds)[0].topic if len(top or clouds) == 1 else CAMERAS[0]


def _check_type(
    topic: str, by_topic: Mapping[str, Held], types: Sequence[str], role: str, held: Sequence[Held], where: str
) -> None:
    if topic not in by_topic:
        raise UserError(f"{where}: topic {topic}, which is said to be {role}, is not there: {listed(held)}")
    if by_topic[topic].type not in types:
        wanted = " or ".join(dict.fromkeys(t.replace("/msg/", "/") for t in types[:3]))
        raise UserError(f"{where}: topic {topic} is {by_topic[topic].type.replace('/msg/', '/')}; as {role} it must be {wanted}")
