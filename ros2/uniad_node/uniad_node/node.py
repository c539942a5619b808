"""A lifecycle node over ``uniad.ros.live``: configure loads and verifies the model, activate subscribes, and frames are run in a
thread of their own so that no message waits for the network.

    unconfigured --configure--> inactive --activate--> active --deactivate--> inactive --cleanup--> unconfigured

A transition that cannot be made fails with one line in the log, and the node stays what it was.
"""

from __future__ import annotations

import importlib
import queue
import threading
from array import array
from typing import Any

import numpy as np
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, State, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from uniad.deploy.plausible import Limits
from uniad.deploy.runtime import Runtime
from uniad.errors import UserError, one_line
from uniad.formats.topics import read_calibration, read_topics
from uniad.ros import messages as m
from uniad.ros.live import Live, verify_model
from uniad.ros.rig import TF_TOPICS
from uniad.ros.synchronise import ClockJump, Instant
from uniad.ros.topics import Held
from uniad_node.parameters import PARAMETERS

# Whatever a driver offers is taken: a subscriber that asks for less than is offered is served.
SENSORS = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=100, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=100, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)  # fmt: skip
PUBLISHED = {
    "tracks": "visualization_msgs/msg/MarkerArray",
    "detections": "visualization_msgs/msg/MarkerArray",
    "map": "nav_msgs/msg/OccupancyGrid",
}
PUBLISHED_STAGE2 = {
    "forecasts": "visualization_msgs/msg/MarkerArray",
    "plan": "nav_msgs/msg/Path",
    "plan_raw": "nav_msgs/msg/Path",
    "occupancy": "nav_msgs/msg/OccupancyGrid",
}
SAY_EVERY_NS = 5_000_000_000  # the same complaint


def message_class(kind: str) -> Any:
    """The class of a type such as nav_msgs/msg/Path."""
    package, _, name = kind.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def make(kind: str, **fields: Any) -> Any:
    """A message of rclpy. Sequences of numbers are its array.array; a field that this distribution lacks is left out."""
    cls = message_class(kind)
    known = cls.get_fields_and_field_types()
    return cls(**{name: _sequence(value) for name, value in fields.items() if name in known})


def _sequence(value: Any) -> Any:
    return array(value.dtype.char, value.tobytes()) if isinstance(value, np.ndarray) else value


