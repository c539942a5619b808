"""Who does not drive: parked vehicles, building sites with barriers and cones, people."""

from __future__ import annotations

import numpy as np

from uniad.data.synthetic.curves import Path, line_points
from uniad.data.synthetic.dynamics import Actor, Track
from uniad.data.synthetic.roads import PARKING_M, Crossing, Road, Town
from uniad.data.synthetic.shapes import draw_size
from uniad.data.synthetic.traffic import CATEGORY

PARKED = ("car", "truck", "trailer", "motorcycle", "bicycle")
PARKED_SHARE = (0.78, 0.07, 0.04, 0.06, 0.05)
# From the kerb: where people walk, one line each way; who will cross or has crossed; who stands and talks.
STROLL_M, CROSSER_M, TALK_M = (1.05, 1.75), 2.4, 3.3


class Crowd:
    """Collects actors with rising ids."""

    def __init__(self, first_id: int, rng: np.random.Generator) -> None:
        self.actors: list[Actor] = []
        self.first_id = first_id
        self.rng = rng

    def add(self, kind: str, mode: str, xy: np.ndarray, yaw: float, *, category: str | None = None, rider: bool = False,
            track: Track | None = None, shrink: float = 1.0) -> Actor:  # fmt: skip
        w, l, h = draw_size(kind, self.rng)
        actor = Actor(
            id=self.first_id + len(self.actors), kind=kind, category=category or CATEGORY[kind],
            size=(w * shrink, l * shrink, h * shrink), mode=mode, pose=(float(xy[0]), float(xy[1]), float(yaw)),
            rider=rider, look=int(self.rng.integers(2**31)), track=track,
        )  # fmt: skip
        self.actors.append(actor)
        return actor


def near_roads(town: Town, reach: np.ndarray, within_m: float) -> list[Road]:
    """Roads that come within a distance of the ego car's way."""
    found = []
    for road in town.roads:
        points = line_points(road.p, road.q, 8.0)
        if np.linalg.norm(points[:, None] - reach[None], axis=-1).min() < within_m:
            found.append(road)
    return found


def make_crowd(town: Town, reach: np.ndarray, first_id: int, rng: np.random.Generator) -> list[Actor]:
    """Everything beside the traffic, along the roads near the ego car's way."""
    crowd = Crowd(first_id, rng)
    roads = near_roads(town, reach, 60.0)
    sites = _sites(crowd, near_roads(town, reach, 25.0))
    for road in roads:
        if road.parking:
            _park(crowd, town, road, sites)
    for r, corners in town.carparks:
        if any(road.id == r for road in roads):
            _fill_carpark(crowd, town.roads[r], corners)
    _people(crowd, town, roads, sites)
    return crowd.actors


def _heading(road: Road, along_road: bool = True) -> float:
    yaw = float(np.arctan2(road.direction[1], road.direction[0]))
    return yaw if along_road else yaw + np.pi


def _sites(crowd: Crowd, roads: list[Road]) -> dict[tuple[int, int], tuple[float, float]]:
    """Building sites in the parking strip: barriers towards the traffic, cones at both ends, a machine, workers."""
    rng = crowd.rng
    sites: dict[tuple[int, int], tuple[float, float]] = {}
    fit = [road for road in roads if road.parking and road.length > 40]
    for i in rng.permutation(len(fit))[:2]:
        road = fit[i]
        sign = int(rng.choice([-1, 1]))
        length = rng.uniform(11, 16)
        start = rng.uniform(10, road.length - 10 - length)
        sites[road.id, sign] = (start - 5, start + length + 5)
        edge = sign * (road.half - PARKING_M + 0.3)
        for along in np.arange(start + 1.3, start + length, 2.8):
            crowd.add("barrier", "static", road.point(along, edge), _heading(road) + np.pi / 2 + rng.normal(0, 0.03))
        for k in range(3):
            lateral = edge + sign * 0.6 * (k + 0.5)
            crowd.add("traffic_cone", "static", road.point(start - 0.6 - 1.2 * (k + 1), lateral), _heading(road))
            crowd.add("traffic_cone", "static", road.point(start + length + 0.6 + 1.2 * (k + 1), lateral), _heading(road))
        middle = road.point(start + length / 2, sign * (road.half - 0.2))
        crowd.add("construction_vehicle", "parked", middle, _heading(road, bool(rng.random() < 0.5)))
        for k in range(int(rng.integers(1, 3))):
            spot = road.point(start + 0.8 + k * (length - 1.6), sign * (road.half - 1.0))
            crowd.add("pedestrian", "standing", spot, rng.uniform(-np.pi, np.pi), category="human.pedestrian.construction_worker")
    for road in roads:
        if rng.random() < 0.35:  # a few cones by the kerb, as movers leave them
            along, sign = rng.uniform(8, max(9.0, road.length - 8)), rng.choice([-1, 1])
            for k in range(int(rng.integers(1, 4))):
                crowd.add("traffic_cone", "static", road.point(along + 1.6 * k, sign * (road.half + 0.35)), rng.uniform(-3, 3))
    return sites


