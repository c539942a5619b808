"""How another simulator calls the loop: what it knows of its car becomes ``Sensors``, and a plan is followed until the next one.

``adapter_carla`` is an agent of CARLA's leaderboard and Bench2Drive, ``adapter_alpasim`` a driver service of AlpaSim. Both turn
their inputs into what ``Adapter.step`` takes, and its plan into what they have to answer.

Frames as in ``log``: *global* is right-handed, z up; *ego* has its origin on the ground under the rear axle (x forward, y left);
*lidar* (x right, y forward) is the model's, ``LIDAR_AHEAD_M`` ahead of it and ``LIDAR_UP_M`` up. A car without a lidar has this
frame all the same: the model was trained in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from uniad.data.synthetic.canbus import GRAVITY
from uniad.data.synthetic.curves import Path
from uniad.data.synthetic.dynamics import BRAKE, LATERAL_ACCEL
from uniad.data.synthetic.sensors import yaw_quaternion
from uniad.deploy.sensors import Pose, Sensors
from uniad.errors import UserError
from uniad.formats.layout import CAMERAS
from uniad.geometry.nuscenes import IMAGE_HW
from uniad.postprocess.result import Result
from uniad.simulation.log import FRAME_S, LIDAR_AHEAD_M, PLAN_STEPS
from uniad.simulation.world import STRAIGHT, command_of, later_on_route

F64 = NDArray[np.float64]

LIDAR_UP_M = 1.84
CRUISE_MPS = 9.0  # at which the command's three seconds are looked ahead, where bends allow it
# x of the lidar is the car's right
EGO_FROM_LIDAR = np.array([[0.0, 1.0, 0.0, LIDAR_AHEAD_M], [-1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, LIDAR_UP_M], [0, 0, 0, 1.0]])
LIDAR2EGO = Pose([LIDAR_AHEAD_M, 0.0, LIDAR_UP_M], yaw_quaternion(-np.pi / 2))


class Stepper(Protocol):
    """What drives: ``deploy.runtime.Runtime``, or anything that answers as it does."""

    def step(self, frame: Sensors) -> Result: ...

    def reset(self) -> None: ...


@dataclass(frozen=True)
class Motion:
    """The car at an instant, in a right-handed frame."""

    xy: F64  # [2] rear axle, global
    heading: float  # rad, counter-clockwise from global x
    speed: float  # m/s
    acceleration: tuple[float, float]  # m/s2 along the car and to its left
    yaw_rate: float  # rad/s, counter-clockwise


class Adapter:
    """Frames in, plans out. A model is asked each half second at most; between two frames its plan is followed on."""

    def __init__(self, runtime: Stepper) -> None:
        self.runtime = runtime
        self.reset()

    def reset(self) -> None:
        """Another drive begins."""
        self.runtime.reset()
        self._made_s: float | None = None
        self._path = np.zeros((0, 2))  # global, from where the lidar was when the plan was made

    def due(self, time_s: float) -> bool:
        """Whether the next frame is to be shown now."""
        return self._made_s is None or time_s - self._made_s >= FRAME_S - 1e-3

    def step(
        self,
        images: Mapping[str, NDArray[np.uint8]],
        img_from_ego: Mapping[str, F64],
        motion: Motion,
        time_s: float,
        command: int,
    ) -> F64:
        """Shows the model a frame; returns its plan [P, 2], lidar positions in the global frame, 0.5 s apart.

        images: [h, w, 3] BGR by camera, of any size; img_from_ego: [4, 4] to the pixels of these images. Raises UserError for
        what ``deploy.sensors`` refuses.
        """
        fitted, projections = {}, {}
        for name in images:
            if name in img_from_ego:
                fitted[name], scale = fit_image(images[name])
                projections[name] = scale @ np.asarray(img_from_ego[name], np.float64) @ EGO_FROM_LIDAR
        rotation = yaw_quaternion(motion.heading)
        rates, velocity = (0.0, 0.0, motion.yaw_rate), (motion.speed, 0.0, 0.0)
        can_bus = [*motion.xy, 0.0, *rotation, *motion.acceleration, GRAVITY, *rates, *velocity, 0.0, 0.0]
        result = self.runtime.step(
            Sensors(
                images=fitted,
                lidar2img=projections,
                ego2global=Pose([*motion.xy, 0.0], rotation),
                lidar2ego=LIDAR2EGO,
                time_s=time_s,
                command=command,
                can_bus=np.array(can_bus, np.float64),
            )
        )
        if result.plan is None:
            raise UserError("this model is of stage 1 and plans nothing; drive with an end-to-end model")
        back = global_from_lidar(motion)
        plan = np.asarray(result.plan.path, np.float64)[:PLAN_STEPS] @ back[:2, :2].T + back[:2, 2]
        self._made_s, self._path = time_s, np.concatenate([back[None, :2, 2], plan])
        return plan

    def plan_now(self, time_s: float) -> F64:
        """What is left of the plan [P, 2]: global positions 0.5 s, 1.0 s ... after ``time_s``; its end is held."""
        if self._made_s is None:
            raise UserError("no frame has been shown yet; there is no plan to follow")
        at = (time_s - self._made_s) / FRAME_S + np.arange(1, PLAN_STEPS + 1)
        steps = np.arange(len(self._path))
        return np.stack([np.interp(at, steps, self._path[:, axis]) for axis in (0, 1)], -1)


def global_from_lidar(motion: Motion) -> F64:
    """Plane transform [3, 3]."""
    c, s = np.cos(motion.heading), np.sin(motion.heading)
    return np.array([[s, c, motion.xy[0] + LIDAR_AHEAD_M * c], [-c, s, motion.xy[1] + LIDAR_AHEAD_M * s], [0.0, 0.0, 1.0]])


def to_lidar(points: F64, motion: Motion) -> F64:
    """Global points [n, 2] in the car's lidar frame."""
    inverse = np.linalg.inv(global_from_lidar(motion))
    return np.asarray(points, np.float64) @ inverse[:2, :2].T + inverse[:2, 2]


