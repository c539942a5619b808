"""What a car's drivers deliver, checked and turned into the step's input: the dataset's own arithmetic, on live data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uniad.config.spec import BENCH2DRIVE, UPSTREAM, DataSpec, ImageSpec
from uniad.data.transforms import check_size, each_image, finish, resampler, scaled_projection
from uniad.errors import UserError
from uniad.geometry import transforms as tf
from uniad.interface.command import check_command
from uniad.interface.types import Frame, FrameArrays

F64 = NDArray[np.float64]
UNIT_TOLERANCE = 1e-2  # of a quaternion's length: what writing four digits costs, and far from a mixed-up order of fields


@dataclass(frozen=True)
class Pose:
    """dst_from_src. ROS messages carry x, y, z, w; here w comes first, as in nuScenes."""

    translation: ArrayLike  # [3] m
    rotation: ArrayLike  # [4] quaternion w, x, y, z

    def checked(self, where: str) -> CheckedPose:
        """The same as float64 arrays; a UserError names what is no pose."""
        translation = _numbers(self.translation, (3,), f"{where} translation", "x, y, z in metres")
        rotation = _numbers(self.rotation, (4,), f"{where} rotation", "a quaternion w, x, y, z")
        if abs(np.linalg.norm(rotation) - 1.0) > UNIT_TOLERANCE:
            raise UserError(f"{where} rotation has length {np.linalg.norm(rotation):.3g}; a quaternion w, x, y, z has length 1")
        return CheckedPose(translation, rotation)

    def matrix(self) -> F64:
        return tf.pose_matrix(self.rotation, self.translation)


@dataclass(frozen=True)
class CheckedPose(Pose):
    """A pose that is one, as arrays."""

    translation: F64
    rotation: F64


@dataclass(frozen=True)
class Sensors:
    """One instant as the car's drivers deliver it."""

    images: Mapping[str, NDArray[np.uint8]]  # camera name -> [h, w, 3] BGR, as decoded, at the size the config was made for
    lidar2img: Mapping[str, ArrayLike]  # camera name -> [4, 4], lidar frame (m) to pixels of that image
    ego2global: Pose
    lidar2ego: Pose
    time_s: float  # of any epoch; seconds
    command: int = 2  # of nuScenes 0 right, 1 left, 2 straight; a number of the config's vocabulary
    can_bus: ArrayLike | None = None  # [18] as nuScenes has it; 7:10 acceleration, 10:13 angular rate, 13:16 velocity are used


def prepare(sensors: Sensors, spec: DataSpec, start_s: float, scene_start: bool) -> Frame:
    """``prepare_arrays`` as tensors, for the model in PyTorch."""
    import torch

    return Frame(*map(torch.from_numpy, prepare_arrays(sensors, spec, start_s, scene_start)))


def prepare_arrays(
    sensors: Sensors,
    spec: DataSpec,
    start_s: float,
    scene_start: bool,
    threads: int = 1,
    on_device: Callable[[list[NDArray[np.uint8]], int], Any] | None = None,
) -> FrameArrays:
    """Model input of one instant as numpy arrays, batch of 1. ``start_s``: time of the scene's first frame.

    ``threads`` scale images; no number depends on how many. on_device: makes network images elsewhere, of all cameras' images and
    with so many threads; ``img`` is then what it returns.

    Raises UserError for cameras that are missing or unknown, images of another size or type, matrices and poses that are none,
    and a command outside 0..2.
    """
    for name in ("ego2global", "lidar2ego"):
        if not isinstance(getattr(sensors, name), Pose):
            raise UserError(f"{name} is a {type(getattr(sensors, name)).__name__}; needed is Pose(translation, rotation)")
    cameras = spec.vocabulary.cameras
    _check_cameras(sensors.images, "images", cameras)
    _check_cameras(sensors.lidar2img, "lidar2img", cameras)
    command = _command(sensors.command, spec.vocabulary.commands)
    images = [_pixels(sensors.images[name], name) for name in cameras]
    for name, image in zip(cameras, images, strict=True):
        check_size(image.shape[:2], spec.image, f"of {name}")

    img = (on_device or partial(_network_images, spec.image))(images, threads)
    what = "a projection from the lidar frame to pixels"
    img_from_lidar = np.stack([_numbers(sensors.lidar2img[name], (4, 4), f"lidar2img of {name}", what) for name in cameras])
    ego, lidar = sensors.ego2global.checked("ego2global"), sensors.lidar2ego.checked("lidar2ego")
    global_from_ego = ego.matrix()
    global_from_lidar = global_from_ego @ lidar.matrix()
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused as such
        lidar2img = scaled_projection(img_from_lidar, spec.image.scale).astype(np.float32)
        can_bus = _can_bus(sensors.can_bus, ego, global_from_ego, spec)
        # Points are row vectors here: the rotation is stored transposed, see data.dataset.pose_tensors.
        rotation = global_from_lidar[:3, :3]
        l2g_r = np.ascontiguousarray(rotation if spec.compat.track_pose == BENCH2DRIVE else rotation.T, dtype=np.float32)
        l2g_t = global_from_lidar[:3, 3].astype(np.float32)
    return FrameArrays(
        img=img,
        lidar2img=lidar2img[None],
        can_bus=can_bus[None],
        l2g_r=l2g_r[None],
        l2g_t=l2g_t[None],
        time_s=np.array([check_time(sensors.time_s) - start_s], np.float32),
        scene_start=np.array([scene_start]),
        command=np.array([command], np.int32),
    )


