"""``<route>.json``: the record of one drive, as ``make drive`` writes it; ``uniad.simulation.log`` says what each part means.

Metres, radians, seconds, rounded to a micrometre. What stands still has one row of ``pose`` and ``speed``, for all ticks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniad.errors import UserError
from uniad.formats.fields import Anything, Array, Choice, Each, Maybe, Named, Number, Record, Text, Whole, refuse

FORMAT = 1
AGAIN = "remove it, and `make drive` makes it again"
PLAN = (6, 2)
FARTHEST_M = 1e7


@dataclass(frozen=True)
class Rows:
    """Numbers [n, *shape], n as many as there are; NaN, written as null, only where it may be ``unknown``."""

    shape: tuple[int, ...]
    wanted: str
    least: int = 0
    kind: str = "float"
    unknown: bool = False

    def check(self, value: Any, where: str) -> NDArray[Any]:
        dtype = np.float64 if self.kind == "float" else np.int64
        if isinstance(value, list) and not value and not self.least:
            return np.zeros((0, *self.shape), dtype)
        try:
            array = np.array(value, np.float64) if isinstance(value, list) else np.zeros(())
        except (ValueError, TypeError, OverflowError):
            array = np.zeros(())
        good = array.ndim == 1 + len(self.shape) and array.shape[1:] == self.shape and len(array) >= self.least
        if good:
            known = array[~np.isnan(array)] if self.unknown else array
            good = bool((np.abs(known) <= FARTHEST_M).all()) and (self.kind == "float" or bool((known == np.floor(known)).all()))
        if not good:
            raise refuse(value, where, self.wanted)
        return array.astype(dtype)


POINTS = Rows((2,), "points x, y in metres")
LINE = Rows((2,), "points x, y in metres, two or more", least=2)
NUMBERS = Rows((), "a list of numbers")
AREA = Each(Each(Rows((2,), "a ring of points x, y", least=3), "rings, the outer one first", least=1), "a list of polygons")
ROUTE = Record(
    {
        "id": Text("a route's name", empty=False),
        "seed": Whole(low=0),
        "index": Whole(low=0),
        "location": Text(),
        "manoeuvre": Choice(("left", "right", "straight")),
        "features": Each(Text()),
        "centre": LINE,
        "heading": NUMBERS,
        "s": NUMBERS,
        "speed_mps": NUMBERS,
        "start_s": Number(),
        "goal_s": Number(),
        "start_speed_mps": Number(low=0),
        "limit_s": Number(low=0),
        "stop_lines": Each(
            Record(
                {
                    "line": Array((2, 2), "two points"),
                    "direction": Array((2,), "a direction x, y"),
                    "junction": Whole(low=0),
                    "route_s": Maybe(Number()),
                    "clear_s": Maybe(Number()),
                },
                wanted="a stop line",
            )
        ),
        "map": Record(
            {
                "drivable": AREA,
                "walkway": AREA,
                "crossings": Each(Array((4, 2), "four points")),
                "lanes": Each(
                    Record({"centre": LINE, "width_m": Number(low=0), "kind": Choice(("lane", "junction"))}, wanted="a lane")
                ),
                "side": Choice((1, -1)),
            },
            wanted="a map",
        ),
    },
    wanted="a route",
)
_TRANSFORM = Array((3, 3), "a plane transform of 3 x 3 numbers")
_OBJECTS = Record(
    {"boxes": Rows((9,), "boxes of 9 numbers"), "labels": Each(Text()), "scores": NUMBERS, "ids": Rows((), "ids", kind="whole")},
    wanted="detections",
)
_FORECASTS = Record(
    {"starts": POINTS, "paths": Each(Rows((2,), "points x, y in metres", least=1)), "labels": Each(Text())}, wanted="forecasts"
)
DRIVE = Record(
    {
        "format": Choice((FORMAT,)),
        "policy": Text("a policy's name", empty=False),
        "traffic": Choice(("replay", "reactive")),
        "end": Choice(("goal", "time", "crash", "away")),
        "crash_tick": Maybe(Whole(low=0)),
        "about": Named(Anything()),
        "route": ROUTE,
        "ego": Record(
            {
                "xy": Rows((2,), "points x, y in metres", least=1),
                **{name: NUMBERS for name in ("heading", "speed", "acceleration", "yaw_rate", "steering")},
            },
            wanted="the car's states",
        ),
        "actors": Each(
            Record(
                {
                    "id": Whole(),
                    "kind": Text(empty=False),
                    "mode": Choice(("driving", "parked", "walking", "standing", "static")),
                    "size": Array((3,), "width, length and height", low=0),
                    "pose": Rows((3,), "x, y and heading, one row or one a tick", least=1),
                    "speed": Rows((), "speeds, one or one a tick", least=1),
                },
                wanted="an actor",
            )
        ),
        "signals": Each(Rows((), "states of the signals, 0 to 2", kind="whole")),
        "frames": Each(
            Record(
                {
                    "tick": Whole(low=0),
                    "command": Choice((0, 1, 2)),
                    "global_from_lidar": _TRANSFORM,
                    "plan": Array(PLAN, "6 points x, y in metres"),
                    "plan_global": Array(PLAN, "6 points x, y in metres"),
                    "detections": _OBJECTS,
                    "forecasts": Maybe(_FORECASTS),
                },
                wanted="a frame",
            )
        ),
    },
    wanted="a drive",
)


def checked(value: Any, path: Path) -> dict[str, Any]:
    """The record of a drive with every value converted, its parts of one length; UserError for what does not fit."""
    if not isinstance(value, Mapping) or "ego" not in value:
        raise UserError(f"{path} is no record of a drive; {AGAIN}")
    drive = DRIVE.check(value, str(path))
    ticks, lines = len(drive["ego"]["xy"]), len(drive["route"]["stop_lines"])
    wrong = [name for name, values in drive["ego"].items() if len(values) != ticks]
    route = drive["route"]
    wrong += [f"route: {name}" for name in ("heading", "s", "speed_mps") if len(route[name]) != len(route["centre"])]
    wrong += [f"actor {actor['id']}" for actor in drive["actors"] if {len(actor["pose"]), len(actor["speed"])} - {1, ticks}]
    if len(drive["signals"]) != ticks or any(len(row) != lines or ((row < 0) | (row > 2)).any() for row in drive["signals"]):
        wrong.append("signals")
    wrong += [f"frames[{n}]: tick" for n, frame in enumerate(drive["frames"]) if frame["tick"] >= ticks]
    for number, frame in enumerate(drive["frames"]):
        seen, ways = frame["detections"], frame["forecasts"]
        same = len({len(values) for values in seen.values()}) == 1
        if not same or (ways and (len({len(v) for v in ways.values()}) > 1 or len({len(p) for p in ways["paths"]}) > 1)):
            wrong.append(f"frames[{number}]: objects")
    if wrong:
        raise UserError(f"{path}: {wrong[0]} does not fit {ticks} ticks and {lines} stop lines; {AGAIN}")
    return drive
