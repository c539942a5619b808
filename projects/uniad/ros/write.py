"""Bags, written: one MCAP file for a viewer, or a rosbag2 folder."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from uniad.deploy.sensors import Pose
from uniad.errors import UserError
from uniad.files import try_place
from uniad.ros.bag import SUFFIXES, typestore

STATIC = "/tf_static"


class BagWriter:
    """A bag that is there whole, or not at all: it is written beside its place and moved there at the end.

    path: ``NAME.mcap`` or ``NAME.db3`` is one file, another name a rosbag2 folder. storage: of a folder. compressed: by zstd, in
    chunks of an MCAP. Messages are built with ``make`` and written in the order of their times.
    """

    def __init__(self, path: str | Path, storage: str = "mcap", compressed: bool = False) -> None:
        self.path = Path(path)
        check_place(self.path)
        self.single = self.path.suffix in SUFFIXES
        storage = {".mcap": "mcap", ".db3": "sqlite3"}.get(self.path.suffix, storage)
        self.store = typestore()
        from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

        self._beside = self.path.parent / f".{self.path.name}.{os.getpid()}.tmp"
        self._beside.mkdir(parents=True)
        self._folder = self._beside / self.path.stem
        self._writer = Writer(self._folder, version=9, storage_plugin=StoragePlugin[storage.upper()])
        if compressed:
            mode = CompressionMode.STORAGE if storage == "mcap" else CompressionMode.MESSAGE
            self._writer.set_compression(mode, CompressionFormat.ZSTD)
        self._connections: dict[str, Any] = {}

    def __enter__(self) -> BagWriter:
        self._writer.open()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and not self._connections:
                raise UserError(f"{self.path}: there is no message to write")
            if kind is not None:
                self._writer.abort()
                return
            self._writer.close()
            if self.single:
                (written,) = (file for file in self._folder.iterdir() if file.suffix in SUFFIXES)
                os.replace(written, self.path)
            else:
                os.replace(self._folder, self.path)
        finally:
            shutil.rmtree(self._beside, ignore_errors=True)

    def make(self, kind: str, **fields: Any) -> Any:
        """A message of a type such as ``nav_msgs/msg/Path``."""
        return self.store.types[kind](**fields)

    def write(self, topic: str, log_ns: int, message: Any) -> None:
        kind = message.__msgtype__
        if topic not in self._connections:
            self._connections[topic] = self._writer.add_connection(
                topic, kind, typestore=self.store, offered_qos_profiles=[_latched()] if topic == STATIC else []
            )
        self._writer.write(self._connections[topic], log_ns, self.store.serialize_cdr(message, kind))


def check_place(path: Path) -> None:
    """UserError where no bag can be written. A file is written over, a folder is not."""
    if path.suffix == ".bag":
        raise UserError(f"{path}: bags of ROS 1 are not written; give a name that ends in .mcap, or a folder's")
    if path.is_dir() if path.suffix in SUFFIXES else path.exists():
        raise UserError(f"{path} exists; remove it, or choose another name")
    try_place(path)


def _latched() -> Any:
    """The quality of service that /tf_static has: who joins late gets it, too."""
    from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime

    never = QosTime(2147483647, 4294967295)
    return Qos(
        QosHistory.KEEP_LAST, 1, QosReliability.RELIABLE, QosDurability.TRANSIENT_LOCAL, never, never, QosLiveliness.AUTOMATIC,
        never, False,
    )  # fmt: skip


class Maker:
    """Small messages that every other one is made of. make: as ``BagWriter.make``, or rclpy's classes behind the same call."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def time(self, stamp_ns: int) -> Any:
        return self.make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)

    def header(self, stamp_ns: int, frame: str) -> Any:
        return self.make("std_msgs/msg/Header", stamp=self.time(stamp_ns), frame_id=frame)

    def vector(self, xyz: Any) -> Any:
        x, y, z = map(float, xyz)
        return self.make("geometry_msgs/msg/Vector3", x=x, y=y, z=z)

    def point(self, xyz: Any) -> Any:
        x, y, z = map(float, xyz)
        return self.make("geometry_msgs/msg/Point", x=x, y=y, z=z)

    def quaternion(self, wxyz: Any) -> Any:
        w, x, y, z = map(float, wxyz)
        return self.make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)

    def yaw(self, angle: float) -> Any:
        return self.quaternion((np.cos(angle / 2), 0.0, 0.0, np.sin(angle / 2)))

    def pose(self, pose: Pose) -> Any:
        return self.make(
            "geometry_msgs/msg/Pose", position=self.point(pose.translation), orientation=self.quaternion(pose.rotation)
        )

    def transform(self, stamp_ns: int, parent: str, child: str, pose: Pose) -> Any:
        moved = self.make(
            "geometry_msgs/msg/Transform",
            translation=self.vector(pose.translation),
            rotation=self.quaternion(pose.rotation),
        )
        return self.make(
            "geometry_msgs/msg/TransformStamped", header=self.header(stamp_ns, parent), child_frame_id=child, transform=moved
        )

    def transforms(self, *transforms: Any) -> Any:
        return self.make("tf2_msgs/msg/TFMessage", transforms=list(transforms))