def fit_image(image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], F64]:
    """An image at the size that configs are made for, and what that does to its projection [4, 4]."""
    height, width = image.shape[:2]
    if (height, width) == IMAGE_HW:
        return np.ascontiguousarray(image), np.eye(4)
    scaled = cv2.resize(image, IMAGE_HW[::-1], interpolation=cv2.INTER_AREA if width > IMAGE_HW[1] else cv2.INTER_LINEAR)
    return scaled, np.diag([IMAGE_HW[1] / width, IMAGE_HW[0] / height, 1.0, 1.0])


def pinhole(fx: float, fy: float, cx: float, cy: float) -> F64:
    """[4, 4] from a camera (x right, y down, z ahead) to its pixels."""
    return np.array([[fx, 0, cx, 0], [0, fy, cy, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])


def img_from_ego(intrinsic: F64, ego_from_camera: F64) -> F64:
    return intrinsic @ np.linalg.inv(ego_from_camera)


class Guide:
    """The command that a route asks for, by the rule of the model's training data: where the car will be in three seconds."""

    def __init__(self, points: F64) -> None:
        """points: [n, 2] global, from behind the car on."""
        points = np.asarray(points, np.float64)
        keep = np.concatenate([[True], np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-3]) if len(points) else []
        points = points[np.asarray(keep, bool)] if len(points) else points
        self._path = Path.through(points) if len(points) > 1 else None
        if self._path is not None:
            self._s, self._v = self._path.speed_limit(CRUISE_MPS, LATERAL_ACCEL, BRAKE)
            self._xy, self._heading = self._path.at(self._s)
        self._now: float | None = None

    def command(self, motion: Motion) -> int:
        """0 right, 1 left, 2 straight; straight without a route."""
        if self._path is None:
            return STRAIGHT
        away = np.linalg.norm(self._xy - motion.xy, axis=1)
        if self._now is not None:  # where a route meets itself, the place nearest to the last one
            away = np.where(np.abs(self._s - self._now) < 30.0, away, np.inf)
        self._now = float(self._s[int(away.argmin())])
        later = later_on_route(self._s, self._xy, self._heading, self._v, self._now, motion.speed)
        return command_of(global_from_lidar(motion), later)


def check_cameras(given: Mapping[str, object], needed: str) -> None:
    """A UserError that names the cameras of the model that are not given."""
    missing = [name for name in CAMERAS if name not in given]
    if missing:
        raise UserError(f"{needed} lacks {', '.join(missing)}; the model looks through {', '.join(CAMERAS)}")
