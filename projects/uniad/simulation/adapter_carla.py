"""The loop as an agent of CARLA's leaderboard, which is how Bench2Drive calls one.

CARLA is not needed here: an agent of theirs is this class with their base class, in a file of a few lines (docs/drive.md).

* ``sensors()`` tells what to put on the car: six cameras, IMU, GNSS, speedometer, as Bench2Drive's own UniAD agent has them;
* ``set_global_plan`` takes the route: pairs ({'lat', 'lon', 'z'}, option) and (transform with .location, option) of equal points;
* ``run_step`` takes a dict: sensor id -> (frame number, data). Cameras are uint8 [h, w, 4] BGRA; GNSS float64 [3] latitude,
  longitude, altitude; IMU float64 [7] accelerometer x y z (m/s2), gyroscope x y z (rad/s), compass (rad); speedometer
  {'speed': m/s}.

It returns throttle, steer and brake, from a PID controller on the plan with the gains that Bench2Drive publishes.

CARLA is left-handed: x ahead, y to the right, z up; seen from above, angles grow clockwise. All that comes in is mirrored: (x, y)
becomes (x, -y), and yaw and its rate change sign. The compass is 0 to the north (-y) and grows clockwise, so that a heading
counter-clockwise from x is pi / 2 - compass.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniad.errors import UserError
from uniad.formats.layout import CAMERAS
from uniad.geometry.nuscenes import IMAGE_HW
from uniad.simulation.adapter import Adapter, Guide, Motion, Stepper, check_cameras, img_from_ego, pinhole, to_lidar
from uniad.simulation.log import FRAME_S

F64 = NDArray[np.float64]

REAR_AXLE_M = -1.4  # along the vehicle, from CARLA's origin in its middle: where Bench2Drive puts IMU and GNSS
EARTH_M = 6378137.0
# id: x, y, yaw (degrees, to the right), field of view (degrees); z is 1.6 m. Bench2Drive's rig.
RIG = {
    "CAM_FRONT": (0.80, 0.0, 0.0, 70.0),
    "CAM_FRONT_RIGHT": (0.27, 0.55, 55.0, 70.0),
    "CAM_FRONT_LEFT": (0.27, -0.55, -55.0, 70.0),
    "CAM_BACK": (-2.0, 0.0, 180.0, 110.0),
    "CAM_BACK_LEFT": (-0.32, -0.55, -110.0, 70.0),
    "CAM_BACK_RIGHT": (-0.32, 0.55, 110.0, 70.0),
}
CAMERA_UP_M = 1.6


@dataclass
class Control:
    """The fields of ``carla.VehicleControl`` that an agent sets."""

    throttle: float = 0.0  # 0 to 1
    steer: float = 0.0  # -1 left to 1 right
    brake: float = 0.0  # 0 to 1


class CarlaAgent:
    """Drives by a model. One instance, one route."""

    def __init__(self, runtime: Stepper) -> None:
        self._loop = Adapter(runtime)
        self._controller = PlanController()
        self._projections = {name: camera_projection(sensor) for sensor in self.sensors() if (name := sensor["id"]) in CAMERAS}
        self._guide = Guide(np.zeros((0, 2)))
        self._reference: tuple[float, float] | None = None

    def sensors(self) -> list[dict[str, Any]]:
        """What the leaderboard puts on the car."""
        height, width = IMAGE_HW
        axle = {"x": REAR_AXLE_M, "y": 0.0, "z": 0.0, "roll": 0.0, "pitch": 0.0, "yaw": 0.0}
        cameras = [
            {"type": "sensor.camera.rgb", "x": x, "y": y, "z": CAMERA_UP_M, "roll": 0.0, "pitch": 0.0, "yaw": yaw,
             "width": width, "height": height, "fov": fov, "id": name}
            for name, (x, y, yaw, fov) in RIG.items()
        ]  # fmt: skip
        return [
            *cameras,
            {"type": "sensor.other.imu", **axle, "sensor_tick": 0.05, "id": "IMU"},
            {"type": "sensor.other.gnss", **axle, "sensor_tick": 0.01, "id": "GPS"},
            {"type": "sensor.speedometer", "reading_frequency": 20, "id": "SPEED"},
        ]

    def set_global_plan(
        self, global_plan_gps: Sequence[tuple[Any, Any]], global_plan_world_coord: Sequence[tuple[Any, Any]]
    ) -> None:
        """The route, dense, before its first step."""
        if not global_plan_gps or len(global_plan_gps) != len(global_plan_world_coord):
            counts = f"{len(global_plan_gps)} and {len(global_plan_world_coord)}"
            raise UserError(
                f"the global plan has {counts} points by GPS and in the world; it needs the same number, at least one"
            )
        places = [transform.location for transform, _ in global_plan_world_coord]
        first = global_plan_gps[0][0]
        self._reference = gps_reference(float(first["lat"]), float(first["lon"]), float(places[0].x), float(places[0].y))
        self._guide = Guide(np.array([[place.x, -place.y] for place in places], np.float64))
        self._loop.reset()
        self._controller = PlanController()

    def run_step(self, input_data: Mapping[str, tuple[int, Any]], timestamp: float) -> Control:
        """Controls for the next tick, of 20 a second; the model looks each half second."""
        motion = self.motion(input_data)
        if self._loop.due(timestamp):
            images = {name: bgr_of(input_data[name][1], name) for name in CAMERAS}
            self._loop.step(images, self._projections, motion, timestamp, self._guide.command(motion))
        return self._controller.control(to_lidar(self._loop.plan_now(timestamp), motion), motion.speed)

    def motion(self, input_data: Mapping[str, tuple[int, Any]]) -> Motion:
        """Where the car is and how it moves, by its sensors; right-handed."""
        if self._reference is None:
            raise UserError("no route is known: set_global_plan comes before the first run_step")
        check_cameras(input_data, "input_data")
        for name, length in (("IMU", 7), ("GPS", 3)):
            if name not in input_data or np.shape(input_data[name][1]) != (length,):
                raise UserError(f"input_data needs {name!r} with {length} numbers; it has {sorted(input_data)}")
        if "SPEED" not in input_data or "speed" not in input_data["SPEED"][1]:
            raise UserError("input_data needs 'SPEED' with a 'speed' in m/s")
        # For some frames after a start CARLA's IMU says nothing.
        imu = np.asarray(input_data["IMU"][1], np.float64)
        imu = np.where(np.isfinite(imu).all(), imu, np.zeros(7))
        latitude, longitude = (float(value) for value in input_data["GPS"][1][:2])
        return Motion(
            xy=mirrored(location_of(latitude, longitude, *self._reference)),
            heading=heading_of_compass(float(imu[6])),
            speed=float(input_data["SPEED"][1]["speed"]),
            acceleration=(float(imu[0]), -float(imu[1])),
            yaw_rate=-float(imu[5]),
        )


def bgr_of(image: Any, name: str) -> NDArray[np.uint8]:
    """[h, w, 3] of a camera's BGRA."""
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 4:
        raise UserError(
            f"{name} delivers {array.dtype}{list(array.shape)}; CARLA's cameras deliver uint8 [height, width, 4], BGRA"
        )
    return np.ascontiguousarray(array[:, :, :3])


