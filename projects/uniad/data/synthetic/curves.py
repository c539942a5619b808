"""Plane curves: points along a line, the turn from one lane into another, and motion along a path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STEP_M = 0.5  # between samples of a path


def unit(vector_2: np.ndarray) -> np.ndarray:
    return vector_2 / np.linalg.norm(vector_2)


def left_of(direction_2: np.ndarray) -> np.ndarray:
    """The direction turned a quarter to the left."""
    return np.array([-direction_2[1], direction_2[0]])


def line_points(a_2: np.ndarray, b_2: np.ndarray, step_m: float) -> np.ndarray:
    """Points from a to b, both included, at most ``step_m`` apart: [n, 2]."""
    n = max(2, int(np.ceil(np.linalg.norm(b_2 - a_2) / step_m)) + 1)
    return a_2 + (b_2 - a_2) * np.linspace(0.0, 1.0, n)[:, None]


def cross(a_2: np.ndarray, b_2: np.ndarray) -> float:
    return float(a_2[0] * b_2[1] - a_2[1] * b_2[0])


def meet(p_2: np.ndarray, d_2: np.ndarray, q_2: np.ndarray, e_2: np.ndarray) -> tuple[float, float] | None:
    """Where p + s d meets q + t e, as (s, t); None where the lines are nearly parallel."""
    det = cross(d_2, e_2)
    if abs(det) < 1e-3:
        return None
    return cross(q_2 - p_2, e_2) / det, cross(q_2 - p_2, d_2) / det


def turn_points(p_2: np.ndarray, d_2: np.ndarray, q_2: np.ndarray, e_2: np.ndarray, step_m: float = 0.5) -> np.ndarray:
    """A drivable curve that leaves p along d and reaches q along e: [n, 2], both ends included.

    Where the two lines meet ahead, it is straight, one arc, straight; otherwise a smooth S.
    """
    hit = meet(p_2, d_2, q_2, -e_2)
    if hit is not None and hit[0] > 0.5 and hit[1] > 0.5:
        corner = p_2 + hit[0] * d_2
        reach = min(hit)
        a, b = corner - reach * d_2, corner + reach * e_2
        angle = np.arctan2(cross(d_2, e_2), float(d_2 @ e_2))
        radius = reach / np.tan(abs(angle) / 2)
        side = np.sign(angle)
        n = max(3, int(np.ceil(radius * abs(angle) / step_m)) + 1)
        phi = np.linspace(0.0, angle, n)
        centre = a + side * radius * left_of(d_2)
        c, s = np.cos(phi), np.sin(phi)
        start = a - centre
        arc = centre + np.stack([c * start[0] - s * start[1], s * start[0] + c * start[1]], axis=1)
        pieces = [arc]
        if np.linalg.norm(a - p_2) > 0.05:
            pieces.insert(0, line_points(p_2, a, 1.0)[:-1])
        if np.linalg.norm(q_2 - b) > 0.05:
            pieces.append(line_points(b, q_2, 1.0)[1:])
        return np.concatenate(pieces)
    reach = 0.4 * np.linalg.norm(q_2 - p_2)
    return bezier(p_2, p_2 + reach * d_2, q_2 - reach * e_2, q_2, max(5, int(np.linalg.norm(q_2 - p_2) / step_m)))


def bezier(a_2: np.ndarray, b_2: np.ndarray, c_2: np.ndarray, d_2: np.ndarray, n: int) -> np.ndarray:
    """Cubic Bezier curve: [n, 2]."""
    t = np.linspace(0.0, 1.0, n)[:, None]
    return (1 - t) ** 3 * a_2 + 3 * (1 - t) ** 2 * t * b_2 + 3 * (1 - t) * t**2 * c_2 + t**3 * d_2


def headings(points_n2: np.ndarray) -> np.ndarray:
    """Heading at every point, radians, unwrapped: [n]. Inner points take the mean of the pieces that meet there."""
    piece = np.diff(points_n2, axis=0)
    yaw = np.unwrap(np.arctan2(piece[:, 1], piece[:, 0]))
    return np.concatenate([yaw[:1], (yaw[1:] + yaw[:-1]) / 2, yaw[-1:]])


@dataclass(frozen=True)
class Path:
    """A curve sampled at even arc length: what a vehicle or a pedestrian moves along."""

    step: float  # metres between samples, about STEP_M
    xy: np.ndarray  # [n, 2]
    yaw: np.ndarray  # [n] unwrapped

    @staticmethod
    def through(points_n2: np.ndarray) -> Path:
        """The curve through points [m, 2]; its ends are the first and the last of them."""
        keep = np.concatenate([[True], np.linalg.norm(np.diff(points_n2, axis=0), axis=1) > 1e-6])
        points_n2 = points_n2[keep]
        s = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points_n2, axis=0), axis=1))])
        even = np.linspace(0.0, s[-1], max(3, int(np.ceil(s[-1] / STEP_M)) + 1))
        xy = np.stack([np.interp(even, s, points_n2[:, 0]), np.interp(even, s, points_n2[:, 1])], axis=1)
        return Path(float(even[1]), xy, np.interp(even, s, headings(points_n2)))

    @property
    def length(self) -> float:
        return self.step * (len(self.yaw) - 1)

    @property
    def s(self) -> np.ndarray:
        """Arc length of the samples [n]."""
        return self.step * np.arange(len(self.yaw))

    def at(self, s: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Position [.., 2] and heading [..] at arc length s; straight on before the start and past the end."""
        at = np.asarray(s, dtype=float) / self.step
        i = np.clip(at.astype(int), 0, len(self.yaw) - 2)
        part = np.clip(at - i, 0.0, 1.0)
        yaw = self.yaw[i] + (self.yaw[i + 1] - self.yaw[i]) * part
        xy = self.xy[i] + (self.xy[i + 1] - self.xy[i]) * part[..., None]
        beyond = ((at - i - part) * self.step)[..., None]
        return xy + beyond * np.stack([np.cos(yaw), np.sin(yaw)], axis=-1), yaw

    def curvature(self, s: np.ndarray | float, reach_m: float = 1.5) -> np.ndarray:
        """Signed curvature, 1/m, positive to the left, averaged over twice the reach."""
        s = np.asarray(s, dtype=float)
        return (self.at(s + reach_m)[1] - self.at(s - reach_m)[1]) / (2 * reach_m)

    def speed_limit(self, cruise_mps: float, lateral_mps2: float, brake_mps2: float) -> tuple[np.ndarray, np.ndarray]:
        """(s, v): the speed that curves allow when braking ahead of them, at one-metre steps."""
        s = np.arange(0.0, self.length + 1.0, 1.0)
        bend = np.maximum(np.abs(self.curvature(s)), 1e-4)
        v = np.minimum(cruise_mps, np.sqrt(lateral_mps2 / bend))
        for i in range(len(v) - 2, -1, -1):
            v[i] = min(v[i], np.sqrt(v[i + 1] ** 2 + 2 * brake_mps2))
        return s, v
