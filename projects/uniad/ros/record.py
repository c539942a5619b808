"""A scene of a dataset as a car would have recorded it: the bag that tests and the demo run along."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from uniad.config.spec import DataSpec
from uniad.data.dataset import Split
from uniad.data.tables import Tables
from uniad.data.transforms import decode
from uniad.deploy.sensors import CheckedPose as Pose
from uniad.deploy.sources import DatasetFrames
from uniad.errors import UserError
from uniad.files import read_outside
from uniad.formats.canbus import read_messages
from uniad.formats.layout import CAMERAS, LIDAR
from uniad.geometry.nuscenes import IMAGE_HW
from uniad.ros.transforms import PoseSeries, between
from uniad.ros.write import STATIC, BagWriter, Maker

ENCODINGS = ("jpeg", "rgb8", "bgr8")
BASE, WORLD = "base_link", "map"
LIDAR_FRAME, LIDAR_TOPIC = LIDAR.lower(), f"/{LIDAR.lower()}/points"
ODOMETRY, IMU, COMMAND = "/odometry", "/imu", "/command"
POINT_FIELDS = ("x", "y", "z", "intensity", "ring")  # float32 each, as nuScenes stores a sweep


def image_topic(camera: str, encoding: str) -> str:
    return f"/{camera.lower()}/image_raw" + "/compressed" * (encoding == "jpeg")


def record_scene(
    spec: DataSpec,
    split: Split,
    wanted: str,
    writer: BagWriter,
    encoding: str = "jpeg",
    sweeps: bool = False,
    most: int | None = None,
    lose: float = 0.0,
    progress: Callable[[], None] = lambda: None,
) -> int:
    """Write a scene (by number, name or token) to an open bag; returns the number of its messages.

    Images (``jpeg``: the file's bytes; rgb8, bgr8: its pixels) and calibrations of six cameras, the lidar's points, odometry,
    IMU, TF and command. sweeps: what was recorded between keyframes, too. most: keyframes. lose: this share of images
    is not there, always the same ones, to see what becomes of it.
    """
    if encoding not in ENCODINGS:
        raise UserError(f"encoding {encoding!r} is unknown: choose {', '.join(ENCODINGS)}")
    frames = DatasetFrames(spec, split)
    scene = frames.scene(wanted, most)
    root = Path(spec.data_root)
    tables = Tables(root, frames.table.version)
    tokens = [str(frames.table.token[key]) for key in scene.keys]
    data = {channel: _along(tables, tokens, channel, sweeps) for channel in (*CAMERAS, LIDAR)}
    make, lost = Maker(writer.make), np.random.default_rng(0)
    messages: list[tuple[int, int, str, Callable[[], Any]]] = []

    def put(stamp_ns: int, rank: int, topic: str, build: Callable[[], Any]) -> None:
        messages.append((stamp_ns, rank, topic, build))

    poses, static = PoseSeries(), []
    for channel, records in data.items():
        frame = channel.lower()
        mount = tables.get("calibrated_sensor", records[0]["calibrated_sensor_token"])
        static.append((frame, _pose(mount)))
        for record in records:
            stamp = record["timestamp"] * 1000
            ego = tables.get("ego_pose", record["ego_pose_token"])
            poses.add(stamp, _pose(ego))
            path = root / record["filename"]
            if channel == LIDAR:
                put(stamp, 3, LIDAR_TOPIC, lambda stamp=stamp, path=path: _points(make, stamp, path))
                continue
            if lost.random() < lose:
                continue
            topic = image_topic(channel, encoding)
            put(stamp, 2, f"/{frame}/camera_info", lambda stamp=stamp, frame=frame, mount=mount: _info(make, stamp, frame, mount))
            put(stamp, 3, topic, lambda stamp=stamp, frame=frame, path=path: _image(make, stamp, frame, path, encoding))
    first, last = poses.entries[0][0], poses.entries[-1][0]
    put(first, 0, STATIC, lambda: make.transforms(*(make.transform(first, BASE, frame, pose) for frame, pose in static)))
    times_us = np.array([data[LIDAR][0]["timestamp"], data[LIDAR][-1]["timestamp"]])
    name = tables.get("scene", tables.get("sample", tokens[0])["scene_token"])["name"]
    can_bus = read_messages(root, name, times_us, may_lack=True)
    can_bus = [m for m in can_bus if first - 10**9 <= m["utime"] * 1000 <= last + 10**8]
    velocities = sorted((m["utime"] * 1000, m) for m in {m["utime"]: m for m in can_bus}.values()) if can_bus else []
    stamps = {stamp for stamp, _ in poses.entries} | {stamp for stamp, _ in velocities if stamp >= first}
    for stamp in sorted(stamps):
        following = next((m for at, m in velocities if at >= stamp), velocities[-1][1] if velocities else None)
        put(stamp, 1, ODOMETRY, lambda stamp=stamp, m=following: _odometry(make, stamp, _pose_at(poses, stamp), m))
        put(stamp, 1, "/tf", lambda stamp=stamp: make.transforms(make.transform(stamp, WORLD, BASE, _pose_at(poses, stamp))))
    for stamp, message in velocities:
        put(stamp, 1, IMU, lambda stamp=stamp, m=message: _imu(make, stamp, m))
    for key in scene.keys:
        stamp, command = int(frames.table.timestamp_us[key]) * 1000, frames.labeller.command(key)
        put(stamp, 1, COMMAND, lambda command=command: writer.make("std_msgs/msg/Int8", data=command))
    for stamp, _, topic, build in sorted(messages, key=lambda entry: entry[:3]):
        writer.write(topic, stamp, build())
        if topic == LIDAR_TOPIC:
            progress()
    return len(messages)


def _along(tables: Tables, tokens: list[str], channel: str, sweeps: bool) -> list[dict[str, Any]]:
    """Records of a sensor at the keyframes, or from the first one to the last."""
    keyframes = [tables.get("sample_data", tables.get("sample", token)["data"][channel]) for token in tokens]
    if not sweeps:
        return keyframes
    records = [keyframes[0]]
    while records[-1]["token"] != keyframes[-1]["token"] and records[-1]["next"]:
        records.append(tables.get("sample_data", records[-1]["next"]))
    return records


def _pose(record: dict[str, Any]) -> Pose:
    return Pose(np.asarray(record["translation"], np.float64), np.asarray(record["rotation"], np.float64))


def _pose_at(poses: PoseSeries, stamp: int) -> Pose:
    """Between two recorded poses, however far apart they are, or carried on past the last."""
    (start, a), (end, b) = poses.around(stamp)
    if stamp in (start, end):
        return a if stamp == start else b
    return between(a, b, (stamp - start) / (end - start))


def _image(make: Maker, stamp: int, frame: str, path: Path, encoding: str) -> Any:
    header = make.header(stamp, frame)
    if encoding == "jpeg":
        content = np.frombuffer(read_outside(path), np.uint8)
        return make.make("sensor_msgs/msg/CompressedImage", header=header, format="jpeg", data=content)
    image = decode(path)
    if encoding == "rgb8":
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    height, width = image.shape[:2]
    return make.make(
        "sensor_msgs/msg/Image", header=header, height=height, width=width, encoding=encoding, is_bigendian=0, step=3 * width,
        data=image.reshape(-1),
    )  # fmt: skip


def _info(make: Maker, stamp: int, frame: str, mount: dict[str, Any]) -> Any:
    k = np.asarray(mount["camera_intrinsic"], np.float64)
    whole = make.make("sensor_msgs/msg/RegionOfInterest", x_offset=0, y_offset=0, height=0, width=0, do_rectify=False)
    p = np.hstack((k, np.zeros((3, 1)))).reshape(-1)
    height, width = IMAGE_HW
    return make.make(
        "sensor_msgs/msg/CameraInfo", header=make.header(stamp, frame), height=height, width=width, distortion_model="plumb_bob",
        d=np.zeros(5), k=k.reshape(-1), r=np.eye(3).reshape(-1), p=p, binning_x=0, binning_y=0, roi=whole,
    )  # fmt: skip


def _points(make: Maker, stamp: int, path: Path) -> Any:
    points = np.frombuffer(read_outside(path), np.uint8)
    size = 4 * len(POINT_FIELDS)
    count = points.size // size
    fields = [
        make.make("sensor_msgs/msg/PointField", name=name, offset=4 * number, datatype=7, count=1)
        for number, name in enumerate(POINT_FIELDS)
    ]
    return make.make(
        "sensor_msgs/msg/PointCloud2", header=make.header(stamp, LIDAR_FRAME), height=1, width=count, fields=fields,
        is_bigendian=False, point_step=size, row_step=size * count, data=points[: size * count], is_dense=True,
    )  # fmt: skip


def _odometry(make: Maker, stamp: int, pose: Pose, message: dict[str, Any] | None) -> Any:
    still = {"vel": (0.0, 0.0, 0.0), "rotation_rate": (0.0, 0.0, 0.0)}
    moving = message or still
    twist = make.make("geometry_msgs/msg/Twist", linear=make.vector(moving["vel"]), angular=make.vector(moving["rotation_rate"]))
    unknown = np.zeros(36)
    return make.make(
        "nav_msgs/msg/Odometry", header=make.header(stamp, WORLD), child_frame_id=BASE,
        pose=make.make("geometry_msgs/msg/PoseWithCovariance", pose=make.pose(pose), covariance=unknown),
        twist=make.make("geometry_msgs/msg/TwistWithCovariance", twist=twist, covariance=unknown),
    )  # fmt: skip


def _imu(make: Maker, stamp: int, message: dict[str, Any]) -> Any:
    unknown = np.zeros(9)
    return make.make(
        "sensor_msgs/msg/Imu", header=make.header(stamp, BASE), orientation=make.quaternion(message["orientation"]),
        orientation_covariance=unknown, angular_velocity=make.vector(message["rotation_rate"]),
        angular_velocity_covariance=unknown, linear_acceleration=make.vector(message["accel"]),
        linear_acceleration_covariance=unknown,
    )  # fmt: skip
