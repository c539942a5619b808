"""Fields of ROS 2 messages to arrays, and back. ``docs/car-logs.md`` has the table of types.

Messages are duck-typed: rclpy's and those of ``rosbags`` have the same fields. Quaternions leave as w, x, y, z.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from uniad.data.transforms import decode_bytes
from uniad.deploy.sensors import CheckedPose as Pose
from uniad.errors import UserError
from uniad.interface.command import COMMANDS

F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
CAMERA_INFO, POINTS, IMU = "sensor_msgs/msg/CameraInfo", "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/Imu"
ODOMETRY, TF = "nav_msgs/msg/Odometry", "tf2_msgs/msg/TFMessage"
INTEGERS = tuple(f"std_msgs/msg/{sign}Int{bits}" for sign in ("", "U") for bits in (8, 16, 32, 64))
STRING = "std_msgs/msg/String"

# encoding: channels as stored, and how OpenCV turns them to BGR. YUV 4:2:2 has two bytes a pixel.
ENCODINGS: dict[str, tuple[int, int | None]] = {
    "bgr8": (3, None),
    "rgb8": (3, cv2.COLOR_RGB2BGR),
    "bgra8": (4, cv2.COLOR_BGRA2BGR),
    "rgba8": (4, cv2.COLOR_RGBA2BGR),
    "mono8": (1, cv2.COLOR_GRAY2BGR),
    **dict.fromkeys(("yuv422", "uyvy"), (2, cv2.COLOR_YUV2BGR_UYVY)),
    **dict.fromkeys(("yuv422_yuy2", "yuyv"), (2, cv2.COLOR_YUV2BGR_YUY2)),
    # OpenCV names a pattern by its second row and column, ROS by its first.
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2BGR),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2BGR),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2BGR),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2BGR),
}
UNIT_TOLERANCE = 1e-2  # of a quaternion's length


def time_ns(seconds: int, nanoseconds: int, where: str = "a header") -> int:
    """A time of ROS as one whole number. UserError for one before 1970, which no clock has, and for a second of many seconds."""
    if seconds < 0 or not 0 <= nanoseconds < 1_000_000_000:
        raise UserError(f"{where}: its time is {seconds} s and {nanoseconds} ns: it is damaged, or its clock is wrong")
    return seconds * 1_000_000_000 + nanoseconds


def nanoseconds(stamp: Any, where: str = "a header") -> int:
    """A builtin_interfaces Time as one whole number."""
    return time_ns(int(stamp.sec), int(stamp.nanosec), where)


def image(message: Any, where: str) -> U8:
    """BGR [h, w, 3] of an Image or a CompressedImage. UserError for other encodings, and for fewer bytes than it claims."""
    if hasattr(message, "format"):
        return decode_bytes(jpeg_bytes(message), where, "record it again, or leave it out")
    encoding = message.encoding.strip()
    if encoding.lower() not in ENCODINGS:
        raise UserError(f"{where}: encoding {encoding!r} cannot be read; supported are {', '.join(ENCODINGS)}")
    channels, code = ENCODINGS[encoding.lower()]
    height, width, step = int(message.height), int(message.width), int(message.step)
    data = np.frombuffer(memoryview(message.data), np.uint8)  # an array of NumPy, or array.array of rclpy
    if not height or not width or step < width * channels or data.size != step * height:
        raise UserError(
            f"{where}: {width}x{height} {encoding} in rows of {step} bytes needs {max(step, width * channels) * height} bytes, "
            f"the message has {data.size}"
        )
    pixels = data.reshape(height, step)[:, : width * channels].reshape(height, width, channels)
    if code is None:
        return np.ascontiguousarray(pixels)
    if channels == 2 and width % 2:
        raise UserError(f"{where}: {encoding} stores pairs of pixels, and {width} columns are no pairs")
    return cv2.cvtColor(np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels), code)


def jpeg_bytes(message: Any) -> bytes:
    """The file, JPEG or PNG, that a CompressedImage holds."""
    return bytes(memoryview(message.data))


class Lens(NamedTuple):
    """What a CameraInfo says."""

    frame: str
    width: int
    height: int
    model: str
    d: F64  # [n] distortion
    k: F64  # [3, 3] of the image as the camera gives it
    p: F64  # [3, 4] of the rectified image
    r: F64  # [3, 3] rectified from camera

    @property
    def distorted(self) -> bool:
        return bool(np.any(self.d))


MODELS = {"plumb_bob": (4, 5), "rational_polynomial": (8, 12, 14), "equidistant": (4,), "fisheye": (4,)}


def lens(message: Any, where: str) -> Lens:
    """A camera's calibration. UserError for a part of the sensor, a model that is unknown, and an uncalibrated camera."""
    d, k, r, p = (_numbers(getattr(message, name), f"{where}: {name}") for name in "dkrp")
    if k.size != 9 or r.size != 9 or p.size != 12:
        raise UserError(f"{where}: k, r and p have {k.size}, {r.size} and {p.size} numbers; needed are 9, 9 and 12")
    if k[0] <= 0 or k[4] <= 0:
        raise UserError(f"{where}: focal lengths {k[0]:g} and {k[4]:g}: the camera is not calibrated; give a calibration file")
    roi = message.roi
    window = bool(roi.x_offset or roi.y_offset or (roi.width and (roi.width, roi.height) != (message.width, message.height)))
    if message.binning_x > 1 or message.binning_y > 1 or window:
        raise UserError(f"{where}: binning or a region of interest is not supported; give the matrix of the image as it is")
    model = message.distortion_model.strip().lower()
    if np.any(d) and (model not in MODELS or d.size not in MODELS[model]):
        known = ", ".join(f"{name} with {' or '.join(map(str, sizes))}" for name, sizes in MODELS.items())
        raise UserError(
            f"{where}: distortion {message.distortion_model!r} of {d.size} coefficients cannot be taken out; known are {known}; "
            "record rectified images, or give a calibration file for rectified ones"
        )
    matrices = k.reshape(3, 3), p.reshape(3, 4), r.reshape(3, 3) if np.any(r) else np.eye(3)
    return Lens(message.header.frame_id, int(message.width), int(message.height), model, d, *matrices)


