"""rclpy as far as ``ros2/uniad_node`` uses it: the lifecycle with its errors, parameters with their ranges, qualities of service
that do or do not match, and messages that refuse a wrong type. Types come from ``rosbags``.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Iterable
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from rosbags.interfaces import Nodetype

from uniad.ros.bag import typestore

_STORE = typestore()
PACKAGES = {"builtin_interfaces", "geometry_msgs", "nav_msgs", "sensor_msgs", "std_msgs", "tf2_msgs", "visualization_msgs"}
_CLASSES: dict[str, type] = {}
_CODES = {"int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I", "int64": "q", "uint64": "Q",
          "float32": "f", "float64": "d", "bool": "B", "byte": "B", "char": "B"}  # fmt: skip


# --- messages


def message_class(kind: str) -> type:
    """The class of a message, with rclpy's manners: keywords alone, and an AssertionError for a value of another type."""
    if kind not in _CLASSES:
        fields = dict(_STORE.fielddefs[kind][1])

        def __init__(self: Any, **given: Any) -> None:
            assert set(given) <= set(fields), f"Invalid arguments passed to constructor: {sorted(set(given) - set(fields))}"
            for name, what in fields.items():
                setattr(self, name, given.get(name, _default(what)))

        def __setattr__(self: Any, name: str, value: Any) -> None:
            assert name in fields, f"{kind} has no field {name}"
            object.__setattr__(self, name, _checked(fields[name], value, f"{kind}: {name}"))

        members = {
            "__init__": __init__, "__setattr__": __setattr__, "__msgtype__": kind,
            "get_fields_and_field_types": classmethod(lambda cls: {name: str(what) for name, what in fields.items()}),
        }  # fmt: skip
        _CLASSES[kind] = type(kind.rpartition("/")[2], (), members)
    return _CLASSES[kind]


def _default(what: Any) -> Any:
    node, of = what
    if node == Nodetype.BASE:
        return {"string": "", "bool": False}.get(of[0], 0.0 if of[0].startswith("float") else 0)
    if node == Nodetype.NAME:
        return message_class(of)()
    item, size = of
    if item[0] == Nodetype.BASE and item[1][0] in _CODES:
        return np.zeros(size, item[1][0]) if node == Nodetype.ARRAY else array(_CODES[item[1][0]])
    return [_default(item) for _ in range(size if node == Nodetype.ARRAY else 0)]


def _checked(what: Any, value: Any, where: str) -> Any:
    node, of = what
    if node == Nodetype.BASE:
        name = of[0]
        wanted = str if name == "string" else bool if name == "bool" else float if name.startswith("float") else int
        assert isinstance(value, wanted) and not (wanted is int and isinstance(value, bool)), f"{where} must be of type {wanted}"
        if wanted is int:
            low, high = np.iinfo(name).min, np.iinfo(name).max
            assert low <= value <= high, f"{where} must be in [{low}, {high}]"
        return value
    if node == Nodetype.NAME:
        assert isinstance(value, message_class(of)), f"{where} must be a {of}, not {type(value).__name__}"
        return value
    item, size = of
    if item[0] == Nodetype.BASE and item[1][0] in _CODES:
        code = _CODES[item[1][0]]
        if node == Nodetype.ARRAY:
            assert isinstance(value, np.ndarray) and value.dtype == item[1][0] and value.size == size, where
            return value
        assert not isinstance(value, np.ndarray), f"{where} must be an array.array or a sequence"
        assert not isinstance(value, array) or value.typecode == code, f"{where} must be an array of {code}"
        return value if isinstance(value, array) else array(code, value)
    assert isinstance(value, (list, tuple)), f"{where} must be a sequence"
    return [_checked(item, entry, where) for entry in value]


def from_bag(message: Any) -> Any:
    """A message of ``rosbags`` as rclpy would have handed it over."""
    kind = message.__msgtype__
    return message_class(kind)(**{
        name: _converted(what, getattr(message, name)) for name, what in _STORE.fielddefs[kind][1]
    })  # fmt: skip


def _converted(what: Any, value: Any) -> Any:
    node, of = what
    if node == Nodetype.NAME:
        return from_bag(value)
    if node == Nodetype.SEQUENCE and of[0][0] == Nodetype.BASE and of[0][1][0] in _CODES:
        return array(_CODES[of[0][1][0]], np.asarray(value, of[0][1][0]).tobytes())
    if node in (Nodetype.SEQUENCE, Nodetype.ARRAY) and of[0][0] == Nodetype.NAME:
        return [from_bag(entry) for entry in value]
    return value


