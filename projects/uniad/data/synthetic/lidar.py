"""The turning lidar: rays against the same solid shapes that the cameras see, and against the ground."""

from __future__ import annotations

import numpy as np

from uniad.data.synthetic.paint import Stage
from uniad.data.synthetic.sensors import LIDAR_BEAMS, LIDAR_PITCH_DEG

RANGE_M = 90.0
NOISE_M = 0.015


class Sweep:
    """One turn. ``points`` is [n, 5] float32: x, y, z in the lidar frame (metres), intensity, beam number.

    ``label`` [n] is the item's label, 0 for ground and props.
    """

    def __init__(self, points: np.ndarray, label: np.ndarray) -> None:
        self.points = points
        self.label = label


def cast(stage: Stage, global_from_lidar_44: np.ndarray, columns: int, rng: np.random.Generator) -> Sweep:
    """Casts 32 beams at ``columns`` azimuths from the lidar's place."""
    rotation, origin = global_from_lidar_44[:3, :3], global_from_lidar_44[:3, 3]
    azimuth = np.linspace(-np.pi, np.pi, columns, endpoint=False)
    pitch = np.deg2rad(np.linspace(*LIDAR_PITCH_DEG, LIDAR_BEAMS))
    level = np.stack([np.cos(azimuth), np.sin(azimuth)], axis=1)  # in the global plane
    ray = np.empty((columns, LIDAR_BEAMS, 3))
    ray[..., :2] = level[:, None] * np.cos(pitch)[None, :, None]
    ray[..., 2] = np.sin(pitch)
    with np.errstate(divide="ignore"):
        down = np.where(pitch < -1e-3, -origin[2] / np.sin(np.minimum(pitch, -1e-3)), np.inf)
    distance = np.repeat(down[None], columns, axis=0)
    label = np.zeros((columns, LIDAR_BEAMS), np.int32)
    shine = np.full((columns, LIDAR_BEAMS), 8.0)
    step = 2 * np.pi / columns
    offset = stage.corners - origin[:2]
    middle = stage.xy - origin[:2]
    far = np.linalg.norm(middle, axis=1)
    for i in np.flatnonzero(far - stage.radius < RANGE_M):
        item = stage.items[i]
        center = np.arctan2(middle[i, 1], middle[i, 0])
        if far[i] > stage.radius[i] + 0.01:
            bearing = (np.arctan2(offset[i, :, 1], offset[i, :, 0]) - center + np.pi) % (2 * np.pi) - np.pi
            first = int(np.floor((center + bearing.min() + np.pi) / step))
            last = int(np.ceil((center + bearing.max() + np.pi) / step))
            # Contiguous, so that a view serves; one that crosses the seam takes the long way round.
            span = slice(first, last + 1) if 0 <= first and last < columns else np.arange(first, last + 1) % columns
        else:
            span = slice(0, columns)
        # Beams outside the item's height at its nearest point cannot hit; a little slack for its depth.
        near = max(far[i] - stage.radius[i], 0.3)
        reach = far[i] + stage.radius[i]
        rise = np.tan(pitch)
        fit = (origin[2] + np.maximum(rise * near, rise * reach) >= stage.low[i]) & (
            origin[2] + np.minimum(rise * near, rise * reach) <= stage.high[i]
        )
        beams = np.flatnonzero(fit)
        if len(beams) == 0:
            continue
        window = (span, slice(beams[0], beams[-1] + 1))
        t, hit_light = _enter(item, origin, ray[window])
        better = t < distance[window]
        if better.any():
            distance[window] = np.where(better, t, distance[window])
            label[window] = np.where(better, item.label, label[window])
            shine[window] = np.where(better, hit_light, shine[window])
    alive = distance < RANGE_M
    alive &= distance > 1.0
    r = distance[alive] + rng.normal(0, NOISE_M, int(alive.sum()))
    world = ray[alive] * r[:, None] + 0.0
    beam = np.broadcast_to(np.arange(LIDAR_BEAMS), alive.shape)[alive]
    points = np.concatenate([world @ rotation, shine[alive][:, None], beam[:, None]], axis=1).astype(np.float32)
    return Sweep(points, label[alive])


def _enter(item, origin: np.ndarray, ray: np.ndarray) -> tuple[np.ndarray, float]:
    """Distance at which rays [c, b, 3] enter the item, inf where they miss."""
    c, s = np.cos(item.yaw), np.sin(item.yaw)
    dx, dy = origin[0] - item.xy[0], origin[1] - item.xy[1]
    eye = np.array([c * dx + s * dy, -s * dx + c * dy, origin[2]])
    local = np.stack([c * ray[..., 0] + s * ray[..., 1], -s * ray[..., 0] + c * ray[..., 1], ray[..., 2]], axis=-1)
    best = np.full(ray.shape[:2], np.inf)
    for part in item.mesh.parts:
        ahead = part.offsets - part.normals @ eye  # how far the eye is inside each half-space
        entered = ahead < 0  # an eye inside a half-space never enters through its plane
        if not entered.any():
            continue
        speed = local @ part.normals.T  # [c, b, k]
        t = ahead / np.where(np.abs(speed) < 1e-9, 1e-9, speed)
        enter = np.where(speed[..., entered] < 0, t[..., entered], np.inf).max(-1)
        leave = np.where(speed > 0, t, np.inf).min(-1)
        best = np.where((enter < leave) & (enter < best), enter, best)
    return best, float(12 + (item.label * 37) % 60)


def count_in_boxes(points_n3: np.ndarray, boxes: list[tuple[np.ndarray, float, tuple[float, float, float]]]) -> np.ndarray:
    """Points [n, 3] (global) inside boxes given as (middle [3], yaw, (width, length, height)): what the devkit counts."""
    counts = np.zeros(len(boxes), int)
    order = np.argsort(points_n3[:, 0])
    points = points_n3[order]
    xs = points[:, 0]
    for i, (middle, yaw, (w, l, h)) in enumerate(boxes):
        reach = np.hypot(w, l) / 2
        near = points[np.searchsorted(xs, middle[0] - reach) : np.searchsorted(xs, middle[0] + reach)] - middle
        c, s = np.cos(yaw), np.sin(yaw)
        along, across = c * near[:, 0] + s * near[:, 1], -s * near[:, 0] + c * near[:, 1]
        inside = (np.abs(along) <= l / 2) & (np.abs(across) <= w / 2) & (np.abs(near[:, 2]) <= h / 2)
        counts[i] = int(inside.sum())
    return counts