class Motion(NamedTuple):
    """What an Odometry says."""

    frame: str  # of the pose
    child: str  # of the car, and of the velocities
    pose: Pose
    velocity: F64  # [3] m/s
    rate: F64  # [3] rad/s


def motion(message: Any, where: str) -> Motion:
    twist = message.twist.twist
    return Motion(
        message.header.frame_id,
        message.child_frame_id,
        pose(message.pose.pose.position, message.pose.pose.orientation, where),
        _xyz(twist.linear, where),
        _xyz(twist.angular, where),
    )


class Inertia(NamedTuple):
    """What an Imu says."""

    frame: str
    acceleration: F64  # [3] m/s2
    rate: F64  # [3] rad/s


def inertia(message: Any, where: str) -> Inertia:
    return Inertia(message.header.frame_id, _xyz(message.linear_acceleration, where), _xyz(message.angular_velocity, where))


def edge(message: Any, where: str) -> tuple[str, str, Pose]:
    """A TransformStamped: parent, child, and parent_from_child. Leading slashes of ROS 1 names go."""
    parent, child = message.header.frame_id.lstrip("/"), message.child_frame_id.lstrip("/")
    if not parent or not child or parent == child:
        raise UserError(f"{where}: a transform from {child!r} to {parent!r} joins no two frames")
    return parent, child, pose(message.transform.translation, message.transform.rotation, f"{where}: {parent} from {child}")


def pose(position: Any, orientation: Any, where: str) -> Pose:
    rotation = _numbers([getattr(orientation, axis) for axis in "wxyz"], where)
    if abs(np.linalg.norm(rotation) - 1) > UNIT_TOLERANCE:
        raise UserError(f"{where}: the quaternion has length {np.linalg.norm(rotation):.3g}; that of a rotation is 1")
    return Pose(_xyz(position, where), rotation)


def command(message: Any, where: str) -> int:
    """A driving command from a whole number or a word."""
    value = message.data
    if isinstance(value, str):
        word = value.strip().lower().removeprefix("turn_").removeprefix("go_")
        if word in COMMANDS:
            return COMMANDS.index(word)
        if not word.isdecimal():
            raise UserError(f"{where}: the command is {value[:40]!r}; needed is one of {', '.join(COMMANDS)}")
        value = int(word)
    if not 0 <= int(value) < len(COMMANDS):
        names = ", ".join(f"{number} {name}" for number, name in enumerate(COMMANDS))
        raise UserError(f"{where}: the command is {value}; needed is one of {names}")
    return int(value)


def _xyz(vector: Any, where: str) -> F64:
    return _numbers([vector.x, vector.y, vector.z], where)


def _numbers(values: Any, where: str) -> F64:
    array = np.asarray(values, np.float64)
    if not np.isfinite(array).all():
        raise UserError(f"{where} holds a value that is not finite")
    return array
