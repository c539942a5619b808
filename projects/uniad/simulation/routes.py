"""Routes by seed: a world of its own for each seed, four routes in it, and what happens on the way.

A world's seed gives its four towns; route k of it runs in town k. Manoeuvres and events go round from route to route, so that
twelve routes in a row have every manoeuvre with every event.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from shapely.geometry import LineString, Point, box

from uniad.data.synthetic.curves import Path, line_points
from uniad.data.synthetic.dynamics import GREEN_S, LEAD_S, RED_S, Actor, Signals, Track, vehicle_track
from uniad.data.synthetic.params import LOCATIONS, MANOEUVRES, SceneSpec, WorldParams, rng_for
from uniad.data.synthetic.population import make_crowd
from uniad.data.synthetic.roads import LANE_M, STOP_M, Crossing, Road, Town
from uniad.data.synthetic.scene import Course, Scene, town_of
from uniad.data.synthetic.shapes import draw_size
from uniad.data.synthetic.traffic import CATEGORY, make_ego, make_traffic
from uniad.errors import UserError
from uniad.simulation.log import CAR_FRONT_M, F64, FRAME_S, Lane, RoadMap, Route, StopLine
from uniad.simulation.traffic import Braking, Stepping, Traffic, TrafficMode

Event = Literal["red_light", "braking_leader", "crossing_pedestrian", "queue"]  # queue: a red light behind somebody who waits

PER_WORLD = len(LOCATIONS)
EVENTS: tuple[Event | None, ...] = (None, "red_light", "braking_leader", "crossing_pedestrian")
PATHS_S = 60.0  # for how long the others have a way to go
SLOT_S = GREEN_S + RED_S  # of an approach in its junction's turn
BEYOND_M = 40.0  # the goal, behind the first junction
AROUND_M = 60.0  # of the map that a route carries
START_US = 1_532_402_900_000_000
HIGHEST_SEED = 2**31 - 1

@dataclass(frozen=True)
class Setup:
    """A route and the world that it runs in, ready to be driven any number of times."""

    route: Route
    scene: Scene
    ego: Actor
    signals: Signals
    approaches: tuple[tuple[int, int], ...]  # (junction, road) of route.stop_lines
    events: tuple[Braking | Stepping, ...]

    def traffic(self, mode: TrafficMode) -> Traffic:
        """The traffic, at tick 0."""
        return Traffic(mode, self.scene.town, self.scene.actors, self.ego, self.signals, self.approaches, self.events)


def route_keys(seed: int, count: int) -> list[tuple[int, int]]:
    """(world seed, index) of a number of routes, world after world from a seed on."""
    if count < 1:
        raise UserError(f"{count} routes: ask for at least 1")
    last = seed + (count - 1) // PER_WORLD
    if not 0 <= seed <= last <= HIGHEST_SEED:
        raise UserError(f"seed {seed}: choose one from 0 to {HIGHEST_SEED - (count - 1) // PER_WORLD}")
    return [(seed + number // PER_WORLD, number % PER_WORLD) for number in range(count)]


def route_id(seed: int, index: int) -> str:
    return f"seed-{seed:04d}-route-{index}"


def make_setup(seed: int, index: int) -> Setup:
    """Route ``index`` (0 to 3) of a world. The same whoever asks, on any machine."""
    number = seed * PER_WORLD + index
    manoeuvre, event = MANOEUVRES[number % 3], EVENTS[number // 3 % len(EVENTS)]
    # No frames are recorded; the number only bounds what nobody reads.
    params = WorldParams(seed=seed, frames=2, driven=True)
    spec = SceneSpec(route_id(seed, index), "val", index, LOCATIONS[index], manoeuvre, START_US + number * 900_000_000)
    return setup_of(params, spec, event)


def setup_of(params: WorldParams, spec: SceneSpec, event: Event | None, *words: object) -> Setup:
    """The route of a scene: its manoeuvre with an event. ``words`` draw another one."""
    seed, manoeuvre = params.seed, spec.manoeuvre
    town, _ = town_of(seed, spec.location, params.driven)
    for attempt in range(200):  # not every junction has what an event needs
        rng = rng_for(seed, spec.name, "route", attempt, *words)
        ego = make_ego(town, manoeuvre, 20.0, rng)
        found = _Plan(seed, town, ego, event, rng)
        if found.fits:
            break
    else:
        raise RuntimeError(f"{spec.name}: no way for {manoeuvre} with {event} in this town")
    track = ego.trajectory
    reach = track.path.at(np.arange(track.s[0], found.goal_s + 25.0, 8.0))[0]
    movers = make_traffic(town, ego, reach, 1, PATHS_S, rng)
    crowd = make_crowd(town, reach, 1 + len(movers), rng_for(seed, spec.name, "crowd"))
    actors, events = found.stage([*movers, *crowd])
    for number, actor in enumerate(actors):
        actor.id = number + 1
    driven = track.path.at(np.arange(track.s[0] - 10.0, found.goal_s + 30.0, 4.0))[0]
    scene = Scene(params, spec, Course(ego, actors, driven))
    wanted = tuple(replace(e, actor=actors[e.actor].id) for e in events)
    lines, approaches = _stop_lines(town, track, driven)
    lead = Traffic("replay", town, actors, ego, found.signals, approaches, wanted).lead()
    route = _route(spec, found, lead, lines, driven, town, event, actors)
    return Setup(route, scene, ego, found.signals, approaches, wanted)


class _Plan:
    """An event on a way: where and when it happens, and what it needs."""

    def __init__(self, seed: int, town: Town, ego: Actor, event: Event | None, rng: np.random.Generator) -> None:
        self.seed = seed
        self.town, self.ego, self.event, self.rng = town, ego, event, rng
        track = ego.trajectory
        self.path = track.path
        stop_s, clear_s, self.junction, self.road = track.stops[0]
        self.goal_s = clear_s + BEYOND_M
        for later, *_ in track.stops[1:]:  # not where it would have to wait at the next signal
            if later - 14.0 < self.goal_s + CAR_FRONT_M:
                self.goal_s = later - 14.0 - CAR_FRONT_M
                break
        assert track.limit is not None  # a vehicle's track has it
        self.limit = track.limit
        start, count = float(track.s[0]), 400
        s = np.linspace(start, self.goal_s, count)
        pace = np.maximum(np.interp(s, *self.limit), 1.0)
        self.eta_s = np.concatenate([[0.0], np.cumsum(np.diff(s) / pace[:-1])])
        self.eta_at = s
        self.signals = Signals(town, rng.uniform(0, 40, len(town.junctions)), None)
        self.wait_s = 0.0
        self.fits = self.goal_s > clear_s + 15.0
        self.crossing = self._crossing(clear_s) if event == "crossing_pedestrian" else None
        if event == "crossing_pedestrian":
            self.fits &= self.crossing is not None
        if event in ("red_light", "queue"):
            self._turn_red(stop_s)

    def eta(self, s: float) -> float:
        """When the rear axle is there on an empty road, since tick 0."""
        return float(np.interp(s, self.eta_at, self.eta_s)) - LEAD_S

    def _turn_red(self, stop_s: float) -> None:
        """The first signal turns green some seconds after the car has come to it."""
        roads = self.town.junctions[self.junction].roads
        cycle = len(roads) * SLOT_S
        self.wait_s = float(self.rng.uniform(3.0, 6.0))
        green_s = LEAD_S + self.eta(stop_s - CAR_FRONT_M) + self.wait_s
        phase = self.signals.phase.copy()
        phase[self.junction] = (roads.index(self.road) * SLOT_S - green_s) % cycle
        others = frozenset(range(len(self.town.junctions))) - {self.junction}
        self.signals = Signals(self.town, phase, others)

    def _crossing(self, clear_s: float) -> tuple[Crossing, Road, float] | None:
        """The zebra crossing behind the junction, its road, and where the way meets it."""
        for crossing in self.town.crossings:
            if crossing.junction != self.junction or crossing.road == self.road:
                continue
            s = self.path.s
            away = np.linalg.norm(self.path.xy - crossing.middle, axis=1)
            near = np.where((s > clear_s - 25.0) & (s < clear_s + 15.0), away, np.inf)
            road = self.town.roads[crossing.road]
            at = float(s[near.argmin()])
            direction = np.array([np.cos(self.path.at(at)[1]), np.sin(self.path.at(at)[1])])
            if near.min() < road.half and abs(float(direction @ road.direction)) > 0.9:
                return crossing, road, at
        return None

    def stage(self, actors: list[Actor]) -> tuple[list[Actor], list[Braking | Stepping]]:
        """The actors with those that the event needs, and the event, whose ``actor`` is a place in the list."""
        if self.event == "braking_leader":
            return self._leader(actors)
        if self.event == "queue":
            return self._leader(actors, brakes=False)
        if self.crossing is not None:
            return self._pedestrian(actors)
        return actors, []

    def _leader(self, actors: list[Actor], brakes: bool = True) -> tuple[list[Actor], list[Braking | Stepping]]:
        rng, own = self.rng, self.ego.trajectory
        size = draw_size("car", rng)
        leader = Actor(0, "car", CATEGORY["car"], size, "driving", look=int(rng.integers(2**31)))
        s = float(own.s[0]) + CAR_FRONT_M + float(rng.uniform(9.0, 13.0))
        leader.track = vehicle_track(self.path, s, size, own.cruise, own.stops)
        # Nobody else between the two, or where the leader is.
        lane = LineString(self.path.at(np.arange(own.s[0] - 2.0, s + size[1] + 8.0, 1.0))[0]).buffer(1.6)
        kept = [a for a in actors if a.mode != "driving" or not lane.intersects(_disc(a))]
        if not brakes:
            return [*kept, leader], []
        from_s = float(rng.uniform(2.0, 6.0))
        event = Braking(len(kept), from_s, from_s + float(rng.uniform(3.0, 4.5)), float(rng.uniform(3.5, 5.0)))
        self.wait_s = event.until_s - event.from_s + 2.0
        return [*kept, leader], [event]

    def _pedestrian(self, actors: list[Actor]) -> tuple[list[Actor], list[Braking | Stepping]]:
        assert self.crossing is not None
        rng = self.rng
        crossing, road, at = self.crossing
        side = int(rng.choice([-1, 1]))
        pace, beside = float(rng.uniform(1.1, 1.6)), road.half + 2.4
        along = crossing.along + float(rng.uniform(-0.8, 0.8))
        ends = road.point(along, side * beside), road.point(along, -side * beside)
        inward = 1.0 if crossing.along < road.length / 2 else -1.0
        aside = road.point(along + inward * min(8.0, road.length / 3), -side * beside)
        path = Path.through(np.concatenate([line_points(*ends, 1.0), line_points(ends[1], aside, 1.0)]))
        kerb_s = 2.4 - 0.4
        # On the car's lane when the car would be there.
        lateral = float((self.path.at(at)[0] - road.p) @ np.array([-road.direction[1], road.direction[0]]))
        walk_s = (abs(side * road.half - lateral) + 0.4) / pace
        from_s = max(self.eta(at - CAR_FRONT_M) - 0.3 - walk_s, 0.3)
        track = Track(path, 0.0, 0.3, np.array([0.6]), np.array([pace]), np.zeros(1), cruise=pace)
        walker = Actor(0, "pedestrian", CATEGORY["pedestrian"], draw_size("pedestrian", rng), "walking",
                       look=int(rng.integers(2**31)), track=track)  # fmt: skip
        self.wait_s = 8.0
        return [*actors, walker], [Stepping(len(actors), kerb_s, from_s)]


def _disc(actor: Actor):
    x, y, *_ = actor.at(-LEAD_S)
    return Point(x, y).buffer(actor.size[1] / 2)


def _stop_lines(town: Town, track: Track, driven: F64) -> tuple[tuple[StopLine, ...], tuple[tuple[int, int], ...]]:
    """All stop lines near the way, and (junction, road) of each."""
    own = {(junction, road): (stop_s, clear_s) for stop_s, clear_s, junction, road in reversed(track.stops)}
    lines, approaches = [], []
    for junction in town.junctions:
        if not junction.signals or np.linalg.norm(driven - junction.xy, axis=1).min() > AROUND_M:
            continue
        for r in junction.roads:
            road = town.roads[r]
            end, sign = road.end(junction.id)
            lateral = sign * town.side * road.lanes * LANE_M
            line = np.array([road.point(end + sign * STOP_M[1], 0.0), road.point(end + sign * STOP_M[1], lateral)])
            stop_s, clear_s = own.get((junction.id, r), (np.nan, np.nan))
            # A driver halts 0.4 m before the line.
            lines.append(StopLine(line, -sign * road.direction, junction.id, stop_s + 0.4, clear_s))
            approaches.append((junction.id, r))
    return tuple(lines), tuple(approaches)


def _map(town: Town, driven: F64) -> RoadMap:
    near = LineString(driven).buffer(AROUND_M + 20.0)
    window = box(*near.bounds)
    lanes = [Lane(lane.path.xy, LANE_M, "lane") for lane in town.lanes if LineString(lane.path.xy).intersects(near)]
    lanes += [Lane(c.path.xy, LANE_M, "junction") for c in town.connectors if LineString(c.path.xy).intersects(near)]
    return RoadMap(
        town.drivable.intersection(window), town.walkway.intersection(window),
        tuple(c.polygon for c in town.crossings if near.contains(Point(c.middle))), tuple(lanes), town.side,
    )  # fmt: skip


def _route(
    spec: SceneSpec, found: _Plan, lead: Track, lines: tuple[StopLine, ...], driven: F64, town: Town,
    event: Event | None, actors: list[Actor],
) -> Route:  # fmt: skip
    keep = found.path.s <= found.goal_s + 45.0
    way = LineString(driven)
    parked = sum(a.mode == "parked" and way.distance(Point(a.pose[:2])) < 5.5 for a in actors)
    features: list[str] = [event] if event else []
    if parked >= 3:
        features.append("parked_cars")
    s = found.path.s[keep]
    limit_s = 1.6 * found.eta(found.goal_s) + 8.0 + found.wait_s
    return Route(
        id=spec.name, seed=found.seed, index=spec.index, location=spec.location, manoeuvre=spec.manoeuvre,
        features=tuple(features), centre=found.path.xy[keep], heading=found.path.yaw[keep], s=s,
        speed_mps=np.interp(s, *found.limit), start_s=float(lead.s[-1]), goal_s=float(found.goal_s),
        start_speed_mps=float(lead.v[-1]), limit_s=float(np.ceil(limit_s / FRAME_S) * FRAME_S), stop_lines=lines,
        map=_map(town, driven),
    )  # fmt: skip
