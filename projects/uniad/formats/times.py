"""Units of time, and the rate of keyframes.

The model's steps are half seconds: futures, plans, velocities and the tracker's motion all count on it. Times in another unit
and keyframes at another rate give results that look like results, so they are told apart here, by the steps themselves.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from uniad.errors import UserError
from uniad.geometry.nuscenes import STEP_S

# nuScenes picks the keyframe nearest to each half second: steps of 0.4 to 0.6 s, medians closer. 3 Hz and 1 Hz are well outside.
MEDIAN_S = (0.35, 0.7)
LONGEST_S = 10.0  # of a single step: a recording with a longer gap is two scenes
SHORTEST_S = 0.2  # no half second, however it jitters: a frame that was recorded twice, or one too many
MOST_MPS, JUMP_M = 100.0, 2.0  # of any road vehicle, and of a localisation that corrects itself
PER_SECOND = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
# Steps of 2 to 50 frames in a second; units are a thousand apart, so a step fits one of them only.
_KEYFRAME_S = (0.02, 2.0)


def unit_of(step: float) -> str | None:
    """The unit in which ``step`` is a step between frames of a camera; None where there is none."""
    fits = [unit for unit, per_s in PER_SECOND.items() if _KEYFRAME_S[0] <= step / per_s <= _KEYFRAME_S[1]]
    return fits[0] if fits else None


def check_times(
    times: NDArray[np.float64] | NDArray[np.int64],
    scene_starts: NDArray[np.int64],
    unit: str,
    name: str,
    where: Callable[[int], str],
    thin: str,
) -> None:
    """UserError where frames of a scene do not follow each other by about half a second.

    times: [N] in ``unit``. scene_starts: [scenes] first frame of each. name: of the key. where: what a message calls frame n.
    thin: how to take every N-th frame, with ``{every}`` for N.
    """
    for start, stop in zip(scene_starts, [*scene_starts[1:], len(times)]):
        steps = np.diff(times[start:stop])
        if not len(steps):
            continue
        if (steps <= 0).any():
            frame = int(start) + int(np.argmax(steps <= 0)) + 1
            what = "the same as" if times[frame] == times[frame - 1] else "earlier than"
            raise UserError(
                f"{where(frame)}: {name} {times[frame]} is {what} that of the frame before it ({times[frame - 1]}); "
                "times of a scene must grow"
            )
        _check_rate(steps / PER_SECOND[unit], unit, where(int(start)), name, thin)
        longest = float(steps.max()) / PER_SECOND[unit]
        if longest > LONGEST_S:
            frame = int(start) + int(np.argmax(steps)) + 1
            raise UserError(f"{where(frame)}: {name} is {longest:.3g} s after the frame before it; cut the scene in two there")
        shortest = float(steps.min()) / PER_SECOND[unit]
        if shortest < SHORTEST_S:
            frame = int(start) + int(np.argmin(steps)) + 1
            raise UserError(
                f"{where(frame)}: {name} is {shortest:.3g} s after the frame before it; needed are steps of about {STEP_S} s: "
                "take one of the two out"
            )


def _check_rate(steps_s: NDArray[np.float64], unit: str, where: str, name: str, thin: str) -> None:
    median = float(np.median(steps_s))
    if MEDIAN_S[0] <= median <= MEDIAN_S[1]:
        return
    step = median * PER_SECOND[unit]
    found = unit_of(step)
    if found is not None and found != unit:
        wanted = f"needed are {unit} (steps of about {STEP_S} s)"
        raise UserError(f"{where}: {name} steps by {step:.6g}, so it is in {found}; {wanted}")
    if found is None:
        raise UserError(f"{where}: {name} steps by {step:.6g} {unit}; needed are {unit}, with steps of about {STEP_S} s")
    every = max(1, round(STEP_S / median))
    wanted = f"needed is 2 Hz (steps of about {STEP_S} s)"
    if every > 1 and MEDIAN_S[0] <= every * median <= MEDIAN_S[1]:
        wanted += f": {thin.format(every=every)}"
    else:
        wanted += ": interpolate the recording to 2 Hz"
    raise UserError(f"{where}: frames follow each other by {median:.3g} s ({1 / median:.3g} Hz); {wanted}")
