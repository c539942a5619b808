"""A town's streets: a bent grid of roads with junctions, lanes, crossings, stop lines and car parks.

Coordinates are the map's: metres, x east, y north, origin in the south-western corner. In a road's own frame,
``along`` runs from junction a to junction b and ``lateral`` is positive to the left of that.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from shapely.geometry import Polygon
from shapely.geometry.base import BaseGeometry
from shapely.ops import unary_union

from uniad.data.synthetic.curves import Path, left_of, line_points, meet, turn_points, unit
from uniad.data.synthetic.params import rng_for

LANE_M = 3.5
PARKING_M = 2.4
WALK_M = 3.0
CROSSING_M = (1.0, 4.6)  # along the road, from its end
STOP_M = (5.6, 6.1)
GRID = 5
SPACING_M = 95.0
MARGIN_M = 70.0


@dataclass
class Road:
    """A straight piece of street between two junctions, with the same lanes both ways."""

    id: int
    a: int
    b: int
    p: np.ndarray  # start, on the centre line
    q: np.ndarray
    lanes: int  # each way
    parking: bool  # a strip on both sides

    @property
    def direction(self) -> np.ndarray:
        return unit(self.q - self.p)

    @property
    def length(self) -> float:
        return float(np.linalg.norm(self.q - self.p))

    @property
    def half(self) -> float:
        """Centre line to kerb, metres."""
        return self.lanes * LANE_M + (PARKING_M if self.parking else 0.5)

    def point(self, along: float, lateral: float) -> np.ndarray:
        return self.p + along * self.direction + lateral * left_of(self.direction)

    def rectangle(self, along: tuple[float, float], lateral: tuple[float, float]) -> np.ndarray:
        """Corners, counter-clockwise: [4, 2]."""
        (s0, s1), (l0, l1) = along, (min(lateral), max(lateral))
        return np.array([self.point(s0, l0), self.point(s1, l0), self.point(s1, l1), self.point(s0, l1)])

    def borders(self) -> list[float]:
        """Lateral positions of all lane borders, from the right kerb to the left one."""
        inner = [k * LANE_M for k in range(-self.lanes, self.lanes + 1)]
        return [-self.half, *inner, self.half]

    def end(self, junction: int) -> tuple[float, float]:
        """(along at that junction, +1 where ``along`` grows into the road, else -1)."""
        return (0.0, 1.0) if junction == self.a else (self.length, -1.0)


@dataclass
class Junction:
    id: int
    xy: np.ndarray
    roads: list[int] = field(default_factory=list)  # counter-clockwise
    polygon: np.ndarray | None = None  # [n, 2] counter-clockwise

    @property
    def signals(self) -> bool:
        """Where three or more roads meet there are signals and crossings; with two it is a bend."""
        return len(self.roads) >= 3


@dataclass
class Lane:
    id: int
    road: int
    towards: int  # the junction that it leads to
    start: int  # the junction that it comes from
    rank: int  # 0 is next to the oncoming traffic
    path: Path
    left: np.ndarray  # [2, 2] left border, in driving direction
    right: np.ndarray
    next: list[int] = field(default_factory=list)  # connectors

    @property
    def stop_s(self) -> float:
        return self.path.length - STOP_M[1] - 0.4


@dataclass
class Connector:
    id: int
    junction: int
    source: int
    target: int
    turn: str  # left, right, straight
    path: Path


@dataclass
class Crossing:
    id: int
    road: int
    junction: int
    polygon: np.ndarray  # [4, 2]
    middle: np.ndarray  # [2]
    along: float  # of its middle, in the road's frame


@dataclass
class Town:
    location: str
    side: int  # +1 where traffic keeps to the right, -1 to the left
    roads: list[Road]
    junctions: list[Junction]
    lanes: list[Lane]
    connectors: list[Connector]
    crossings: list[Crossing]
    carparks: list[tuple[int, np.ndarray]]  # (road, polygon)
    drivable: BaseGeometry
    walkway: BaseGeometry
    size: tuple[float, float]  # width, height in metres


def build_town(seed: int, location: str) -> Town:
    """The streets of one location. The same seed gives the same town, whoever asks."""
    side = -1 if location.startswith("singapore") else 1
    for attempt in range(1000):  # some shaken grids squeeze a street to nothing; about every third is sound
        rng = rng_for(seed, "town", location, attempt)
        junctions, roads, size = _layout(rng)
        sound = all(Polygon(junction.polygon).is_valid for junction in junctions)
        if sound and min(road.length for road in roads) > 12:
            break
    else:
        raise RuntimeError(f"no sound street plan for seed {seed}, {location}")
    lanes = _lanes(roads, side)
    connectors = _connectors(junctions, roads, lanes, side)
    crossings = _crossings(junctions, roads, rng)
    streets = unary_union(
        [Polygon(road.rectangle((0.0, road.length), (-road.half, road.half))).buffer(0.005) for road in roads]
        + [Polygon(junction.polygon).buffer(0.005) for junction in junctions]
    )
    carparks = _carparks(roads, streets, rng)
    drivable = unary_union([streets, *(Polygon(corners).buffer(0.005) for _, corners in carparks)])
    walkway = streets.buffer(WALK_M, 4).difference(drivable.buffer(0.01))
    return Town(location, side, roads, junctions, lanes, connectors, crossings, carparks, drivable, walkway, size)


def _layout(rng: np.random.Generator) -> tuple[list[Junction], list[Road], tuple[float, float]]:
    """Junctions with outlines, trimmed roads, and the map's width and height."""
    nodes, edges = _graph(rng)
    junctions = [Junction(i, xy) for i, xy in enumerate(nodes)]
    roads = []
    for chain in edges:
        lanes, parking = int(rng.random() < 0.45) + 1, bool(rng.random() < 0.6)
        for a, b in zip(chain, chain[1:]):
            roads.append(Road(len(roads), a, b, nodes[a], nodes[b], lanes, parking))
            junctions[a].roads.append(roads[-1].id)
            junctions[b].roads.append(roads[-1].id)
    _trim(junctions, roads)
    points = np.array([junction.xy for junction in junctions])
    low = points.min(axis=0) - MARGIN_M
    width, height = np.ceil(points.max(axis=0) + MARGIN_M - low)
    for junction in junctions:
        junction.xy = junction.xy - low
    for road in roads:
        road.p, road.q = road.p - low, road.q - low
    for junction in junctions:
        junction.polygon = _junction_polygon(junction, roads)
    return junctions, roads, (float(width), float(height))


