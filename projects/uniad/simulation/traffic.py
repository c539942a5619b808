"""The others on the road, tick by tick: as they were recorded round the data set's driver, or reacting to the simulated car."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uniad.data.synthetic.curves import Path
from uniad.data.synthetic.dynamics import LEAD_S, TICK_S, Actor, Fleet, Signals, Track
from uniad.data.synthetic.roads import Town
from uniad.simulation.car import CarState
from uniad.simulation.log import AMBER, CAR_FRONT_M, CAR_MIDDLE_M, F64, GREEN, RED

TrafficMode = Literal["replay", "reactive"]
LEAD_STEPS = round(LEAD_S / TICK_S)


@dataclass(frozen=True)
class Braking:
    """A vehicle brakes for a while, for no reason that can be seen."""

    actor: int  # its id
    from_s: float  # since tick 0
    until_s: float
    mps2: float


@dataclass(frozen=True)
class Stepping:
    """A pedestrian waits at a kerb, then takes its right to cross. When it steps out, a car that comes can still stop well."""

    actor: int
    kerb_s: float  # arc length of its path at which it waits
    from_s: float  # since tick 0: not before


class Snapshot(NamedTuple):
    """All actors at a tick, in the order of the scene's."""

    pose: F64  # [A, 3] middle of the box and heading
    speed: F64  # [A]
    walked: F64  # [A] arc length of pedestrians
    signals: NDArray[np.int8]  # [L]