def _park(crowd: Crowd, town: Town, road: Road, sites: dict) -> None:
    rng = crowd.rng
    fill = rng.uniform(0.3, 0.85)
    for sign in (-1, 1):
        gaps = [sites[road.id, sign]] if (road.id, sign) in sites else []
        for r, corners in town.carparks:  # keep the driveway free
            across = (corners - road.p) @ np.array([-road.direction[1], road.direction[0]])
            if r == road.id and np.sign(across.mean()) == sign:
                along = (corners - road.p) @ road.direction
                gaps.append((along.min(), along.max()))
        s = rng.uniform(7.0, 9.0)
        while True:
            kind = PARKED[rng.choice(len(PARKED), p=PARKED_SHARE)]
            length = {"truck": 8.0, "trailer": 12.6, "motorcycle": 2.6, "bicycle": 2.4}.get(kind, 5.2)
            if s + length > road.length - 7.0:
                break
            middle = s + length / 2
            if rng.random() < fill and not any(a < s + length and s < b for a, b in gaps):
                # On the right-hand side of a right-hand town, traffic runs along the road's direction.
                yaw = _heading(road, sign == -town.side) + rng.normal(0, 0.02)
                crowd.add(kind, "parked", road.point(middle, sign * (road.half - 1.25 + rng.normal(0, 0.06))), yaw)
                s += rng.uniform(0.4, 1.6)
            s += length


def _fill_carpark(crowd: Crowd, road: Road, corners: np.ndarray) -> None:
    rng = crowd.rng
    normal = np.array([-road.direction[1], road.direction[0]])
    sign = np.sign((corners.mean(axis=0) - road.p) @ normal)
    start = ((corners - road.p) @ road.direction).min()
    for k in range(8):  # one row along the back, head or tail in
        if rng.random() < 0.6:
            kind = "car" if rng.random() < 0.92 else "motorcycle"
            facing = _heading(road) + (np.pi / 2) * (1 if rng.random() < 0.5 else -1) + rng.normal(0, 0.04)
            crowd.add(kind, "parked", road.point(start + 1.6 + 2.9 * k, sign * (road.half + 11.8)), facing)


def _walker(crowd: Crowd, points: np.ndarray, start: float, pace: float, waits: list) -> None:
    track = Track(Path.through(points), 0.0, 0.3, np.array([start]), np.array([pace]), np.zeros(1), cruise=pace, waits=waits)
    child = crowd.rng.random() < 0.1
    crowd.add("pedestrian", "walking", points[0], 0.0, track=track, shrink=0.72 if child else 1.0,
              category="human.pedestrian.child" if child else None)  # fmt: skip


def _people(crowd: Crowd, town: Town, roads: list[Road], sites: dict) -> None:
    rng = crowd.rng
    ids = {road.id for road in roads}
    for crossing in town.crossings:
        if crossing.road in ids:
            _cross(crowd, town.roads[crossing.road], crossing, int(rng.integers(0, 3)))
    for road in roads:
        for side in (-1, 1):
            for way, lateral in enumerate(STROLL_M):
                if (road.id, side) not in sites and rng.random() < 0.45:
                    _stroll(crowd, road, side * (road.half + lateral), bool(way))
        if rng.random() < 0.4:  # people who talk
            along, side = rng.uniform(6, max(7.0, road.length - 6)), rng.choice([-1, 1])
            facing = rng.uniform(-np.pi, np.pi)
            for k in range(int(rng.integers(1, 4))):
                around = facing + 2.1 * k
                spot = road.point(along, side * (road.half + TALK_M)) + 0.55 * np.array([np.cos(around), np.sin(around)])
                crowd.add("pedestrian", "standing", spot, around + np.pi)


def _stroll(crowd: Crowd, road: Road, lateral: float, back: bool) -> None:
    """One to three people in a row along a road, at one pace, so that nobody walks through another."""
    rng = crowd.rng
    pace = float(rng.uniform(0.9, 1.7))
    start = rng.uniform(3.4, max(4.0, road.length - 16.0))
    for k in range(int(rng.choice(4, p=(0.0, 0.6, 0.25, 0.15)))):
        first, last = 2.0, road.length - 2.0 - 1.4 * k  # who walks behind halts behind
        if back:
            first, last = road.length - first, road.length - last
        way = line_points(road.point(first, lateral), road.point(last, lateral), 1.0)
        _walker(crowd, way, start - 1.7 * k, pace, [])


def _cross(crowd: Crowd, road: Road, crossing: Crossing, count: int) -> None:
    """Along one side, over the crossing, back along the other side; side by side on the crossing."""
    rng = crowd.rng
    side = int(rng.choice([-1, 1]))
    inward = 1.0 if crossing.along < road.length / 2 else -1.0
    pace = float(rng.uniform(0.9, 1.6))
    beside = road.half + CROSSER_M
    far = crossing.along + inward * min(30.0, road.length - 12.0)
    first = max(1.7, abs(far - crossing.along) - rng.uniform(0.0, 22.0))
    for k in range(count):
        along = crossing.along + inward * (1.5 * k - 0.8)  # who comes second turns off earlier, and is first on the way back
        end = far - inward * 1.5 * (count - 1 - k)
        points = [
            line_points(road.point(far, side * beside), road.point(along, side * beside), 1.0),
            line_points(road.point(along, side * (beside - 0.5)), road.point(along, -side * (beside - 0.5)), 1.0),
            line_points(road.point(along, -side * beside), road.point(end, -side * beside), 1.0),
        ]
        wait = (abs(far - along) + CROSSER_M - 0.4, crossing.middle, road.half + 4.5)
        _walker(crowd, np.concatenate(points), first - 1.7 * k, pace, [wait])
