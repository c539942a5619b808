"""What goes wrong on a car: each fault takes the frames that its drivers deliver and hands on what then arrives at the runtime.

    deliver = FAULTS["CameraFrozen"].begin(severity=2, seed=0, scene="scene-0103")
    sensors = deliver(sensors)      # frame after frame; None: this frame never arrives

A fault knows the raw sensors alone, as a car would have them, so it stands before any back end and before the simulator's loop.
Severity 0 hands the very same object on. What is drawn follows from the seed, the fault, its severity, the scene and the frame's
number, so neither the other frames nor the number of processes matter.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniad.assess.corruptions import CORRUPTIONS, Corruption
from uniad.deploy.sensors import Pose, Sensors
from uniad.errors import UserError
from uniad.formats.layout import CAMERAS
from uniad.interface.command import COMMANDS

SEVERITIES = (1, 2, 3)
IMAGES, CAR = "corrupted images (RoboBEV)", "faults of a car"
FORWARD = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT")  # in the order of what a plan needs

Draw = Callable[..., np.random.Generator]  # by any whole numbers: the same ones, the same generator
Deliver = Callable[[Sensors], "Sensors | None"]
Step = Callable[[Sensors, int], "Sensors | None"]  # the same with the frame's number in its scene, from 0


@dataclass(frozen=True)
class Fault:
    """One row of the table. ``levels``: what severity 1, 2 and 3 mean, and ``told`` the same in words."""

    name: str
    group: str
    told: str
    levels: tuple[Any, Any, Any]
    make: Callable[[Any, Draw], Step]

    def begin(self, severity: int, seed: int, scene: str) -> Deliver:
        """What stands between the drivers and the runtime along one scene. Frames in order, each once."""
        if severity == 0:
            return lambda sensors: sensors
        check_severity(severity)
        key = (seed, zlib.crc32(self.name.encode()), severity, zlib.crc32(scene.encode()))
        step = self.make(self.levels[severity - 1], lambda *more: np.random.default_rng((*key, *more)))
        number = -1

        def deliver(sensors: Sensors) -> Sensors | None:
            nonlocal number
            number += 1
            return step(sensors, number)

        return deliver


def check_severity(severity: int) -> None:
    if severity not in (0, *SEVERITIES):
        raise UserError(f"severity {severity} is unknown: choose 1, 2 or 3 (easy, mid and hard), or 0, which changes nothing")


def find_faults(names: Sequence[str]) -> list[Fault]:
    """By name, in any case; ``all``: every one."""
    if [name.lower() for name in names] == ["all"]:
        return list(FAULTS.values())
    known = {name.lower(): fault for name, fault in FAULTS.items()}
    for name in names:
        if name.lower() not in known:
            raise UserError(f"fault {name!r} is unknown: choose all, or of {', '.join(FAULTS)}")
    wanted = {name.lower() for name in names}
    return [fault for name, fault in known.items() if name in wanted]


def _with_images(sensors: Sensors, images: Mapping[str, NDArray[np.uint8]]) -> Sensors:
    return replace(sensors, images={**sensors.images, **images})


def _corrupted(corruption: Corruption) -> Callable[[Any, Draw], Step]:
    def make(level: Any, draw: Draw) -> Step:
        def step(sensors: Sensors, number: int) -> Sensors:
            images = {
                name: corruption(image, level, draw(number, camera))
                for camera, (name, image) in enumerate(sensors.images.items())
            }
            return replace(sensors, images=images)

        return step

    return make


def _black(sensors: Sensors, cameras: Sequence[str]) -> Sensors:
    return _with_images(sensors, {name: np.zeros_like(sensors.images[name]) for name in cameras})


def _camera_crash(count: int, draw: Draw) -> Step:
    dead = [CAMERAS[i] for i in draw().permutation(len(CAMERAS))[:count]]
    return lambda sensors, number: _black(sensors, dead)


def _frame_lost(share: float, draw: Draw) -> Step:
    def step(sensors: Sensors, number: int) -> Sensors:
        return _black(sensors, [name for name, lost in zip(CAMERAS, draw(number).random(len(CAMERAS)) < share) if lost])

    return step


def _camera_black(count: int, draw: Draw) -> Step:
    return lambda sensors, number: _black(sensors, FORWARD[:count])


def _camera_missing(share: float, draw: Draw) -> Step:
    def step(sensors: Sensors, number: int) -> Sensors:
        if draw(number).random() >= share:
            return sensors
        return replace(sensors, images={name: image for name, image in sensors.images.items() if name != FORWARD[0]})

    return step


def _delayed(cameras: Sequence[str], frames: int | None) -> Step:
    """frames: how late the images come, and None where they are for ever those of the first frame."""
    past: list[dict[str, NDArray[np.uint8]]] = []

    def step(sensors: Sensors, number: int) -> Sensors:
        if frames is not None or not past:
            past.append({name: sensors.images[name] for name in cameras})
        if frames is not None and len(past) > frames + 1:
            past.pop(0)
        return _with_images(sensors, past[0])

    return step


def _swapped(order: Mapping[str, str], draw: Draw) -> Step:
    return lambda sensors, number: _with_images(sensors, {name: sensors.images[other] for name, other in order.items()})


def _miscalibrated(cameras: Sequence[str]) -> Callable[[float, Draw], Step]:
    def make(degrees: float, draw: Draw) -> Step:
        turns = {name: _rotation(draw(CAMERAS.index(name)).normal(size=3), degrees) for name in cameras}

        def step(sensors: Sensors, number: int) -> Sensors:
            believed = {name: turned_camera(np.asarray(sensors.lidar2img[name], np.float64), turns[name]) for name in cameras}
            return replace(sensors, lidar2img={**sensors.lidar2img, **believed})

        return step

    return make


def turned_camera(img_from_lidar: NDArray[np.float64], turn: NDArray[np.float64]) -> NDArray[np.float64]:
    """The projection [4, 4] of the same camera, turned about its own centre by ``turn`` [3, 3], in the camera's axes."""
    # intrinsics (upper triangular) times a rotation: QR takes them apart when rows and columns are counted from the end
    q, r = np.linalg.qr(img_from_lidar[:3, :3][::-1].T)
    intrinsics, signs = r.T[::-1, ::-1], np.sign(np.diag(r)[::-1])
    intrinsics = intrinsics * signs
    out = img_from_lidar.copy()
    out[:3] = intrinsics @ turn @ np.linalg.solve(intrinsics, img_from_lidar[:3])
    return out