# --- topics


class Reliability(Enum):
    RELIABLE, BEST_EFFORT = 1, 2


class Durability(Enum):
    VOLATILE, TRANSIENT_LOCAL = 1, 2


class History(Enum):
    KEEP_LAST, KEEP_ALL = 1, 2


class QoSProfile(SimpleNamespace):
    def __init__(self, **given: Any) -> None:
        plain = dict(reliability=Reliability.RELIABLE, durability=Durability.VOLATILE, history=History.KEEP_LAST, depth=10)
        assert set(given) <= set(plain)
        super().__init__(**{**plain, **given})


def matches(offered: QoSProfile, asked: QoSProfile) -> bool:
    """Whether a subscription gets what a publisher sends: it may ask for less, never for more."""
    unreliable = offered.reliability is Reliability.BEST_EFFORT and asked.reliability is Reliability.RELIABLE
    forgetful = offered.durability is Durability.VOLATILE and asked.durability is Durability.TRANSIENT_LOCAL
    return not unreliable and not forgetful


class World:
    """All topics: what others publish, and who listens."""

    def __init__(self) -> None:
        self.types: dict[str, str] = {}
        self.qualities: dict[str, QoSProfile] = {}
        self.kept: dict[str, list[Any]] = {}  # for who joins late
        self.subscriptions: list[SimpleNamespace] = []
        self.sent: list[tuple[str, Any]] = []  # by the node
        self.now_ns = 0

    def advertise(self, topic: str, kind: str, **quality: Any) -> None:
        self.types[topic], self.qualities[topic] = kind, QoSProfile(**quality)

    def publish(self, topic: str, message: Any) -> None:
        assert isinstance(message, message_class(self.types[topic]))
        if self.qualities[topic].durability is Durability.TRANSIENT_LOCAL:
            self.kept.setdefault(topic, []).append(message)
        for subscription in list(self.subscriptions):
            if subscription.topic == topic and matches(self.qualities[topic], subscription.quality):
                subscription.callback(message)


# --- nodes


class Answer(Enum):
    SUCCESS, FAILURE, ERROR = 1, 2, 3


class InvalidParameterValueException(Exception):
    pass


class LifecyclePublisher:
    def __init__(self, node: LifecycleNode, kind: type, topic: str) -> None:
        self.node, self.kind, self.topic, self.enabled = node, kind, topic, False

    def publish(self, message: Any) -> None:
        assert isinstance(message, self.kind)
        if self.enabled:  # else the real one says so once, and drops it
            self.node.world.sent.append((self.topic, message))


