"""Where the sensors sit on the car and how they see: nominal values close to the genuine vehicles'.

Frames: ego is x forward, y left, z up, origin on the ground under the rear axle; a camera is x right, y down, z forward;
the lidar is x right, y forward, z up.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pyquaternion import Quaternion

from uniad.data.synthetic.params import rng_for
from uniad.geometry.nuscenes import IMAGE_HW

HEIGHT, WIDTH = IMAGE_HW
CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
LIDAR = "LIDAR_TOP"

# Translation in metres, yaw in degrees to the left of forward, focal length and principal point in pixels.
_CAMERAS: dict[str, tuple[tuple[float, float, float], float, float, tuple[float, float]]] = {
    "CAM_FRONT": ((1.70, 0.016, 1.511), 0.3, 1266.4, (816.3, 491.5)),
    "CAM_FRONT_RIGHT": ((1.551, -0.493, 1.496), -56.0, 1260.8, (807.9, 495.3)),
    "CAM_FRONT_LEFT": ((1.524, 0.495, 1.509), 55.3, 1272.6, (826.6, 479.8)),
    "CAM_BACK": ((0.028, 0.003, 1.579), 180.2, 809.2, (829.2, 481.8)),
    "CAM_BACK_LEFT": ((1.036, 0.485, 1.591), 108.2, 1256.7, (792.1, 492.8)),
    "CAM_BACK_RIGHT": ((1.015, -0.481, 1.562), -110.6, 1259.5, (807.3, 501.2)),
}
# A camera fires when the turning lidar looks its way; the sample's time is the end of that turn.
CAMERA_DELAY_US: dict[str, int] = {
    "CAM_FRONT_LEFT": -43_107, "CAM_FRONT": -35_491, "CAM_FRONT_RIGHT": -27_612, "CAM_BACK_RIGHT": -20_058,
    "CAM_BACK": -10_426, "CAM_BACK_LEFT": -528,
}  # fmt: skip
LIDAR_TRANSLATION = (0.943, 0.0, 1.840)
LIDAR_BEAMS = 32
LIDAR_PITCH_DEG = (-30.67, 10.67)  # lowest and highest beam


@dataclass(frozen=True)
class Sensor:
    """A mounted sensor: ``ego_from_sensor`` is [4, 4]; ``intrinsic`` is [3, 3] for cameras, None for the lidar."""

    channel: str
    translation: tuple[float, float, float]
    rotation: Quaternion
    intrinsic: np.ndarray | None

    @property
    def ego_from_sensor(self) -> np.ndarray:
        return rigid(self.rotation.rotation_matrix, self.translation)


def rigid(rotation_33: np.ndarray, translation_3) -> np.ndarray:
    """A rigid transform as a matrix [4, 4]."""
    out = np.eye(4)
    out[:3, :3] = rotation_33
    out[:3, 3] = translation_3
    return out


def inverse(transform_44: np.ndarray) -> np.ndarray:
    """The inverse of a rigid transform [4, 4]."""
    rotation = transform_44[:3, :3].T
    return rigid(rotation, -rotation @ transform_44[:3, 3])


def global_from_ego(xy_2: np.ndarray, yaw: float) -> np.ndarray:
    """Pose of the car on flat ground: [4, 4]."""
    c, s = np.cos(yaw), np.sin(yaw)
    return rigid(np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]]), [xy_2[0], xy_2[1], 0.0])


def yaw_quaternion(yaw: float) -> list[float]:
    """w, x, y, z of a turn about the vertical."""
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


def build_sensors(seed: int, vehicle: str) -> dict[str, Sensor]:
    """All sensors of one car. Two cars of a fleet differ by a little in mounting, as the genuine ones do."""
    rng = rng_for(seed, "calibration", vehicle)
    sensors = {}
    for channel, (translation, yaw_deg, focal, center) in _CAMERAS.items():
        yaw = np.deg2rad(yaw_deg + rng.normal(0, 0.4))
        # Camera axes in ego axes for yaw 0: right = -y, down = -z, forward = x.
        base = np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
        tilt = Quaternion(axis=[0, 1, 0], angle=rng.normal(0, 0.004)) * Quaternion(axis=[1, 0, 0], angle=rng.normal(0, 0.003))
        rotation = Quaternion(axis=[0, 0, 1], angle=yaw) * tilt * Quaternion(matrix=base)
        f = focal + rng.normal(0, 2.0)
        k = np.array([[f, 0.0, center[0]], [0.0, f, center[1]], [0.0, 0.0, 1.0]])
        x, y, z = (float(round(v + rng.normal(0, 0.004), 4)) for v in translation)
        sensors[channel] = Sensor(channel, (x, y, z), rotation, k)
    lidar = Quaternion(axis=[0, 0, 1], angle=-np.pi / 2 + rng.normal(0, 0.004))
    sensors[LIDAR] = Sensor(LIDAR, LIDAR_TRANSLATION, lidar, None)
    return sensors