def _graph(rng: np.random.Generator) -> tuple[list[np.ndarray], list[tuple[int, ...]]]:
    """Nodes and streets (chains of nodes): a shaken grid, some streets missing (T-junctions), some kinked (bends)."""
    nodes = []
    for j in range(GRID):
        for i in range(GRID):
            nodes.append(np.array([i, j], float) * SPACING_M + rng.uniform(-13, 13, 2))
    turn = rng.uniform(-0.35, 0.35)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    nodes = [rotation @ xy for xy in nodes]
    grid_edges = [(n, n + 1) for n in range(GRID * GRID) if n % GRID < GRID - 1]
    grid_edges += [(n, n + GRID) for n in range(GRID * (GRID - 1))]
    degree = np.bincount(np.array(grid_edges).ravel(), minlength=len(nodes))
    kept = []
    for a, b in rng.permutation(np.array(grid_edges)).tolist():
        if rng.random() < 0.16 and degree[a] > 3 and degree[b] > 2:
            degree[[a, b]] -= 1
        else:
            kept.append((a, b))
    edges: list[tuple[int, ...]] = []
    for a, b in sorted(kept):
        if rng.random() < 0.3:
            along = nodes[b] - nodes[a]
            bulge = rng.uniform(6, 13) * rng.choice([-1, 1])
            nodes.append(nodes[a] + along * rng.uniform(0.42, 0.58) + left_of(unit(along)) * bulge)
            edges.append((a, len(nodes) - 1, b))
        else:
            edges.append((a, b))
    return nodes, edges


def _outward(junction: Junction, road: Road) -> np.ndarray:
    return road.direction if road.a == junction.id else -road.direction


def _trim(junctions: list[Junction], roads: list[Road]) -> None:
    """Ends every road where its neighbours' kerbs meet its own, plus the corner's radius; sorts roads round junctions."""
    cuts: dict[tuple[int, int], float] = {}
    for junction in junctions:
        out = {r: _outward(junction, roads[r]) for r in junction.roads}
        junction.roads.sort(key=lambda r: np.arctan2(out[r][1], out[r][0]))
        radius, least = (5.0, 9.0) if junction.signals else (2.0, 3.0)
        for r in junction.roads:
            cuts[junction.id, r] = least
        for r, t in zip(junction.roads, junction.roads[1:] + junction.roads[:1]):
            angle = (np.arctan2(out[t][1], out[t][0]) - np.arctan2(out[r][1], out[r][0])) % (2 * np.pi)
            if angle > np.pi - 0.05:
                continue
            wr, wt = roads[r].half, roads[t].half
            # Two strips of half-widths wr and wt: the near kerbs meet at these distances from the node.
            cuts[junction.id, r] = max(cuts[junction.id, r], (wt + wr * np.cos(angle)) / np.sin(angle) + radius)
            cuts[junction.id, t] = max(cuts[junction.id, t], (wr + wt * np.cos(angle)) / np.sin(angle) + radius)
    for road in roads:
        direction = road.direction
        road.p = road.p + cuts[road.a, road.id] * direction
        road.q = road.q - cuts[road.b, road.id] * direction


def _end_points(junction: Junction, road: Road) -> np.ndarray:
    """The road's borders at its end, counter-clockwise round the junction: [n, 2]."""
    along, sign = road.end(junction.id)
    return np.array([road.point(along, sign * lateral) for lateral in road.borders()])