def _rotation(axis: NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    x, y, z = axis / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def _frame_drops(share: float, draw: Draw) -> Step:
    # A scene that has not begun yet cannot miss anything.
    return lambda sensors, number: None if number and draw(number).random() < share else sensors


def _time_jitter(deviation_s: float, draw: Draw) -> Step:
    return lambda sensors, number: replace(sensors, time_s=sensors.time_s + draw(number).normal(0, deviation_s))


def _pose_noise(levels: tuple[float, float], draw: Draw) -> Step:
    metres, degrees = levels

    def step(sensors: Sensors, number: int) -> Sensors:
        rng, pose = draw(number), sensors.ego2global
        moved = np.asarray(pose.translation, np.float64) + [*rng.normal(0, metres, 2), 0.0]
        half = np.deg2rad(rng.normal(0, degrees)) / 2
        w, x, y, z = np.asarray(pose.rotation, np.float64)
        c, s = np.cos(half), np.sin(half)  # a turn about the vertical, before the pose's own
        return replace(sensors, ego2global=Pose(moved, np.array([c * w - s * z, c * x - s * y, c * y + s * x, c * z + s * w])))

    return step


def _wrong_command(share: float, draw: Draw) -> Step:
    def step(sensors: Sensors, number: int) -> Sensors:
        rng = draw(number)
        if rng.random() >= share:
            return sensors
        return replace(sensors, command=(sensors.command + int(rng.integers(1, len(COMMANDS)))) % len(COMMANDS))

    return step


def _turned_round(cameras: Sequence[str]) -> dict[str, str]:
    return dict(zip(cameras, [*cameras[1:], cameras[0]]))


_AROUND = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_FRONT_LEFT")
_SWAPS = (
    _turned_round(("CAM_BACK_LEFT", "CAM_BACK_RIGHT")), _turned_round(("CAM_FRONT_LEFT", "CAM_FRONT_RIGHT")),
    _turned_round(_AROUND),
)  # fmt: skip
_SHARES = (0.1, 0.25, 0.5)
_TOLD = {
    "ColorQuant": "4, 3, 2 bits a channel",
    "MotionBlur": "a camera shakes: traces of 31, 31 and 41 pixels, ever flatter",
    "Brightness": "0.2, 0.4, 0.5 more light",
    "LowLight": "night, at most 0.4, 0.3, 0.2 of the light, with noise",
    "Fog": "fog, 2, 2.5, 3 thick",
    "Snow": "falling snow, ever more",
}
FAULTS: Mapping[str, Fault] = {
    fault.name: fault
    for fault in (
        Fault("CameraCrash", IMAGES, "2, 4, 5 cameras black all along", (2, 4, 5), _camera_crash),
        Fault("FrameLost", IMAGES, "each image black by chance, 2/6, 4/6, 5/6", (2 / 6, 4 / 6, 5 / 6), _frame_lost),
        *(Fault(name, IMAGES, _TOLD[name], levels, _corrupted(what)) for name, (what, levels) in CORRUPTIONS.items()),
        Fault("CameraLost", CAR, "black: front; and front left; and front right", (1, 2, 3), _camera_black),
        Fault("CameraMissing", CAR, "no front image at all in 10, 25, 50 % of the frames", _SHARES, _camera_missing),
        Fault("CameraFrozen", CAR, "as in the first frame: front; and front left; and front right", (1, 2, 3),
              lambda count, draw: _delayed(FORWARD[:count], None)),
        Fault("CameraDelayed", CAR, "the front image 1, 2, 3 frames late", (1, 2, 3),
              lambda frames, draw: _delayed(FORWARD[:1], frames)),
        Fault("CameraSwapped", CAR, "both rear side cameras; both front side cameras; all, one place on", _SWAPS, _swapped),
        Fault("Miscalibrated", CAR, "the front camera turned by 0.5, 1, 2 degrees", (0.5, 1.0, 2.0), _miscalibrated(FORWARD[:1])),
        Fault("RigMiscalibrated", CAR, "each camera turned by 0.5, 1, 2 degrees", (0.5, 1.0, 2.0), _miscalibrated(CAMERAS)),
        Fault("FrameDrops", CAR, "10, 25, 50 % of the frames never arrive", _SHARES, _frame_drops),
        Fault("TimeJitter", CAR, "times off by 20, 50, 150 ms (deviation)", (0.02, 0.05, 0.15), _time_jitter),
        Fault("PoseNoise", CAR, "poses off by 0.1 m and 0.1 deg; 0.3 and 0.3; 1 and 1 (deviations)",
              ((0.1, 0.1), (0.3, 0.3), (1.0, 1.0)), _pose_noise),
        Fault("WrongCommand", CAR, "another command in 25, 50, 100 % of the frames", (0.25, 0.5, 1.0), _wrong_command),
    )
}  # fmt: skip