def mirrored(xy: F64) -> F64:
    """Left-handed [..., 2] to right-handed, or back."""
    return np.asarray(xy, np.float64) * np.array([1.0, -1.0])


def heading_of_compass(compass: float) -> float:
    """Counter-clockwise from x, of CARLA's clockwise from north."""
    return (math.pi / 2 - compass + math.pi) % (2 * math.pi) - math.pi


def camera_projection(sensor: Mapping[str, Any]) -> F64:
    """[4, 4] from the ego frame (rear axle, right-handed) to the pixels of a camera as CARLA is told it."""
    roll, pitch, yaw = (math.radians(sensor[name]) for name in ("roll", "pitch", "yaw"))
    # Unreal: rotations about z, y, x in this order, left-handed. Columns are the camera's x ahead, y right, z up.
    cy, sy, cp, sp, cr, sr = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch), math.cos(roll), math.sin(roll)
    turned = np.array(
        [
            [cp * cy, cy * sp * sr - sy * cr, -cy * sp * cr - sy * sr],
            [cp * sy, sy * sp * sr + cy * cr, -sy * sp * cr + cy * sr],
            [sp, -cp * sr, cp * cr],
        ]
    )
    flip = np.diag([1.0, -1.0, 1.0])
    ahead, right, up = (flip @ turned).T
    ego_from_camera = np.eye(4)
    ego_from_camera[:3, :3] = np.stack([right, -up, ahead], -1)
    ego_from_camera[:3, 3] = sensor["x"] - REAR_AXLE_M, -sensor["y"], sensor["z"]
    width, height = sensor["width"], sensor["height"]
    focal = width / (2 * math.tan(math.radians(sensor["fov"]) / 2))
    return img_from_ego(pinhole(focal, focal, width / 2, height / 2), ego_from_camera)


