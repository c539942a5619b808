"""What is painted on the streets. The vector map and the picture of the ground are both made from these."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from uniad.data.synthetic.roads import LANE_M, STOP_M, Road, Town


class Divider(NamedTuple):
    road: int
    kind: str  # road (between the two directions) or lane
    dashed: bool
    line: np.ndarray  # [2, 2] metres


class StopLine(NamedTuple):
    road: int
    junction: int
    crossing: int | None  # id of the crossing behind it
    polygon: np.ndarray  # [4, 2]


def _span(road: Road, town: Town) -> tuple[float, float]:
    """Where the dividers of a road run: up to the stop lines at junctions with signals."""
    start = STOP_M[1] if town.junctions[road.a].signals else 0.0
    end = road.length - (STOP_M[1] if town.junctions[road.b].signals else 0.0)
    return (start, end) if end - start > 2.0 else (0.0, road.length)


def dividers(town: Town) -> list[Divider]:
    found = []
    for road in town.roads:
        s0, s1 = _span(road, town)
        for lateral in road.borders()[1:-1]:
            outermost = abs(lateral) > (road.lanes - 0.5) * LANE_M
            if outermost and not road.parking:
                continue  # the kerb is the border
            line = np.array([road.point(s0, lateral), road.point(s1, lateral)])
            kind = "road" if lateral == 0 else "lane"
            found.append(Divider(road.id, kind, kind == "lane" and not outermost, line))
    return found


def stop_lines(town: Town) -> list[StopLine]:
    behind = {(crossing.road, crossing.junction): crossing.id for crossing in town.crossings}
    found = []
    for junction in town.junctions:
        for r in junction.roads if junction.signals else ():
            road = town.roads[r]
            end, sign = road.end(junction.id)
            s0, s1 = sorted(end + sign * d for d in STOP_M)
            # Arriving traffic drives against the road's outward direction, on its own side.
            lateral = sign * town.side * road.lanes * LANE_M
            found.append(StopLine(r, junction.id, behind.get((r, junction.id)), road.rectangle((s0, s1), (0.0, lateral))))
    return found
