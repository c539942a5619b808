"""Poses. A transform is a 4x4 matrix for column vectors, named ``dst_from_src``; so ``a_from_c = a_from_b @ b_from_c``.

nuScenes stores a pose as translation (metres) and unit quaternion (w, x, y, z). All functions broadcast over leading axes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def rotation_matrix(quaternion: ArrayLike) -> Array:
    """Rotation [..., 3, 3] of quaternions (w, x, y, z) [..., 4]; normalised first."""
    q = np.asarray(quaternion, dtype=np.float64)
    q = q / np.linalg.norm(q, axis=-1, keepdims=True)
    w, x, y, z = (q[..., part] for part in range(4))
    rows = (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    matrix = np.empty((*q.shape[:-1], 3, 3))
    for i, row in enumerate(rows):
        for j, entry in enumerate(row):
            matrix[..., i, j] = entry
    return matrix


def pose_matrix(quaternion: ArrayLike, translation: ArrayLike) -> Array:
    """dst_from_src [..., 4, 4] from src's orientation [..., 4] and position [..., 3] in dst."""
    rotation = rotation_matrix(quaternion)
    return from_rotation(rotation, translation)


def from_rotation(rotation: ArrayLike, translation: ArrayLike) -> Array:
    """dst_from_src [..., 4, 4] from a rotation [..., 3, 3] and a translation [..., 3]."""
    rotation = np.asarray(rotation, dtype=np.float64)
    matrix = np.zeros((*rotation.shape[:-2], 4, 4))
    matrix[..., :3, :3] = rotation
    matrix[..., :3, 3] = translation
    matrix[..., 3, 3] = 1.0
    return matrix


def inverse(dst_from_src: ArrayLike) -> Array:
    """src_from_dst of rigid transforms [..., 4, 4]; exact transposition instead of a general inverse."""
    matrix = np.asarray(dst_from_src, dtype=np.float64)
    transposed = np.swapaxes(matrix[..., :3, :3], -1, -2)
    return from_rotation(transposed, -(transposed @ matrix[..., :3, 3:])[..., 0])


def apply(dst_from_src: ArrayLike, points: ArrayLike) -> Array:
    """Points [..., n, 3] of src in dst [..., n, 3], metres."""
    matrix = np.asarray(dst_from_src, dtype=np.float64)
    return np.asarray(points) @ np.swapaxes(matrix[..., :3, :3], -1, -2) + matrix[..., None, :3, 3]


def heading(rotation: ArrayLike) -> Array:
    """Angle [...] (rad, counter-clockwise from x) at which the rotated x axis points, seen from above. [..., >=3, >=3]."""
    matrix = np.asarray(rotation)
    return np.arctan2(matrix[..., 1, 0], matrix[..., 0, 0])


def rotate_2d(angle_rad: ArrayLike, points: ArrayLike) -> Array:
    """Turn points [..., n, 2] counter-clockwise by angle [...]."""
    angle = np.asarray(angle_rad, dtype=np.float64)[..., None]
    points = np.asarray(points, dtype=np.float64)
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack((points[..., 0] * cos - points[..., 1] * sin, points[..., 0] * sin + points[..., 1] * cos), axis=-1)