def location_of(latitude: float, longitude: float, latitude0: float, longitude0: float) -> F64:
    """CARLA's x, y (left-handed) of a place by GPS; the town's origin is at latitude0, longitude0. Mercator's projection."""
    scale = math.cos(math.radians(latitude0))
    north = _mercator(latitude) - _mercator(latitude0)
    return np.array([scale * EARTH_M * math.radians(longitude - longitude0), -scale * EARTH_M * north])


def gps_reference(latitude: float, longitude: float, x: float, y: float) -> tuple[float, float]:
    """Latitude and longitude of a town's origin, of one place that is known in both ways."""
    low, high = latitude - 1.0, latitude + 1.0  # 111 km to each side; a town has a few
    for _ in range(80):
        middle = (low + high) / 2
        if location_of(latitude, longitude, middle, longitude)[1] < y:  # the further north the origin, the greater y
            low = middle
        else:
            high = middle
    scale = math.cos(math.radians(middle))
    return middle, longitude - math.degrees(x / (scale * EARTH_M))


def _mercator(latitude: float) -> float:
    return math.log(math.tan(math.radians(90.0 + latitude) / 2))


class _Pid:
    """P, the mean of the last n errors, and the difference of the last two."""

    def __init__(self, p: float, i: float, d: float, n: int = 40) -> None:
        self.gains = p, i, d
        self.errors: deque[float] = deque([0.0] * n, maxlen=n)

    def step(self, error: float) -> float:
        self.errors.append(error)
        p, i, d = self.gains
        return p * error + i * sum(self.errors) / len(self.errors) + d * (error - self.errors[-2])


class PlanController:
    """Throttle, steer and brake of a plan and a speed. Gains and limits are those of Bench2Drive's UniAD agent."""

    AIM_M = 4.0  # the plan's point at about this distance is steered for
    MOST_THROTTLE, BRAKE_BELOW_MPS, BRAKE_RATIO, MOST_DELTA = 0.75, 0.4, 1.1, 0.25

    def __init__(self) -> None:
        self._turn, self._speed = _Pid(0.75, 0.75, 0.3), _Pid(5.0, 0.5, 1.0)

    def control(self, plan: F64, speed: float) -> Control:
        """plan: [P, 2] in the lidar frame of now, a point each half second."""
        wanted = float(np.linalg.norm(np.diff(plan, axis=0), axis=1).mean()) / FRAME_S
        middles = np.linalg.norm((plan[1:] + plan[:-1]) / 2, axis=1)
        aim = plan[int(np.abs(middles - self.AIM_M).argmin())]
        standing = float(np.linalg.norm(plan[-1])) < 0.5
        # 1 is a quarter turn to the right. Where a car that stands is to stand, no direction is left.
        angle = 0.0 if standing else math.atan2(aim[0], aim[1]) / (math.pi / 2)
        steer = float(np.clip(self._turn.step(angle), -1.0, 1.0))
        brakes = wanted < self.BRAKE_BELOW_MPS or speed > self.BRAKE_RATIO * wanted
        throttle = float(np.clip(self._speed.step(float(np.clip(wanted - speed, 0.0, self.MOST_DELTA))), 0.0, self.MOST_THROTTLE))
        return Control(0.0 if brakes else throttle, steer, float(brakes))
