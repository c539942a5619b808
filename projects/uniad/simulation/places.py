"""Where on the streets a car stands: off the road, in more lanes than one, against the traffic, in a junction.

The four areas are NAVSIM's, which took them from nuPlan: they decide on drivable area and driving direction, and on whose fault a
collision from the side is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from uniad.simulation.log import Route

F64 = NDArray[np.float64]
Bools = NDArray[np.bool_]

BESIDE_M = 5.5  # a lane's middle this far from the route's line belongs to the same half of its road (lanes are 3.5 m wide)
ALONG_RAD = np.radians(60.0)
AGAINST_RAD = np.radians(120.0)  # CARLA: from here on a lane's direction is against the car's


@dataclass(frozen=True)
class Places:
    """What holds at each of n instants: [n]."""

    off_road: Bools  # a corner of the car outside the drivable area
    outside_m: F64  # how far the corner that is farthest outside lies from the drivable area
    several_lanes: Bools  # corners in more than one lane and no lane that holds all four
    junction: Bools  # the middle lies in a junction
    off_route: Bools  # the middle lies in a lane, and in none of the route: oncoming traffic, another street
    against: Bools  # the middle lies in a lane whose traffic comes towards it, and not in a junction
    beyond_m: F64  # how far the middle lies outside the drivable area


class Streets:
    """A route's map, prepared for questions."""

    def __init__(self, route: Route) -> None:
        self.drivable = route.map.drivable
        shapely.prepare(self.drivable)
        lanes = route.map.lanes
        self.strips = np.array([shapely.LineString(lane.centre).buffer(lane.width_m / 2, cap_style="flat") for lane in lanes])
        middles = [len(lane.centre) // 2 for lane in lanes]
        steps = [lane.centre[m] - lane.centre[m - 1] for lane, m in zip(lanes, middles)]
        self.heading = np.array([np.arctan2(dy, dx) for dx, dy in steps])
        self.in_junction = np.array([lane.kind == "junction" for lane in lanes], bool)
        s, across = route.project(np.array([(lane.centre[m] + lane.centre[m - 1]) / 2 for lane, m in zip(lanes, middles)]))
        turned = np.abs(wrapped(np.interp(s, route.s, np.unwrap(route.heading)) - self.heading))
        self.of_route = (np.abs(across) < BESIDE_M) & (turned < ALONG_RAD)
        self.tree = shapely.STRtree(self.strips)
        crossed = shapely.union_all([strip.buffer(0.1) for strip in self.strips[self.in_junction]])
        self.junctions = shapely.union_all([shapely.convex_hull(part) for part in shapely.get_parts(crossed)])
        shapely.prepare(self.junctions)

    def at(self, corners_n42: F64, middle_n2: F64, yaw_n: F64) -> Places:
        """Where a car stands whose box has these corners and this middle."""
        n = len(middle_n2)
        flat = corners_n42.reshape(-1, 2)
        outside = ~shapely.contains_xy(self.drivable, flat)
        distance = np.zeros(len(flat))
        distance[outside] = shapely.distance(shapely.points(flat[outside]), self.drivable)
        point, lane = self.tree.query(shapely.points(flat), predicate="intersects")
        held = np.zeros((n, len(self.strips)), np.int64)  # corners of a lane
        np.add.at(held, (point // 4, lane), 1)
        instant, lane = self.tree.query(shapely.points(middle_n2), predicate="intersects")
        junction = shapely.contains_xy(self.junctions, middle_n2)
        in_lane, on_route, against = np.zeros(n, bool), np.zeros(n, bool), np.zeros(n, bool)
        in_lane[instant] = True
        on_route[instant[self.of_route[lane]]] = True
        opposed = np.abs(wrapped(self.heading[lane] - yaw_n[instant])) > AGAINST_RAD
        against[instant[opposed & ~self.in_junction[lane]]] = True
        return Places(
            off_road=outside.reshape(n, 4).any(1),
            outside_m=distance.reshape(n, 4).max(1),
            several_lanes=((held > 0).sum(1) > 1) & ~(held == 4).any(1),
            junction=junction,
            off_route=in_lane & ~on_route,
            against=against & ~junction,
            beyond_m=np.where(
                shapely.contains_xy(self.drivable, middle_n2), 0.0, shapely.distance(shapely.points(middle_n2), self.drivable)
            ),
        )


def wrapped(angle: F64) -> F64:
    """The same angle from -pi to pi."""
    return (angle + np.pi) % (2 * np.pi) - np.pi
