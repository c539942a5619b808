"""The ego car's motion along its track, in the quantities that poses and CAN bus messages are made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from uniad.data.synthetic.dynamics import Track

WHEELBASE_M, STEERING_RATIO = 2.59, 15.2


@dataclass(frozen=True)
class Moment:
    """A car's motion at instants [n]: metres and radians of the world, seconds, microseconds since 1970."""

    xy: NDArray[np.float64]
    yaw: NDArray[np.float64]
    v: NDArray[np.float64]
    a: NDArray[np.float64]
    yaw_rate: NDArray[np.float64]
    utime: NDArray[np.int64]


@dataclass(frozen=True)
class Motion(Moment):
    """The same of a car that follows a track."""

    bend: NDArray[np.float64]
    """1/m"""
    steer: NDArray[np.float64]
    """at the wheel"""
    s: NDArray[np.float64]
    """along the track or route"""


def motion_along(track: Track, start_us: int, t_s: NDArray[np.float64]) -> Motion:
    """The motion along a track at times [n] since the first keyframe."""
    s, v, a = track.motion(t_s)
    xy, yaw = track.path.at(s)
    bend = np.asarray(track.path.curvature(s), np.float64)
    return Motion(xy, yaw, v, a, bend * v, utimes(start_us, t_s), bend, steering(bend), s)


def steering(bend: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.arctan(WHEELBASE_M * bend) * STEERING_RATIO


def utimes(start_us: int, t_s: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.round(start_us + t_s * 1e6).astype(np.int64)
