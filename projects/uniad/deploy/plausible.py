"""What a frame may hold at all: limits beyond which a matrix, a pose, a time or a CAN bus is a fault of whoever sent it.

The network computes with anything. A projection of zeros or a car that is 5 km further on gives finite, wrong results, so every
frame is held against these limits before the step, and against the frame before.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uniad.errors import UserError
from uniad.formats.calibration import LEAST_FOCAL, MOST_FOCAL
from uniad.formats.layout import CAMERAS
from uniad.formats.times import JUMP_M, MOST_MPS

ORTHOGONAL = 2e-2  # what a rotation of few digits may lack
UNITS = ((1e3, "milliseconds"), (1e6, "microseconds"), (1e9, "nanoseconds"))


@dataclass(frozen=True)
class Limits:
    """Generous for any road vehicle. ``math.inf`` (0 for a least value) takes a limit off."""

    least_step_s: float = 0.2  # between two frames: models are trained on 0.5 s, and a tracker at 10 Hz sees other motions
    most_step_s: float = 3.0  # after a longer gap nothing that is remembered holds: reset() begins a scene
    position_m: float = 1e5  # from the origin: float32 keeps 8 mm there, and half a metre of UTM's millions
    speed_mps: float = MOST_MPS  # from frame to frame, and by the CAN bus
    jump_m: float = JUMP_M  # of a localisation that corrects itself, on top of that
    turn_radps: float = 3.2  # from frame to frame, half a circle a second; of the CAN bus's angular rate three times that
    tilt_deg: float = 45.0  # of the lidar's z axis from upright: an axis that points down is another convention
    acceleration_mps2: float = 50.0  # by the CAN bus, gravity included
    mount_m: float = 20.0  # of a camera from the lidar, and of the lidar from the car's origin
    least_focal: float = LEAST_FOCAL  # focal length in image widths
    most_focal: float = MOST_FOCAL

    @classmethod
    def off(cls) -> Limits:
        """None of them, for what a dataset holds."""
        return cls(**{f.name: 0.0 if f.name.startswith("least_") else math.inf for f in fields(cls)})

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Limits:
        """``["most_step_s=10"]``: the defaults with some of them changed."""
        limits, names = cls(), [f.name for f in fields(cls)]
        for text in texts:
            name, _, value = text.partition("=")
            if name not in names:
                raise UserError(f"limit {text!r}: choose {', '.join(names)}, as in most_step_s=10")
            try:
                number = float(value)
            except ValueError:
                number = math.nan
            if not number >= 0:
                raise UserError(f"limit {text!r}: {value!r} is no number from 0 on (inf takes a limit off)")
            limits = replace(limits, **{name: number})
        return limits

    def shown(self, *names: str) -> str:
        """Some of the limits as ``parse`` takes them, for a message."""
        return "limits " + " ".join(f"{name}={getattr(self, name):g}" for name in names)


class Moment(NamedTuple):
    """What the next frame is held against."""

    now_s: float  # by the caller's clock
    position: NDArray[np.float64]  # [3] of the car, global, m
    rotation: NDArray[np.float64]  # [3, 3] lidar to global, transposed


def check_plausible(
    frame: Mapping[str, NDArray], now_s: float, width: int, height: int, limits: Limits, before: Moment | None
) -> Moment:
    """Raises UserError for a frame that no car can have sent.

    frame: inputs of the graph without the state, by name. now_s: time by the caller's clock. width, height: of the network's
    images. before: the frame before, None at the start of a scene. Returns what the next frame is held against.
    """
    for name, source in (
        ("lidar2img", "lidar2img"), ("can_bus", "can_bus or ego2global"), ("l2g_r", "ego2global or lidar2ego"),
        ("l2g_t", "ego2global or lidar2ego"), ("time_s", "time_s"),
    ):  # fmt: skip
        if not np.isfinite(frame[name]).all():
            raise UserError(f"{source} holds a value that is not finite in float32")
    for camera, matrix in zip(CAMERAS, frame["lidar2img"][0].astype(np.float64)):
        _check_projection(matrix, f"lidar2img of {camera}", width, height, limits)
    can_bus = frame["can_bus"][0].astype(np.float64)
    for what, unit, part, times, limit in (
        ("acceleration", "m/s2", can_bus[7:10], 1, "acceleration_mps2"),
        ("angular rate", "rad/s", can_bus[10:13], 3, "turn_radps"),
        ("velocity", "m/s", can_bus[13:16], 1, "speed_mps"),
    ):
        if np.linalg.norm(part) > (most := times * getattr(limits, limit)):
            found = f"can_bus: {what} is {np.linalg.norm(part):.4g} {unit}"
            raise UserError(f"{found}; at most {most:g} is plausible ({limits.shown(limit)})")
    position, lidar = can_bus[:3], frame["l2g_t"][0].astype(np.float64)
    if np.linalg.norm(position) > limits.position_m:
        raise UserError(
            f"ego2global is {np.linalg.norm(position):.4g} m from the origin, where float32 cannot tell centimetres: "
            f"give positions from a place nearby, such as where the drive began ({limits.shown('position_m')})"
        )
    if (away := np.linalg.norm(lidar - position)) > limits.mount_m:
        raise UserError(f"lidar2ego is a translation of {away:.4g} m; plausible is less ({limits.shown('mount_m')})")
    rotation = frame["l2g_r"][0].astype(np.float64)
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > ORTHOGONAL or np.linalg.det(rotation) < 0:
        raise UserError("ego2global and lidar2ego make no rotation: l2g_r is not orthonormal")
    tilted = math.degrees(math.acos(min(max(float(rotation[2, 2]), -1.0), 1.0)))
    if tilted > limits.tilt_deg:
        raise UserError(
            f"ego2global and lidar2ego lay z {tilted:.0f} degrees off upright; needed are z up, and quaternions w first "
            f"({limits.shown('tilt_deg')})"
        )
    moment = Moment(now_s, position, rotation)
    if before is not None:
        _check_motion(before, moment, limits)
    return moment


def _check_motion(before: Moment, now: Moment, limits: Limits) -> None:
    step = now.now_s - before.now_s
    if step <= 0:
        raise UserError(f"this frame's time is {now.now_s:.3f} s, after one of {before.now_s:.3f} s; reset() begins a scene")
    if step > limits.most_step_s:
        unit = next((f" (in {name}, it seems: seconds are needed)" for factor, name in UNITS if 0.05 < step / factor < 3), "")
        raise UserError(
            f"this frame comes {step:.4g} s after the one before{unit}; at most {limits.most_step_s:g} s is plausible, "
            f"and reset() begins a scene ({limits.shown('most_step_s')})"
        )
    if step < limits.least_step_s:
        raise UserError(
            f"this frame comes {step:.3g} s after the one before, and the model was trained on 0.5 s: hand over about every "
            f"{max(round(0.5 / step), 2)}th ({limits.shown('least_step_s')})"
        )
    moved, most = float(np.linalg.norm(now.position - before.position)), limits.speed_mps * step + limits.jump_m
    if moved > most:
        raise UserError(
            f"the car moved {moved:.4g} m in {step:.2f} s, at most {most:.4g} is plausible; reset() begins a scene "
            f"({limits.shown('speed_mps', 'jump_m')})"
        )
    cosine = (np.trace(now.rotation @ before.rotation.T) - 1) / 2
    turned = math.acos(min(max(float(cosine), -1.0), 1.0))
    if turned > limits.turn_radps * step + ORTHOGONAL:
        raise UserError(
            f"the car turned by {math.degrees(turned):.0f} degrees in {step:.2f} s; at most "
            f"{math.degrees(limits.turn_radps * step):.0f} is plausible, and reset() begins a scene "
            f"({limits.shown('turn_radps')})"
        )


def _check_projection(matrix: NDArray[np.float64], where: str, width: int, height: int, limits: Limits) -> None:
    """A pinhole camera's projection [4, 4] is intrinsics times a rotation; taking them apart shows one that is not."""
    # Plain numbers: six cameras of arrays this small would take a third of a millisecond, most of it to begin each operation
    *rows, last = matrix.tolist()
    if max(map(abs, (*last[:3], last[3] - 1))) > ORTHOGONAL:
        raise UserError(f"{where} ends in the row {last}; needed is 0, 0, 0, 1")
    right, down, ahead = (row[:3] for row in rows)
    if abs((length := math.hypot(*ahead)) - 1) > ORTHOGONAL:
        raise UserError(f"{where} is no projection: its third row has length {length:.4g}, that of a rotation has 1")
    centre_x, centre_y = _dot(right, ahead), _dot(down, ahead)
    across, along = ([of - centre * to for of, to in zip(row, ahead)] for row, centre in ((right, centre_x), (down, centre_y)))
    focal_y = math.hypot(*along)
    skew = _dot(across, along) / max(focal_y, 1e-9)
    focal_x = math.hypot(*(a - skew * b / max(focal_y, 1e-9) for a, b in zip(across, along)))
    for what, focal in (("width", focal_x), ("height", focal_y)):
        if not limits.least_focal * width <= focal <= limits.most_focal * width:
            raise UserError(
                f"{where} has a focal length of {focal / width:.3g} image widths along the image's {what}; plausible are "
                f"{limits.least_focal:g} to {limits.most_focal:g} ({limits.shown('least_focal', 'most_focal')})"
            )
    volume = _dot(right, _cross(down, ahead))
    if volume < 0:
        raise UserError(f"{where} mirrors the image: it is no rotation")
    if abs(skew) > 0.1 * focal_x or not 0.8 < focal_x / focal_y < 1.25:
        found = f"focal lengths {focal_x:.4g} and {focal_y:.4g}, skew {skew:.4g}"
        raise UserError(f"{where} shears the image ({found}): it is no rotation")
    if not (-width < centre_x < 2 * width and -height < centre_y < 2 * height):
        raise UserError(f"{where} has its optical axis at pixel {centre_x:.4g}, {centre_y:.4g}, far outside of the image")
    # Where the three rows are 0, by Cramer's rule; focal lengths in range and little skew keep the volume from 0
    normals = _cross(down, ahead), _cross(ahead, right), _cross(right, down)
    away = math.hypot(*(sum(row[3] * normal[axis] for row, normal in zip(rows, normals)) / volume for axis in range(3)))
    if away > limits.mount_m:
        raise UserError(f"{where} is of a camera {away:.4g} m from the lidar; plausible is less ({limits.shown('mount_m')})")


def _dot(a: Sequence[float], b: Sequence[float]) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _cross(a: Sequence[float], b: Sequence[float]) -> tuple[float, float, float]:
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]
