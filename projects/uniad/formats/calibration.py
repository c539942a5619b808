"""Poses and camera projections as people write them, in tables, info files and recorded folders alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniad.errors import UserError
from uniad.formats.fields import Array, Record, unknown_keys
from uniad.geometry import transforms as tf

UNIT_TOLERANCE = 1e-2  # of a quaternion's length: what writing four digits costs, and far from a mixed-up order of fields
ROTATION_TOLERANCE = 3e-2  # of R times its transpose; two digits of each element are enough
# cos of the tilt that no car survives, with its lidar's z axis up: an order x, y, z, w turns most headings into such a tilt.
UPRIGHT = 0.7


def _unit(quaternions: NDArray[np.float64]) -> NDArray[np.bool_]:
    with np.errstate(over="ignore"):
        return np.abs(np.linalg.norm(quaternions, axis=-1) - 1.0) <= UNIT_TOLERANCE


def _upright(quaternions: NDArray[np.float64]) -> NDArray[np.bool_]:
    good = _unit(quaternions)
    good[good] = tf.rotation_matrix(quaternions[good])[:, 2, 2] >= UPRIGHT
    return good


def _orthonormal(matrices: NDArray[np.float64]) -> NDArray[np.bool_]:
    with np.errstate(over="ignore", invalid="ignore"):
        product = matrices @ np.swapaxes(matrices, -1, -2)
        return (np.abs(product - np.eye(3)).max((-1, -2)) <= ROTATION_TOLERANCE) & (np.linalg.det(matrices) > 0)


def _focal(matrices: NDArray[np.float64]) -> NDArray[np.bool_]:
    return (matrices[:, 0, 0] > 0) & (matrices[:, 1, 1] > 0) & (matrices[:, 2, 2] > 0)


# Of any lens on a car, in image widths: in millimetres, or of another image, a focal length is outside.
LEAST_FOCAL, MOST_FOCAL = 0.05, 20.0

Translation = Array((3,), "x, y, z in metres, [3]")
Quaternion = Array((4,), "a quaternion w, x, y, z of length 1, [4]", rule=_unit)
# Of a car, and of its lidar frame: both have z up.
UprightQuaternion = Array((4,), "a quaternion w, x, y, z (w first) of length 1 that keeps z up, [4]", rule=_upright)
Rotation = Array((3, 3), "a rotation matrix, [3, 3]", rule=_orthonormal)
Intrinsic = Array((3, 3), "a camera matrix with positive focal lengths, [3, 3]", rule=_focal, crop=True)
Projection = Array((4, 4), "a projection from the lidar frame to pixels, [4, 4]")
RigidMatrix = Array((4, 4), "a matrix from the lidar frame to the camera's, [4, 4]", rule=lambda m: _orthonormal(m[:, :3, :3]))

POSE = Record(
    {"translation": Translation, "rotation": UprightQuaternion},
    wanted="a pose: translation [x, y, z] and rotation [w, x, y, z]",
)


class CameraField:
    """A camera's entry: ``lidar2img``, or ``intrinsic`` and ``lidar2cam``. Checked, it is lidar2img [4, 4]."""

    wanted = "lidar2img [4, 4], or intrinsic [3, 3] and lidar2cam [4, 4]"
    keys = ("lidar2img", "intrinsic", "lidar2cam")

    def check(self, value: Any, where: str) -> NDArray[np.float64]:
        if not isinstance(value, dict):
            raise UserError(f"{where} has no projection: needed is {self.wanted}")
        unknown_keys(value, self.keys, where)
        if "lidar2img" in value and len(value) == 1:
            return Projection.check(value["lidar2img"], f"{where}: lidar2img")
        if set(value) != {"intrinsic", "lidar2cam"}:
            found = f" beside {', '.join(value)}" if value else ""
            raise UserError(f"{where} has no projection{found}: needed is {self.wanted}, and nothing else")
        whole = np.eye(4)
        whole[:3, :3] = Intrinsic.check(value["intrinsic"], f"{where}: intrinsic")
        return whole @ RigidMatrix.check(value["lidar2cam"], f"{where}: lidar2cam")


class PoseField:
    """A pose; checked, it is a dict of float64 arrays."""

    wanted = POSE.wanted

    def check(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict) or not {"translation", "rotation"} <= set(value):
            raise UserError(f"{where} is no pose: needed are translation [x, y, z] and rotation [w, x, y, z]")
        return POSE.check(value, where)