class Traffic:
    """Moves all movers of a scene in steps of a tick, from ``LEAD_S`` before tick 0.

    ``advance`` makes tick 0, 1, 2, ... one after the other. Up to tick 0, and in a replay for ever, the ego car among them is the
    data set's own driver. Where the traffic reacts, the others see the simulated car instead: vehicles keep their distance and
    stop behind it (intelligent driver model), people on foot wait for it at the kerb and halt rather than walk into its way.
    """

    def __init__(
        self, mode: TrafficMode, town: Town, actors: list[Actor], ego: Actor, signals: Signals,
        approaches: Sequence[tuple[int, int]], events: tuple[Braking | Stepping, ...] = (),
    ) -> None:  # fmt: skip
        self.mode, self.actors, self.signals, self.approaches = mode, actors, signals, approaches
        self.fleet = Fleet(town, actors, ego, signals)
        self.rows = {actor.id: row for row, actor in enumerate(self.fleet.movers)}  # the ego car is row 0
        self.still = np.array([[*actor.pose] for actor in actors])
        self.moving = np.array([k for k, actor in enumerate(actors) if actor.id in self.rows], int)
        self.moving_rows = np.array([self.rows[actors[k].id] for k in self.moving], int)
        self.events = events
        self.out: set[int] = set()  # pedestrians of Stepping that have left the kerb
        self.tick = -LEAD_STEPS
        while self.tick < 0:
            self._step(None)

    def lead(self) -> Track:
        """The ego car's track until now, which is tick 0 before anybody has advanced."""
        fleet = self.fleet
        s, v, a = ([float(rows[k][0]) for rows in fleet.history] for k in range(3))
        return replace(fleet.tracks[0], s=np.array([*s, fleet.s[0]]), v=np.array([*v, fleet.v[0]]), a=np.array([*a, a[-1]]))

    def now(self, route_s: float) -> Snapshot:
        """What there is at this tick. ``route_s``: of the simulated car's rear axle."""
        fleet = self.fleet
        fleet.place()
        pose, speed, walked = self.still.copy(), np.zeros(len(self.actors)), np.zeros(len(self.actors))
        rows, moving = self.moving_rows, self.moving
        pose[moving, :2], pose[moving, 2] = fleet.middle[rows], fleet.yaw[rows]
        speed[moving], walked[moving] = fleet.v[rows], fleet.s[rows]
        own = route_s if self.mode == "reactive" else fleet.s[0]
        return Snapshot(pose, speed, walked, self._lamps(self.signals.granted(fleet.tracks[0], own)))

    def advance(self, car: CarState, route_s: float) -> None:
        """One tick. car, route_s: the simulated car at its beginning, and its rear axle's arc length along the route."""
        self._step((car, route_s) if self.mode == "reactive" else None)

    def _lamps(self, granted: tuple[int, int] | None) -> NDArray[np.int8]:
        t_s = self.fleet.steps * TICK_S
        states = np.full(len(self.approaches), RED, np.int8)
        for number, (junction, road) in enumerate(self.approaches):
            if self.signals.green(junction, road, t_s, granted):
                states[number] = GREEN
            elif granted is None or granted[0] != junction:
                # The pause after a green belongs to it: who could not stop in time is still let through.
                states[number] = AMBER if self.signals.turn(junction, t_s)[0] == road else RED
        return states

    def _step(self, seen: tuple[CarState, float] | None) -> None:
        fleet, signals = self.fleet, self.signals
        own = fleet.s[0] if seen is None else seen[1]
        granted = signals.granted(fleet.tracks[0], own)
        fleet.place()
        if seen is not None:
            self._put_car(*seen)
        red = [signals.red_gap(track, fleet.steps * TICK_S, granted, *state) for track, *state in fleet.drivers()]
        drive, walk = fleet.drive(np.array(red)), fleet.walk()
        t_s = self.tick * TICK_S
        for event in self.events:
            row = self.rows[event.actor]
            if isinstance(event, Braking):
                if event.from_s <= t_s < event.until_s:
                    drive[row] = min(drive[row], -event.mps2)
            else:
                walk[row - fleet.count] = self._step_out(event, row, t_s)
        if seen is not None:
            self._yield_on_foot(walk)
        fleet.advance(np.concatenate([drive, walk]))
        self.tick += 1

    def _put_car(self, car: CarState, route_s: float) -> None:
        """The simulated car takes the place of the recorded driver in what the others see."""
        fleet = self.fleet
        ahead = np.array([np.cos(car.heading), np.sin(car.heading)])
        fleet.s[0], fleet.v[0], fleet.yaw[0] = route_s, car.speed, car.heading
        fleet.middle[0] = car.xy + CAR_MIDDLE_M * ahead
        mine = fleet.owner == 0
        fleet.discs[mine] = fleet.middle[0] + fleet.along[mine, None] * ahead

    def _step_out(self, event: Stepping, row: int, t_s: float) -> float:
        """Acceleration of a pedestrian that crosses by its right."""
        fleet = self.fleet
        s, v, pace = fleet.s[row], fleet.v[row], fleet.cruise[row]
        end = fleet.tracks[row].path.length
        if event.actor not in self.out and s > event.kerb_s - 0.4:
            if t_s < event.from_s or self._somebody_comes(fleet.tracks[row].path, event.kerb_s):
                return -v / TICK_S
            self.out.add(event.actor)
        return ((pace if s < end - 0.2 else 0.0) - v) / TICK_S

    def _somebody_comes(self, way: Path, kerb_s: float) -> bool:
        """Whether a vehicle will be on the pedestrian's way before it could have stopped well: after a second of reaction, and
        braking at 3 m/s2.
        """
        fleet = self.fleet
        n = fleet.count
        v, s = fleet.v[:n], fleet.s[:n] + fleet.front
        share = np.linspace(0.0, 1.0, 25)
        look = s[:, None] + share * (v + v**2 / 6.0 + 5.0)[:, None]
        points, _ = fleet.on_path(np.repeat(np.arange(n)[:, None], len(share), axis=1), look)
        across = way.at(kerb_s + np.arange(0.0, 12.0, 1.0))[0]
        near = np.linalg.norm(points[:, :, None] - across, axis=-1).min((1, 2)) < 2.0
        return bool((near & (v > 0.5)).any())

    def _yield_on_foot(self, walk: F64) -> None:
        """People halt rather than step in front of a vehicle that will be there within a second."""
        fleet = self.fleet
        n = fleet.count
        here = np.asarray(fleet.middle[n:], np.float64)
        soon = here + _unit(fleet.yaw[n:]) * fleet.cruise[n:, None]
        halted = self._in_the_way(soon) & ~self._in_the_way(here)
        walk[halted] = -fleet.v[n:][halted] / TICK_S

    def _in_the_way(self, points: F64) -> NDArray[np.bool_]:
        """Which points [n, 2] the simulated car covers, or will within 1.2 s as it drives now."""
        fleet = self.fleet
        yaw, v = fleet.yaw[0], fleet.v[0]
        if v < 1.0:
            return np.zeros(len(points), bool)
        off = points - fleet.middle[0]
        c, s = np.cos(yaw), np.sin(yaw)
        ahead, left = off[:, 0] * c + off[:, 1] * s, off[:, 1] * c - off[:, 0] * s
        front = CAR_FRONT_M - CAR_MIDDLE_M
        return (ahead > -front) & (ahead < front + 1.2 * v) & (np.abs(left) < 1.4)


def _unit(yaw: F64) -> F64:
    return np.stack([np.cos(yaw), np.sin(yaw)], -1)