class UniadNode(LifecycleNode):
    """See the package's README.md for topics and parameters."""

    def __init__(self, **options: Any) -> None:
        super().__init__("uniad", **options)
        for name, parameter in PARAMETERS.items():
            self.declare_parameter(name, parameter.default, parameter.descriptor())
        self._runtime: Runtime | None = None
        self._live: Live | None = None
        self._sources: list[Any] = []  # subscriptions
        self._sinks: dict[str, Any] = {}  # publishers by topic
        self._given = self._calibration = None
        self._waiting: queue.Queue[Instant | None] = queue.Queue(maxsize=1)
        self._worker: threading.Thread | None = None
        self._told: dict[str, int] = {}  # when something was complained about last
        self.frames = self.dropped = self.refused = self.incomplete = 0

    # --- transitions

    def on_configure(self, state: State) -> TransitionCallbackReturn:
        """Read the files, load the model, verify it, make the publishers."""
        try:
            values = self._values()
            self._given = read_topics(values["topics_file"]) if values["topics_file"] else {}
            self._calibration = read_calibration(values["calibration_file"]) if values["calibration_file"] else None
            verified = verify_model(values["model"], values["verify"])
            self._runtime = Runtime.open(
                values["model"], values["device"], values["backend"], config=values["config"] or None, threads=values["threads"],
                limits=Limits.parse(values["limits"].split()),
            )  # fmt: skip
            published = PUBLISHED | (PUBLISHED_STAGE2 if self._runtime.spec.model.stage2 is not None else {})
            for name, kind in published.items():
                self._sinks[name] = self.create_lifecycle_publisher(message_class(kind), f"~/{name}", 10)
            self._sinks["/tf_static"] = self.create_lifecycle_publisher(message_class(m.TF), "/tf_static", LATCHED)
        except (UserError, OSError) as error:
            self.get_logger().error(f"not configured: {one_line(error)}")
            self._release()
            return TransitionCallbackReturn.FAILURE
        self.get_logger().info(f"{values['model']} in {self._runtime.backend}: {verified}")
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: State) -> TransitionCallbackReturn:
        """Look which topics there are, subscribe, and begin a drive."""
        held = [Held(topic, kind, 1) for topic, kinds in self.get_topic_names_and_types() for kind in kinds]
        try:
            values = self._values()
            self._live = Live(
                self._runtime, held, make, self._given, self._calibration, values["every"], values["tolerance_s"],
                values["patience_s"],
            )  # fmt: skip
        except UserError as error:
            self.get_logger().error(f"not activated: {one_line(error)}")
            return TransitionCallbackReturn.FAILURE
        kinds = {entry.topic: entry.type for entry in held} | dict.fromkeys(TF_TOPICS, m.TF)
        for topic in dict.fromkeys([*self._live.small, *self._live.topics.streams]):
            quality = LATCHED if topic == "/tf_static" else RELIABLE if topic in ("/tf", self._live.topics.command) else SENSORS
            receive = self._receiver(topic)
            self._sources.append(self.create_subscription(message_class(kinds[topic]), topic, receive, quality))
        self._worker = threading.Thread(target=self._work, args=(self._live, self._waiting), name="uniad", daemon=True)
        self._worker.start()
        for note in self._live.notes():
            self.get_logger().warning(note)
        return super().on_activate(state)

    def on_deactivate(self, state: State) -> TransitionCallbackReturn:
        """Stop listening; the frame in progress is finished."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: State) -> TransitionCallbackReturn:
        self._stop()
        self._release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: State) -> TransitionCallbackReturn:
        return self.on_cleanup(state)

    def on_error(self, state: State) -> TransitionCallbackReturn:
        """What nobody foresaw: give everything back, and be unconfigured."""
        return self.on_cleanup(state)

    # --- messages and frames

    def _receiver(self, topic: str) -> Any:
        def receive(message: Any) -> None:
            live = self._live
            if live is None:
                return
            try:
                instants = live.add(topic, message, self.get_clock().now().nanoseconds)
            except ClockJump as jump:
                self._complain("clock", f"{one_line(jump)}: another drive begins")
                live.begin()
                return
            except UserError as error:
                self._complain(topic, one_line(error))
                return
            for instant in instants:
                self._offer(instant)

        return receive

    def _offer(self, instant: Instant) -> None:
        """To the worker. A model that is too slow misses the older frame, and is never late by more than one."""
        if instant.missing:
            self.incomplete += 1
            why = "; ".join(f"{camera}: {reason}" for camera, reason in instant.missing.items())
            self._complain("missing", f"frame left out: {why} ({self.incomplete} so far)")
            return
        while True:
            try:
                self._waiting.put_nowait(instant)
                return
            except queue.Full:
                try:
                    self._waiting.get_nowait()
                    self._waiting.task_done()
                    self.dropped += 1
                    self._complain("slow", f"the model is slower than its frames: one was dropped ({self.dropped} so far)")
                except queue.Empty:
                    pass

    def _work(self, live: Live, waiting: queue.Queue[Instant | None]) -> None:
        while (instant := waiting.get()) is not None:
            try:
                answer = live.run(instant)
                self._sinks["/tf_static"].publish(answer.static)
                for name, message in answer.messages.items():
                    self._sinks[name].publish(message)
                self.frames += 1
            except UserError as error:
                self.refused += 1
                self._complain("refused", f"frame refused: {one_line(error)} ({self.refused} so far)")
            except Exception as error:  # a thread that ends without a word would leave a node that looks alive
                self.refused += 1
                self.get_logger().error(f"frame failed: {type(error).__name__}: {one_line(error)}")
            finally:
                waiting.task_done()
        waiting.task_done()

    def _complain(self, about: str, text: str) -> None:
        now = self.get_clock().now().nanoseconds
        if about not in self._told or now - self._told[about] >= SAY_EVERY_NS:
            self._told[about] = now
            self.get_logger().warning(text)

    # --- ends

    def _values(self) -> dict[str, Any]:
        values = {name: self.get_parameter(name).value for name in PARAMETERS}
        if not values["model"]:
            raise UserError("parameter model is empty: name an ONNX, a TensorRT engine or a checkpoint")
        for name, parameter in PARAMETERS.items():
            if parameter.choices and values[name] not in parameter.choices:
                raise UserError(f"parameter {name} is {values[name]!r}: choose {', '.join(parameter.choices)}")
        return values

    def _stop(self) -> None:
        for source in self._sources:
            self.destroy_subscription(source)
        self._sources.clear()
        if self._worker is not None:
            self._waiting.put(None)
            self._worker.join()
            self._worker = None
            self._waiting = queue.Queue(maxsize=1)
        self._live = None
        if self._runtime is not None:
            self._runtime.reset()

    def _release(self) -> None:
        for sink in self._sinks.values():
            self.destroy_lifecycle_publisher(sink)
        self._sinks.clear()
        if self._runtime is not None:
            self._runtime.close()
            self._runtime = None


    def destroy_node(self) -> None:
        self._stop()
        self._release()
        super().destroy_node()


def main(args: list[str] | None = None) -> None:
    rclpy.init(args=args)
    node = UniadNode()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
