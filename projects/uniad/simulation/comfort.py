"""How a drive feels: accelerations, jerk and turning, filtered and held against bounds as nuPlan publishes them.

nuPlan took the bounds from its human drivers; NAVSIM and Bench2Drive hold plans and drives against the same ones.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]

BOUNDS = {
    "lon_accel": (-4.05, 2.40),  # m/s^2
    "lat_accel": (-4.89, 4.89),
    "jerk": (-8.37, 8.37),  # m/s^3, of the acceleration's magnitude
    "lon_jerk": (-4.13, 4.13),
    "yaw_accel": (-1.93, 1.93),  # rad/s^2
    "yaw_rate": (-0.95, 0.95),  # rad/s
}


def smooth(values: F64, window: int, order: int, derivative: int = 0, dt_s: float = 1.0) -> F64:
    """Savitzky-Golay filter of [n] values: a polynomial is fitted around each, and evaluated or differentiated there.

    The ends take the polynomial of the first and the last whole window. The middle of an even window lies between two values, so
    that its results come half a step late, as in SciPy, with which nuPlan filters.
    """
    window = min(window, len(values))
    order = min(order, window - 1)
    if derivative > order:
        return np.zeros(len(values))
    powers = np.arange(order + 1)
    fit = np.linalg.pinv((np.arange(window) - (window - 1) / 2)[:, None] ** powers)  # values of a window -> coefficients
    fitted = np.lib.stride_tricks.sliding_window_view(values, window) @ fit.T  # [n - window + 1, order + 1]
    at, half = np.arange(len(values)), window // 2
    inner = (at >= half) & (at < len(values) - half)
    rows = np.where(inner, at - (window - 1) // 2, np.where(at < half, 0, len(fitted) - 1))
    offset = np.where(inner, 0.0, at - rows - (window - 1) / 2)
    factors = np.array([math.perm(p, derivative) for p in powers])
    return (fitted[rows] * factors * offset[:, None] ** np.maximum(powers - derivative, 0)).sum(-1) / dt_s**derivative


def motion(yaw: F64, speed: F64, centre_ahead_m: float, dt_s: float) -> dict[str, F64]:
    """What a passenger feels, by name of the bound: each [n].

    yaw, speed: [n] of the rear axle, whose speed has no part across the car. The accelerations are those of the car's middle,
    ``centre_ahead_m`` before the axle. Windows and orders of the filters are nuPlan's.
    """
    yaw = np.unwrap(yaw)
    yaw_rate = smooth(yaw, 5, 2, 1, dt_s)
    yaw_accel = smooth(yaw, 5, 3, 2, dt_s)
    along = np.gradient(speed, dt_s) if len(speed) > 1 else np.zeros(1)
    across = speed * yaw_rate
    lon = smooth(along - yaw_rate**2 * centre_ahead_m, 8, 2)
    lat = smooth(across + yaw_accel * centre_ahead_m, 8, 2)
    size = smooth(np.hypot(along, across), 8, 2)
    return {
        "lon_accel": lon,
        "lat_accel": lat,
        "jerk": smooth(size, 15, 2, 1, dt_s),
        "lon_jerk": smooth(lon, 15, 2, 1, dt_s),
        "yaw_accel": yaw_accel,
        "yaw_rate": yaw_rate,
    }


def violations(felt: dict[str, F64]) -> dict[str, tuple[int, float]]:
    """Of each quantity that leaves its bounds: the first index where it does, and the extreme value beyond them."""
    found = {}
    for name, (low, high) in BOUNDS.items():
        values = felt[name]
        out = np.flatnonzero(~((values > low) & (values < high)))
        if len(out):
            found[name] = int(out[0]), float(values[out[np.argmax(np.abs(values[out]))]])
    return found