def _junction_polygon(junction: Junction, roads: list[Road]) -> np.ndarray:
    pieces = []
    order = junction.roads
    for r, t in zip(order, order[1:] + order[:1]):
        ends, after = _end_points(junction, roads[r]), _end_points(junction, roads[t])[0]
        pieces.append(ends)
        hit = meet(ends[-1], -_outward(junction, roads[r]), after, -_outward(junction, roads[t]))
        if hit is not None and 0.3 < min(hit) and max(hit) < 60:
            corner = ends[-1] - hit[0] * _outward(junction, roads[r])
            u = np.linspace(0, 1, 9)[1:-1, None]
            pieces.append((1 - u) ** 2 * ends[-1] + 2 * u * (1 - u) * corner + u**2 * after)
    return np.concatenate(pieces)


def _lanes(roads: list[Road], side: int) -> list[Lane]:
    lanes: list[Lane] = []
    for road in roads:
        for forward in (True, False):
            for rank in range(road.lanes):
                sign = -side if forward else side
                inner, outer = sign * rank * LANE_M, sign * (rank + 1) * LANE_M
                ends = (0.0, road.length) if forward else (road.length, 0.0)
                border = {lat: np.array([road.point(along, lat) for along in ends]) for lat in (inner, outer)}
                middle = (border[inner] + border[outer]) / 2
                left, right = (inner, outer) if side > 0 else (outer, inner)
                lanes.append(
                    Lane(
                        id=len(lanes),
                        road=road.id,
                        towards=road.b if forward else road.a,
                        start=road.a if forward else road.b,
                        rank=rank,
                        path=Path.through(line_points(middle[0], middle[1], 1.0)),
                        left=border[left],
                        right=border[right],
                    )
                )
    return lanes


def _connectors(junctions: list[Junction], roads: list[Road], lanes: list[Lane], side: int) -> list[Connector]:
    """Joins lanes across junctions: far turns from inner to inner lane, near turns from outer to outer, else straight."""
    connectors: list[Connector] = []
    near = "right" if side > 0 else "left"
    for junction in junctions:
        arriving = [lane for lane in lanes if lane.towards == junction.id]
        for source in arriving:
            options = []
            for target in (lane for lane in lanes if lane.start == junction.id and lane.road != source.road):
                turned = (target.path.yaw[0] - source.path.yaw[-1] + np.pi) % (2 * np.pi) - np.pi
                turn = "straight" if abs(turned) < 0.7 else ("left" if turned > 0 else "right")
                last_in, last_out = roads[source.road].lanes - 1, roads[target.road].lanes - 1
                if turn == "straight" or not junction.signals:
                    fits = target.rank == source.rank
                elif turn == near:
                    fits = source.rank == last_in and target.rank == last_out
                else:
                    fits = source.rank == 0 and target.rank == 0
                options.append((fits, target, turn))
            chosen = [(t, turn) for fits, t, turn in options if fits]
            if not chosen:  # a lane that would end here merges into the outermost one of the straightest road
                best = min(options, key=lambda o: (o[2] != "straight", abs(o[1].rank - source.rank)))
                chosen = [best[1:]]
            for target, turn in chosen:
                d, e = (np.array([np.cos(y), np.sin(y)]) for y in (source.path.yaw[-1], target.path.yaw[0]))
                points = turn_points(source.path.xy[-1], d, target.path.xy[0], e)
                source.next.append(len(connectors))
                connectors.append(
                    Connector(len(connectors), junction.id, source.id, target.id, turn, Path.through(points))
                )
    return connectors


def _crossings(junctions: list[Junction], roads: list[Road], rng: np.random.Generator) -> list[Crossing]:
    crossings: list[Crossing] = []
    for junction in junctions:
        for r in junction.roads if junction.signals else ():
            road = roads[r]
            if road.length < 22 or rng.random() < 0.15:
                continue
            end, sign = road.end(junction.id)
            s0, s1 = sorted(end + sign * d for d in CROSSING_M)
            polygon = road.rectangle((s0, s1), (-road.half, road.half))
            crossings.append(
                Crossing(len(crossings), r, junction.id, polygon, polygon.mean(axis=0), (s0 + s1) / 2)
            )
    return crossings


def _carparks(roads: list[Road], streets: BaseGeometry, rng: np.random.Generator) -> list[tuple[int, np.ndarray]]:
    carparks = []
    for road in roads:
        for sign in (-1, 1):
            if road.length < 45 or rng.random() > 0.22:
                continue
            start = rng.uniform(9, road.length - 33)
            corners = road.rectangle((start, start + 24), (sign * road.half, sign * (road.half + 15)))
            clear = road.rectangle((start - 4, start + 28), (sign * (road.half + 1), sign * (road.half + 19)))
            taken = [Polygon(other) for _, other in carparks]
            if not streets.intersects(Polygon(clear)) and not any(Polygon(clear).intersects(o) for o in taken):
                carparks.append((road.id, corners))
    return carparks
