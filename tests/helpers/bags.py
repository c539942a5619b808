"""Bags that were recorded, and what may be wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from uniad.config.spec import DataSpec
from uniad.postprocess.result import Forecasts, Objects, Plan, Result
from uniad.ros.bag import typestore
from uniad.ros.record import record_scene
from uniad.ros.write import BagWriter

Message = tuple[str, int, Any]  # topic, time of recording (ns), message


def record(spec: DataSpec, path: Path, **how: Any) -> Path:
    """The dataset's first scene as a bag."""
    into = {key: how.pop(key) for key in ("storage", "compressed") if key in how}
    with BagWriter(path, **into) as writer:
        record_scene(spec, "val", "0", writer, **how)
    return path


def messages_of(path: Path) -> list[Message]:
    from rosbags.rosbag2 import Reader

    store = typestore()
    with Reader(path) as reader:
        return [(c.topic, ns, store.deserialize_cdr(data, c.msgtype)) for c, ns, data in reader.messages()]


def write(path: Path, messages: Iterable[Message], **into: Any) -> Path:
    with BagWriter(path, **into) as writer:
        for topic, stamp, message in messages:
            writer.write(topic, stamp, message)
    return path


def changed(messages: Iterable[Message], path: Path, change: Callable[[str, int, Any], Iterable[Message]], **into: Any) -> Path:
    """A bag whose every message is what ``change`` makes of it."""
    return write(path, (new for old in messages for new in change(*old)), **into)


def drawn_objects() -> Objects:
    boxes = [[3.0, 12.0, -1.8, 1.9, 4.6, 1.7, -0.4, 0.0, 5.0], [-6.0, 2.0, -1.8, 0.7, 0.7, 1.8, 1.2, 0.5, 0.0]]
    return Objects(np.array(boxes, np.float32), np.array([0, 8]), np.array([0.9, 0.5], np.float32), np.array([7, 11]))


def drawn_result(rows: int = 30, columns: int = 40) -> Result:
    """Of stage 2, a few things of each kind."""
    lanes = np.zeros((3, rows, columns), bool)
    lanes[1, 2, 3] = True
    drivable = np.zeros((rows, columns), bool)
    drivable[5, 1] = True
    occupancy = np.zeros((5, 20, 20), bool)
    occupancy[0, 4, 2] = occupancy[4, 7, 9] = True
    path = np.stack([np.zeros(6), np.arange(1.0, 7.0)], 1).astype(np.float32)
    forecasts = Forecasts(
        np.array([7]), np.array([[3.0, 12.0, -1.8]], np.float32), np.array([0]), np.ones((1, 2, 4, 2), np.float32),
        np.array([[0.8, 0.2]], np.float32),
    )  # fmt: skip
    none = Objects(*(values[:0] for values in vars(drawn_objects()).values()))
    ids = np.full(occupancy.shape, -1)
    return Result(drawn_objects(), drawn_objects(), none, lanes, drivable, forecasts, occupancy, ids, Plan(path, path + 1, 2))
