"""Bags that were recorded, and what may be wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from uniad.config.spec import DataSpec
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
