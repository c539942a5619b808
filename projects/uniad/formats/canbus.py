"""Pose messages of the CAN bus expansion: ``can_bus/<scene>_pose.json``, a list of records in time order."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from uniad.errors import UserError
from uniad.files import read_outside
from uniad.formats.fields import Array, column
from uniad.formats.layout import CAN_BUS
from uniad.formats.times import unit_of

# Scenes of nuScenes that were recorded without a CAN bus, as the devkit lists them. Every other scene has messages.
WITHOUT = frozenset({*range(161, 169), *range(170, 177), *range(309, 315)})
MESSAGE = {
    "utime": Array((), "a time in microseconds"),
    "pos": Array((3,), "x, y, z in metres, [3]"),
    "orientation": Array((4,), "a quaternion w, x, y, z, [4]"),
    "accel": Array((3,), "accelerations in m/s2, [3]"),
    "rotation_rate": Array((3,), "angular rates in rad/s, [3]"),
    "vel": Array((3,), "velocities in m/s, [3]"),
}
# A message this far from every frame is of another drive, or of another clock.
FARTHEST_S = 5.0


def is_without(scene: str) -> bool:
    """Whether nuScenes itself has no CAN bus for a scene of that name."""
    match = re.fullmatch(r"scene-(\d{4})", scene)
    return match is not None and int(match[1]) in WITHOUT


def read_messages(root: Path, scene: str, times_us: np.ndarray, may_lack: bool = False) -> list[dict[str, Any]]:
    """The messages of a scene; none for the scenes that nuScenes has none of, nor, with ``may_lack``, for any without a file.

    times_us: of its frames. UserError where the file is absent, damaged, or of another time than the frames.
    """
    path = Path(root) / CAN_BUS / f"{scene}_pose.json"
    try:
        messages = json.loads(read_outside(path))
    except FileNotFoundError:
        if may_lack or is_without(scene):
            return []
        raise UserError(
            f"{path} does not exist; unpack the CAN bus expansion there, or for a recording that has none give --without-canbus "
            "(make: DATA_ARGS=--without-canbus)"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged or cut short ({error}); unpack the CAN bus expansion again") from None
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{path} holds no messages; unpack the CAN bus expansion again")
    for key, kind in MESSAGE.items():
        column(messages, (key,), kind, lambda number: f"{path}: message {number}")
    times = np.array([message["utime"] for message in messages])
    if (np.diff(times) < 0).any():
        number = int(np.argmax(np.diff(times) < 0)) + 1
        raise UserError(f"{path}: message {number}: utime is earlier than that of the message before it; needed is time order")
    gap = max(times[0] - times_us[-1], times_us[0] - times[-1]) / 1e6
    if gap > FARTHEST_S:
        unit = unit_of(float(np.median(np.diff(times)))) if len(times) > 1 else None
        hint = f" (in {unit}?)" if unit not in (None, "microseconds") else ""
        raise UserError(f"{path}: utime {times[0]:.0f} to {times[-1]:.0f}{hint} is not the time of the scene's frames, "
                        f"{times_us[0]:.0f} to {times_us[-1]:.0f}; needed are microseconds of the same clock")  # fmt: skip
    return messages