class LifecycleNode:
    world: World  # set where the stand-in is installed

    def __init__(self, name: str, parameter_overrides: Iterable[tuple[str, Any]] = ()) -> None:
        self.name, self.state, self.log = name, "unconfigured", []
        self._overrides, self._parameters, self._descriptors = dict(parameter_overrides), {}, {}
        self._managed: list[LifecyclePublisher] = []

    # parameters

    def declare_parameter(self, name: str, value: Any, descriptor: Any) -> None:
        self._descriptors[name] = descriptor
        if not self._set(name, self._overrides.get(name, value), type(value)):
            raise InvalidParameterValueException(name)

    def set_parameter(self, name: str, value: Any) -> bool:
        return self._set(name, value, type(self._parameters[name]))

    def get_parameter(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(value=self._parameters[name])

    def _set(self, name: str, value: Any, kind: type) -> bool:
        ranges = [*self._descriptors[name].integer_range, *self._descriptors[name].floating_point_range]
        if type(value) is not kind or any(not r.from_value <= value <= r.to_value for r in ranges):
            return False
        self._parameters[name] = value
        return True

    # topics

    def get_topic_names_and_types(self) -> list[tuple[str, list[str]]]:
        return [(topic, [kind]) for topic, kind in self.world.types.items()]

    def create_subscription(self, kind: type, topic: str, callback: Callable[[Any], None], quality: QoSProfile) -> Any:
        subscription = SimpleNamespace(topic=topic, callback=callback, quality=quality, kind=kind)
        self.world.subscriptions.append(subscription)
        if quality.durability is Durability.TRANSIENT_LOCAL:
            for message in self.world.kept.get(topic, ()):
                callback(message)
        return subscription

    def destroy_subscription(self, subscription: Any) -> None:
        self.world.subscriptions.remove(subscription)

    def create_lifecycle_publisher(self, kind: type, topic: str, quality: QoSProfile | int) -> LifecyclePublisher:
        self._managed.append(LifecyclePublisher(self, kind, topic.replace("~", f"/{self.name}", 1)))
        return self._managed[-1]

    def destroy_lifecycle_publisher(self, publisher: LifecyclePublisher) -> None:
        self._managed.remove(publisher)

    def get_clock(self) -> Any:
        return SimpleNamespace(now=lambda: SimpleNamespace(nanoseconds=self.world.now_ns))

    def get_logger(self) -> Any:
        return SimpleNamespace(**{
            level: lambda text, level=level: self.log.append((level, text)) for level in ("info", "warning", "error")
        })  # fmt: skip

    def destroy_node(self) -> None:
        self.state = "gone"

    # transitions

    def on_activate(self, state: Any) -> Answer:
        for publisher in self._managed:
            publisher.enabled = True
        return Answer.SUCCESS

    def on_deactivate(self, state: Any) -> Answer:
        for publisher in self._managed:
            publisher.enabled = False
        return Answer.SUCCESS

    def _go(self, start: str, callback: Callable[[Any], Answer], goal: str) -> Answer:
        assert self.state == start, f"no such transition from {self.state}"
        try:
            answer = callback(SimpleNamespace(label=start))
        except Exception:  # as in rclpy: whatever is raised is an error of the transition
            answer = Answer.ERROR
        if answer is Answer.SUCCESS:
            self.state = goal
        elif answer is Answer.ERROR:
            try:
                recovered = self.on_error(SimpleNamespace(label="errorprocessing")) is Answer.SUCCESS
            except Exception:
                recovered = False
            self.state = "unconfigured" if recovered else "finalized"
        return answer

    def on_error(self, state: Any) -> Answer:
        return Answer.FAILURE

    def trigger_configure(self) -> Answer:
        return self._go("unconfigured", self.on_configure, "inactive")

    def trigger_activate(self) -> Answer:
        return self._go("inactive", self.on_activate, "active")

    def trigger_deactivate(self) -> Answer:
        return self._go("active", self.on_deactivate, "inactive")

    def trigger_cleanup(self) -> Answer:
        return self._go("inactive", self.on_cleanup, "unconfigured")

    def trigger_shutdown(self) -> Answer:
        return self._go(self.state, self.on_shutdown, "finalized")


def _described(**given: Any) -> SimpleNamespace:
    plain = dict(description="", integer_range=[], floating_point_range=[], additional_constraints="")
    return SimpleNamespace(**(plain | given))


def install(monkeypatch: Any) -> World:
    """Put the stand-in where rclpy and the packages of messages would be; returns the world that its nodes live in."""
    world = World()

    class Here(LifecycleNode):
        pass

    Here.world = world
    modules = {
        "rclpy": {"init": lambda args=None: None, "spin": lambda node: None, "try_shutdown": lambda: None},
        "rclpy.executors": {"ExternalShutdownException": type("ExternalShutdownException", (Exception,), {})},
        "rclpy.lifecycle": {"LifecycleNode": Here, "State": SimpleNamespace, "TransitionCallbackReturn": Answer},
        "rclpy.qos": {
            "QoSProfile": QoSProfile, "ReliabilityPolicy": Reliability, "DurabilityPolicy": Durability, "HistoryPolicy": History,
        },
        "rcl_interfaces": {},
        "rcl_interfaces.msg": {
            "ParameterDescriptor": _described, "IntegerRange": SimpleNamespace, "FloatingPointRange": SimpleNamespace,
        },
    }  # fmt: skip
    for kind in _STORE.fielddefs:
        package, _, name = kind.split("/")
        if package in PACKAGES:
            modules.setdefault(package, {})
            modules.setdefault(f"{package}.msg", {})[name] = message_class(kind)
    for name, members in modules.items():
        module = ModuleType(name)
        module.__dict__.update(members)
        monkeypatch.setitem(sys.modules, name, module)
    return world
