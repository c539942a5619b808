"""A running car: messages in, as they come, frames and results out. A ROS node is a thin shell around it (``ros2/uniad_node``).

Instants are put together by the code that reads bags. Not safe to be called from two threads at once, except that ``run`` may go
on in a thread of its own while messages are added in another.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uniad.artifacts.card import CHECKPOINTS, read_card, sequence_path
from uniad.deploy.runtime import Runtime
from uniad.errors import UserError
from uniad.formats.layout import CAMERAS
from uniad.postprocess.result import Result
from uniad.ros import messages as m
from uniad.ros.results import FRAME, ResultMessages
from uniad.ros.rig import Car, absent_notes
from uniad.ros.synchronise import TOLERANCE_S, Instant, Synchroniser
from uniad.ros.topics import Held, Topics, find_topics
from uniad.verify.run import verify_engine

PATIENCE_S = 0.3  # that an instant waits for a camera, or for the pose beyond it
VERIFY = ("auto", "always", "never")


@dataclass(frozen=True)
class Answer:
    """What is to be published of an instant: messages by topic, and where the lidar frame hangs."""

    stamp_ns: int
    result: Result
    messages: Mapping[str, Any]
    static: Any  # TFMessage


class Live:
    """One car. make: a maker of messages by type. held: its topics, with their types; given, calibration: as of a bag."""

    def __init__(
        self,
        runtime: Runtime,
        held: Sequence[Held],
        make: Callable[..., Any],
        given: Mapping[str, Any] | None = None,
        calibration: Mapping[str, Any] | None = None,
        every: int = 1,
        tolerance_s: float = TOLERANCE_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.runtime, self.messages = runtime, ResultMessages(make, runtime.spec)
        self.topics: Topics = find_topics(held, given or {}, "the car", need_info=calibration is None)
        self._calibration = calibration
        awaited = [topic for topic in (self.topics.odometry, self.topics.imu) if topic]
        self.sync = Synchroniser(CAMERAS, self.topics.reference, tolerance_s, every, patience_s, awaited)
        self._lock = threading.Lock()  # over what the car has said
        self._drive = 0
        self.begin()

    def begin(self) -> None:
        """Another drive begins: forget all that was said, but where things are mounted."""
        with self._lock:
            before = getattr(self, "car", None)
            self.car = Car(self.topics, self._calibration, live=True)
            if before is not None:
                self.car.remember_rig(before)
            self.sync.clear()
            self._drive += 1
            self._start_ns: int | None = None
            self._last_ns = 0
            self._checked = False

    @property
    def small(self) -> list[str]:
        """Topics besides images and the reference, TF's two among them."""
        return self.car.small

    def notes(self) -> list[str]:
        """What is assumed."""
        return absent_notes(self.topics) + self.car.notes

    def add(self, topic: str, message: Any, now_ns: int) -> list[Instant]:
        """A message that has come; the instants that it settles, those that lack something among them.

        now_ns: the time where a message has none. ClockJump where time goes back: ``begin`` another drive. UserError for one
        that cannot be meant.
        """
        with self._lock:
            stamp = (m.nanoseconds(message.header.stamp) if hasattr(message, "header") else 0) or now_ns
            instants = []
            if topic in self.car.small:
                self.car.add(topic, now_ns, message)
            if topic == self.topics.reference:
                self.car.cloud_frame = message.header.frame_id.lstrip("/")
            stream = self.topics.streams.get(topic, topic)
            if stream == self.sync.reference:
                self.car.commands.tick(now_ns, stamp)
            if stream in self.sync.counts:
                instants = self.sync.add(stream, stamp, message)
            return instants

    def run(self, instant: Instant) -> Answer:
        """The model's answer to a complete instant. UserError where it is refused: nothing has changed then."""
        images = {name: message for name, (_, message) in instant.picked.items()}
        with self._lock:
            drive, begun, last = self._drive, self._start_ns, self._last_ns
            if not self._checked:
                frames = {name: message.header.frame_id for name, message in images.items()}
                self.car.check(instant.stamp_ns, frames)
            start = instant.stamp_ns if begun is None else begun
            sensors, _ = self.car.sensors(instant, images, start)
            base = self.car.base
        # After a gap nothing that is remembered holds.
        if begun is None or (instant.stamp_ns - last) / 1e9 > self.runtime.limits.most_step_s:
            self.runtime.reset()
        result = self.runtime.step(sensors)
        with self._lock:
            if drive == self._drive:  # else another one began meanwhile, which this frame is none of
                self._start_ns, self._last_ns, self._checked = start, instant.stamp_ns, True
        ground = -float(np.asarray(sensors.lidar2ego.translation)[2])
        static = self.messages.maker.transforms(self.messages.maker.transform(instant.stamp_ns, base, FRAME, sensors.lidar2ego))
        return Answer(instant.stamp_ns, result, self.messages.of(result, instant.stamp_ns, ground), static)


def verify_model(path: str | Path, how: str = "auto") -> str:
    """Replay the recorded sequence that lies beside an ONNX, or beside the one that an engine was built from; says what came out.

    how: auto does so where a sequence is, always insists on one. UserError where the model departs from it.
    """
    if how not in VERIFY:
        raise UserError(f"verify {how!r}: choose {', '.join(VERIFY)}")
    path = Path(path)
    if how == "never" or (how == "auto" and path.suffix in CHECKPOINTS):
        return "not verified: nobody asked for it" if how == "never" else "not verified: a checkpoint has no recorded sequence"
    card = read_card(path)
    is_engine = card.get("kind") == "engine"
    onnx = path.parent / card["onnx"] if is_engine else path
    if not sequence_path(onnx).is_file() or not onnx.is_file():
        if how == "always":
            raise UserError(f"{path}: cannot be verified: {sequence_path(onnx).name} is not beside it; carry it along, too")
        return f"not verified: {sequence_path(onnx).name} is not beside it"
    backend = card.get("builder", "tensorrt") if is_engine else "onnxruntime"
    report = verify_engine(onnx, path if is_engine else None, backend, card.get("precision", "fp32"))
    if not report.ok:
        raise UserError(f"{path} departs from its recorded sequence ({'; '.join(report.faults[:2])}); run `make verify`")
    return f"verified on {report.frames} frames in {backend}"