def _network_images(image: ImageSpec, images: list[NDArray[np.uint8]], threads: int) -> NDArray[np.float32]:
    """[1, N, 3, H, W] of all cameras' images."""
    made = np.empty((1, len(images), 3, image.height, image.width), np.float32)

    def scale(number: int) -> None:
        scaler = resampler(images[number].shape[:2], image.scale)
        finish(scaler.pick(images[number]), image, scaler, None, made[0, number])

    each_image(scale, range(len(images)), threads)
    return made


def _pixels(value: ArrayLike, camera: str) -> NDArray[np.uint8]:
    needed = "needed is uint8 [height, width, 3], BGR"
    try:
        image = np.asarray(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # lists of many lengths, a tensor that lies elsewhere
        raise UserError(f"image of {camera} is a {type(value).__name__} that is no array; {needed}") from None
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(f"image of {camera} is {image.dtype}{list(image.shape)}; {needed}")
    return image


def _can_bus(recorded: ArrayLike | None, ego: CheckedPose, global_from_ego: F64, spec: DataSpec) -> NDArray[np.float32]:
    vector = np.zeros(18) if recorded is None else check_can_bus(recorded).copy()
    vector[:3] = ego.translation
    if spec.compat.can_bus_order == BENCH2DRIVE:
        vector[7:16] = np.roll(vector[7:16], 3)  # velocity first
    # Upstream: the quaternion's first component stands in all four places. See data.labels.Labeller.can_bus.
    vector[3:7] = ego.rotation[0] if spec.compat.can_bus_quaternion == UPSTREAM else ego.rotation
    angle_deg = float(np.degrees(tf.heading(global_from_ego))) % 360.0
    vector[16], vector[17] = np.radians(angle_deg), angle_deg
    return vector.astype(np.float32)


def check_can_bus(value: ArrayLike) -> F64:
    """[18] as nuScenes has it, or a UserError."""
    return _numbers(value, (18,), "can_bus", "18 numbers as in nuScenes")


def _check_cameras(given: Mapping[str, Any], what: str, cameras: Sequence[str]) -> None:
    if not isinstance(given, Mapping):
        raise UserError(f"{what} is a {type(given).__name__}; needed is a dict by camera name: {', '.join(cameras)}")
    missing, unknown = [c for c in cameras if c not in given], [c for c in given if c not in cameras]
    if missing or unknown:
        faults = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has unknown {', '.join(map(str, unknown))}"] * bool(unknown)
        raise UserError(f"{what} has {len(given)} of {len(cameras)} cameras: it {' and '.join(faults)}")


def _command(value: Any, names: Sequence[str]) -> int:
    try:
        return int(check_command([value], names=names)[0])
    except (TypeError, ValueError, OverflowError):
        known = ", ".join(f"{number} {name}" for number, name in enumerate(names))
        raise UserError(f"command is {_shown(value)}, which is no driving command; use {known}") from None


def _shown(value: object) -> str:
    """The value as a message quotes it; of one that is long, its kind."""
    if type(value) is int and value.bit_length() > 64:
        return f"an int of {value.bit_length()} bits"
    return repr(value)[:100]


def check_time(value: Any) -> float:
    """Seconds as a float, or a UserError."""
    try:
        time_s = float(value)
    except (TypeError, ValueError, OverflowError):
        time_s = float("nan")
    if not np.isfinite(time_s):
        raise UserError(f"time_s is {_shown(value)}; needed is the time of the images in seconds")
    return time_s


def _numbers(value: ArrayLike, shape: tuple[int, ...], where: str, what: str) -> F64:
    try:
        if np.iscomplexobj(value):
            raise TypeError  # numpy would drop the imaginary part
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise UserError(f"{where} is no array of numbers; needed is {what}, {list(shape)}") from None
    if array.shape != shape:
        raise UserError(f"{where} has shape {list(array.shape)}; needed is {what}, {list(shape)}")
    if not np.isfinite(array).all():
        raise UserError(f"{where} holds a value that is not finite; needed is {what}")
    return array
