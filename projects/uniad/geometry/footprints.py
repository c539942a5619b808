"""Footprints of cars on the ground as rectangles: corners, overlap, what lies ahead. Arrays in, arrays out."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

AHEAD_RAD, BEHIND_RAD = np.radians(30.0), np.radians(150.0)  # nuPlan: what lies ahead of a car, and behind it


def corners(centre: F64, yaw: F64, width: F64 | float, length: F64 | float) -> F64:
    """[..., 4, 2] front left, rear left, rear right, front right of rectangles with centres [..., 2] and headings [...]."""
    forward = np.stack([np.cos(yaw), np.sin(yaw)], -1)
    left = np.stack([-forward[..., 1], forward[..., 0]], -1)
    along = forward * np.asarray(length)[..., None] / 2
    across = left * np.asarray(width)[..., None] / 2
    return centre[..., None, :] + np.stack([along + across, -along + across, -along - across, along - across], -2)


def overlap(a: F64, b: F64) -> Bools:
    """[...] whether rectangles [..., 4, 2] have a point in common, touching included: no side of either parts them."""
    apart = np.zeros(np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), bool)
    for sides in (a, b):
        for first, second in ((0, 1), (1, 2)):
            axis = sides[..., second, :] - sides[..., first, :]
            on_a, on_b = (np.einsum("...kc,...c->...k", box, axis) for box in (a, b))
            apart |= (on_a.max(-1) < on_b.min(-1)) | (on_b.max(-1) < on_a.min(-1))
    return ~apart


def meets_segment(box: F64, start: F64, end: F64) -> Bools:
    """[...] whether a segment has a point in common with a rectangle [..., 4, 2]; a segment is a rectangle without width."""
    along = end - start
    normal = np.stack([-along[..., 1], along[..., 0]], -1)
    side = np.einsum("...kc,...c->...k", box - start[..., None, :], normal)
    apart = (side.min(-1) > 0) | (side.max(-1) < 0)
    for first, second in ((0, 1), (1, 2)):
        axis = box[..., second, :] - box[..., first, :]
        on_box = np.einsum("...kc,...c->...k", box, axis)
        ends = np.stack([(start * axis).sum(-1), (end * axis).sum(-1)], -1)
        apart |= (on_box.max(-1) < ends.min(-1)) | (ends.max(-1) < on_box.min(-1))
    return ~apart


def bearing(origin: F64, yaw: F64, target: F64) -> F64:
    """[...] angle between a heading and the way to a target, 0 straight ahead to pi behind. origin, target: [..., 2]."""
    away = target - origin
    along = away[..., 0] * np.cos(yaw) + away[..., 1] * np.sin(yaw)
    across = away[..., 1] * np.cos(yaw) - away[..., 0] * np.sin(yaw)
    return np.abs(np.arctan2(across, along))
