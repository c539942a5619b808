"""Gives way: slows a planned path down, on its own way, for whom the model itself tracks there.

Upstream's collision optimiser moves each point of a plan by itself away from occupied cells, and mostly sideways: what stands
beside the lane pushes the plan aside, frame after frame, and more so the larger the cells are. Here the way stays as the network
planned it. Only how far along it the car is at each step changes, and it is never farther than planned. Nothing is known but what
the model tracks and the car's own speed.

Metres, seconds, lidar frame (x right, y forward). P steps of the plan, n points of the way, a tracked objects.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uniad.geometry.footprints import corners, overlap
from uniad.geometry.nuscenes import EGO_SIZE, STEP_S

F64 = NDArray[np.float64]

CAR_WIDTH_M, CAR_LENGTH_M = EGO_SIZE[:2]
MIDDLE_AHEAD_M = 0.4  # of the car's box, from the lidar
SIDE_M = 0.25  # kept to the sides
SPACING_M = 0.25  # of points on the way
TICK_S = 0.1
# Treiber's intelligent driver model: comfortable acceleration and braking, the most that a car brakes, headway, standing gap
ACCEL, BRAKE, HARD_BRAKE, HEADWAY_S, STANDSTILL_M = 1.6, 2.2, 7.0, 1.1, 2.0
LATER_S = (0.5, 1.0, 1.5)  # when a way that crosses the plan's is looked at; tracked velocities say little about later


def give_way(planned: ArrayLike, speed: float, tracked: ArrayLike) -> F64:
    """The plan [P, 2], or a slower one on the same way. speed: of the car, m/s; tracked: [a, 9] boxes as in ``Objects``."""
    plan, boxes = np.asarray(planned, np.float64), np.asarray(tracked, np.float64)
    if not len(boxes):
        return plan
    way, s = way_of(plan, 4.0 + speed + speed**2 / 5.0)
    steps = np.linalg.norm(np.diff(plan, axis=0, prepend=[[0.0, 0.0]]), axis=1)
    wished, times = np.concatenate([[0.0], np.cumsum(steps)]), np.arange(len(plan) + 1) * STEP_S
    gaps, theirs = _in_the_way(way, s, boxes, wished, times)
    if not len(gaps):
        return plan
    v, at, along = speed, 0.0, []
    for step in range(1, round(times[-1] / TICK_S) + 1):
        a = float(_braking(v, gaps - at + theirs * TICK_S * (step - 1), theirs).min())
        slower = max(v + a * TICK_S, 0.0)
        at += min((v + slower) / 2 * TICK_S, max(float(np.interp(step * TICK_S, times, wished)) - at, 0.0))
        v = slower
        along.append(at)
    every = round(STEP_S / TICK_S)
    return np.stack([np.interp(along[every - 1 :: every], s, way[:, k]) for k in (0, 1)], -1)


def _braking(v: float, gap: F64, theirs: F64) -> F64:
    """Acceleration behind each: the intelligent driver's, which brakes comfortably unless there is no room for that."""
    gap = np.maximum(gap, 0.1)
    closing = v - theirs
    wanted = STANDSTILL_M + np.maximum(v * HEADWAY_S + v * closing / (2 * np.sqrt(ACCEL * BRAKE)), 0.0)
    a = ACCEL * (1.0 - (wanted / gap) ** 2)
    needed = np.maximum(closing, 0.0) ** 2 / (2 * np.maximum(gap - STANDSTILL_M, 0.1))
    return np.maximum(a, -np.clip(needed, BRAKE, HARD_BRAKE))


def way_of(plan: F64, least_m: float) -> tuple[F64, F64]:
    """Points [n, 2] along a plan from the lidar on, and their arc length [n]; straight on behind its end, to ``least_m``."""
    points = np.concatenate([[[0.0, 0.0]], plan])
    keep = np.concatenate([[True], np.linalg.norm(np.diff(points, axis=0), axis=1) > 0.1])  # standing plans' noise leads nowhere
    points = points[keep]
    last = points[-1] - points[-2] if len(points) > 1 else np.array([0.0, 1.0])
    if np.linalg.norm(points[-1]) < 1.0:
        points, last = points[:1], np.array([0.0, 1.0])
    points = np.concatenate([points, [points[-1] + last / np.linalg.norm(last) * max(least_m, 1.0)]])
    s = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    even = np.arange(0.0, max(s[-2], least_m) + SPACING_M, SPACING_M)
    return np.stack([np.interp(even, s, points[:, k]) for k in (0, 1)], -1), even


def _in_the_way(way: F64, s: F64, boxes: F64, wished: F64, times: F64) -> tuple[F64, F64]:
    """How far the car can go before each who is in its way, and their speed along it; of those who are."""
    ahead = np.gradient(way, axis=0)
    ahead /= np.maximum(np.linalg.norm(ahead, axis=1, keepdims=True), 1e-6)
    heading = np.arctan2(ahead[:, 1], ahead[:, 0])  # counter-clockwise from x
    car = corners(way + MIDDLE_AHEAD_M * ahead, heading, CAR_WIDTH_M + 2 * SIDE_M, CAR_LENGTH_M)
    now = corners(boxes[:, :2], -boxes[:, 6] - np.pi / 2, *np.maximum(boxes[:, 3:5], 0.3).T)
    hit = overlap(car[:, None], now[None])  # [n, a]
    middle = way[0] + MIDDLE_AHEAD_M * ahead[0]
    touched = overlap(corners(middle, heading[0], CAR_WIDTH_M, CAR_LENGTH_M), now)  # cannot be kept away from any more
    counts = ~touched & ((boxes[:, :2] - middle) @ ahead[0] > -CAR_LENGTH_M / 2)  # and those behind see to it themselves
    first = np.where(hit.any(0), hit.argmax(0), -1)
    for later in LATER_S:
        then = overlap(car[:, None], (now + (boxes[:, 7:9] * later)[:, None])[None])
        here = np.interp([later - 0.25, later + 0.25], times, wished)
        meets = then[(s >= here[0] - SPACING_M) & (s <= here[1] + SPACING_M)].any(0)
        at = then.argmax(0)
        first = np.where(meets & ((first < 0) | (at < first)), at, first)
    found = np.flatnonzero(counts & (first >= 0))
    return s[first[found]], np.maximum((boxes[found, 7:9] * ahead[first[found]]).sum(1), 0.0)
