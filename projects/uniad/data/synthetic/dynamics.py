"""How things move: vehicles follow lanes, keep their distance (intelligent driver model), brake for curves, red signals
and people; pedestrians walk and wait at the kerb until the street is clear.

Every mover runs along a fixed path, so its state is arc length, speed and acceleration. Between two steps the
acceleration is constant: poses at any instant (cameras, 50 Hz CAN bus) come from the same closed form.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from uniad.data.synthetic.curves import Path
from uniad.data.synthetic.roads import Town

TICK_S = 0.1
LEAD_S = 0.6  # simulated before the first keyframe: cameras fire and CAN messages arrive ahead of it
ACCEL, BRAKE, HARD_BRAKE = 1.6, 2.2, 7.0  # metres per second squared
HEADWAY_S, STANDSTILL_M = 1.1, 2.0
LOOK_M = np.arange(0.0, 42.0, 1.5)  # where a driver looks along its path
LATERAL_ACCEL = 2.4
GREEN_S, RED_S = 6.5, 1.5  # per approach, and between approaches
REAR_AXLE = 0.3  # of the length, behind the middle: this point stays on the path


@dataclass
class Actor:
    """Anything with a box. ``pose`` holds for parked and standing things; movers have a ``track``."""

    id: int
    kind: str  # detection class
    category: str  # nuScenes category
    size: tuple[float, float, float]  # width, length, height
    mode: str  # driving, parked, walking, standing, static
    pose: tuple[float, float, float] = (0.0, 0.0, 0.0)  # x, y of the middle, yaw
    rider: bool = True
    look: int = 0  # seed of its paint
    track: Track | None = None

    @property
    def trajectory(self) -> Track:
        """The track of a mover."""
        if self.track is None:
            raise ValueError(f"actor {self.id} ({self.mode}) does not move")
        return self.track

    def at(self, t_s: float) -> tuple[float, float, float, float]:
        """x, y of the middle, yaw, speed at a time since the first keyframe."""
        if self.track is None:
            return (*self.pose, 0.0)
        xy, yaw, speed, _ = self.track.at(t_s)
        ahead = self.track.axle
        return (
            float(xy[0] + ahead * np.cos(yaw)), float(xy[1] + ahead * np.sin(yaw)), float(yaw), float(speed),
        )  # fmt: skip


@dataclass
class Track:
    """Motion along a path. ``axle`` is how far the box's middle lies ahead of the point that follows the path."""

    path: Path
    axle: float
    front: float  # from that point to the front bumper
    s: np.ndarray  # [steps] arc length, speed and acceleration; before the simulation one start value each
    v: np.ndarray
    a: np.ndarray
    cruise: float = 8.0
    limit: tuple[np.ndarray, np.ndarray] | None = None
    stops: list[tuple[float, float, int, int]] = field(default_factory=list)  # stop at s, clear at s, junction, road
    # Pedestrians: kerb at s, middle of the crossing, how far from it a standing vehicle is in the way.
    waits: list[tuple[float, np.ndarray, float]] = field(default_factory=list)

    def at(self, t_s: np.ndarray | float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Position [.., 2], heading, speed and acceleration of the path point at times since the first keyframe."""
        s, v, a = self.motion(t_s)
        return *self.path.at(s), v, a

    def motion(self, t_s: np.ndarray | float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Arc length, speed and acceleration at times since the first keyframe."""
        steps = (np.asarray(t_s, float) + LEAD_S) / TICK_S
        k = np.clip(np.floor(steps + 1e-9).astype(int), 0, len(self.a) - 1)
        tau = (steps - k) * TICK_S
        s0, v0, a0 = self.s[k], self.v[k], self.a[k]
        return s0 + v0 * tau + 0.5 * a0 * tau**2, np.maximum(v0 + a0 * tau, 0.0), a0


def vehicle_track(path: Path, s: float, size: tuple[float, float, float], cruise: float, stops: list) -> Track:
    """A vehicle at arc length s (its rear axle), as fast as curves and the next stop line allow."""
    length = size[1]
    limit = path.speed_limit(cruise, LATERAL_ACCEL, BRAKE)
    start = (np.array([s]), np.array([float(np.interp(s, *limit))]), np.zeros(1))
    return Track(path, REAR_AXLE * length, (REAR_AXLE + 0.5) * length, *start, cruise=cruise, limit=limit, stops=stops)


def simulate(town: Town, actors: list[Actor], ego: Actor, duration_s: float, signals: Signals) -> None:
    """Moves all tracks from before the first keyframe until ``duration_s``."""
    fleet = Fleet(town, actors, ego, signals)
    for _ in range(int(np.ceil((duration_s + LEAD_S) / TICK_S)) + 1):
        fleet.step()
    fleet.store()


@dataclass(frozen=True)
class Signals:
    """The signals of a town: one approach of a junction at a time has green, so streams never cross."""

    town: Town
    phase: np.ndarray  # [junctions] shifts each junction's turn, s
    priority: frozenset[int] | None = frozenset()  # junctions that turn green for the ego car as it comes near; None: all

    def granted(self, ego: Track, s: float) -> tuple[int, int] | None:
        """(junction, road) that the ego car is about to pass with priority, or is passing."""
        for stop_s, clear_s, junction, road in ego.stops:
            if s < clear_s:
                wanted = self.priority is None or junction in self.priority
                return (junction, road) if wanted and stop_s - s < 48.0 else None
        return None

    def green(self, junction: int, road: int, t_s: float, granted: tuple[int, int] | None) -> bool:
        """Whether who arrives on a road may go. ``t_s`` counts from the beginning, ``LEAD_S`` before the first keyframe."""
        if granted is not None and granted[0] == junction:
            return granted[1] == road
        whose, since_s = self.turn(junction, t_s)
        return whose == road and since_s < GREEN_S

    def turn(self, junction: int, t_s: float) -> tuple[int, float]:
        """The road whose turn it is by the plan, green and the pause behind it, and for how long, s."""
        roads = self.town.junctions[junction].roads
        turn = (t_s + self.phase[junction]) % (len(roads) * (GREEN_S + RED_S))
        return roads[int(turn // (GREEN_S + RED_S))], turn % (GREEN_S + RED_S)

    def red_gap(self, track: Track, t_s: float, granted: tuple[int, int] | None, front: float, v: float) -> float:
        """Distance to the next stop line if it is to be respected now, else infinity."""
        for stop_s, _, junction, road in track.stops:
            gap = stop_s - front
            if gap < -0.5:
                continue
            too_late = gap <= v * v / (2 * 4.5) - 1.0
            return np.inf if gap > 45 or too_late or self.green(junction, road, t_s, granted) else max(gap, 0.0)
        return np.inf


def idm(v: np.ndarray, v0: np.ndarray, gap: np.ndarray, closing: np.ndarray) -> np.ndarray:
    """Intelligent driver model (Treiber et al. 2000)."""
    desired = STANDSTILL_M + np.maximum(0.0, v * HEADWAY_S + v * closing / (2 * np.sqrt(ACCEL * BRAKE)))
    return ACCEL * (1 - (v / np.maximum(v0, 0.1)) ** 4 - (desired / np.maximum(gap, 0.1)) ** 2)


class Fleet:
    """All movers at once: vehicles first, the ego car the first of them, then walkers. Every body is a row of discs for finding
    what is in the way.
    """

    def __init__(self, town: Town, actors: list[Actor], ego: Actor, signals: Signals) -> None:
        vehicles = [a for a in [ego, *actors] if a.track is not None and a.mode == "driving"]
        walkers = [a for a in actors if a.track is not None and a.mode == "walking"]
        self.town, self.signals, self.steps = town, signals, 0
        self.movers = [*vehicles, *walkers]
        self.tracks = [actor.trajectory for actor in self.movers]
        self.count = len(vehicles)
        self.s = np.array([track.s[0] for track in self.tracks])
        self.v = np.array([track.v[0] for track in self.tracks])
        self.axle = np.array([track.axle for track in self.tracks])
        self.front = np.array([track.front for track in self.tracks[: self.count]])
        self.cruise = np.array([track.cruise for track in self.tracks])
        self.history: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        # All paths end to end in one table; speed limits likewise, at one-metre steps.
        paths = [track.path for track in self.tracks]
        self.size = np.array([len(path.yaw) for path in paths])
        self.base = np.concatenate([[0], np.cumsum(self.size)[:-1]])
        self.spacing = np.array([path.step for path in paths])
        self.table = np.concatenate([np.concatenate([path.xy, path.yaw[:, None]], axis=1) for path in paths])
        limits = [track.limit[1] for track in self.tracks[: self.count] if track.limit is not None]
        self.limit_size = np.array([len(limit) for limit in limits])
        self.limit_base = np.concatenate([[0], np.cumsum(self.limit_size)[:-1]])
        self.limit = np.concatenate(limits)
        owner, along, radius = [], [], []
        for i, actor in enumerate(vehicles):
            w, l, _ = actor.size
            reach = max(0.0, l / 2 - w / 2)
            for offset in np.linspace(-reach, reach, max(1, int(np.ceil(l / w)))):
                owner.append(i)
                along.append(offset)
                radius.append(w / 2)
        owner += range(self.count, len(self.tracks))
        along += [0.0] * len(walkers)
        radius += [0.7] * len(walkers)  # people get some room
        self.owner, self.along = np.array(owner), np.array(along)
        half = np.array([actor.size[0] / 2 for actor in vehicles])
        # A disc blocks where a driver's corridor would touch it: [vehicle, disc].
        self.clearance = (half[:, None] + np.array(radius)[None] + 0.3) ** 2
        self.clearance[self.owner[None] == np.arange(self.count)[:, None]] = -1.0
        kerbs = [(j, *wait) for j, track in enumerate(self.tracks) for wait in track.waits]
        self.kerb_of = np.array([j for j, *_ in kerbs], int)
        self.kerb_s = np.array([kerb_s for _, kerb_s, *_ in kerbs])
        self.kerb_xy = np.array([middle for _, _, middle, _ in kerbs]).reshape(-1, 2)
        self.kerb_reach = np.array([reach for *_, reach in kerbs])

    def step(self) -> None:
        """One step of all movers."""
        granted = self.signals.granted(self.tracks[0], self.s[0])
        self.place()
        red = [self.signals.red_gap(track, self.steps * TICK_S, granted, *state) for track, *state in self.drivers()]
        self.advance(np.concatenate([self.drive(np.array(red)), self.walk()]))

    def on_path(self, rows: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Positions [.., 2] and headings [..] of movers ``rows`` at arc lengths s."""
        at = s / self.spacing[rows]
        i = np.clip(at.astype(int), 0, self.size[rows] - 2)
        part = np.clip(at - i, 0.0, 1.0)[..., None]
        first = self.table[self.base[rows] + i]
        found = first + (self.table[self.base[rows] + i + 1] - first) * part
        return found[..., :2], found[..., 2]

    def place(self) -> None:
        xy, self.yaw = self.on_path(np.arange(len(self.tracks)), self.s)
        ahead = np.stack([np.cos(self.yaw), np.sin(self.yaw)], axis=1)
        self.middle = xy + self.axle[:, None] * ahead
        self.discs = self.middle[self.owner] + self.along[:, None] * ahead[self.owner]

    def drivers(self) -> list[tuple[Track, float, float]]:
        """(track, front bumper's arc length, speed) of the vehicles."""
        return list(zip(self.tracks, (self.s[: self.count] + self.front).tolist(), self.v[: self.count].tolist()))

    def drive(self, red_gap: np.ndarray) -> np.ndarray:
        """Accelerations of the vehicles."""
        n = self.count
        s, v = self.s[:n], self.v[:n]
        limit_at = np.clip((s + 0.5 * v).astype(int), 0, self.limit_size - 1)
        v0 = self.limit[self.limit_base + limit_at]
        free = np.full(n, 1e6)
        accel = idm(v, v0, free, np.zeros(n))
        accel = np.where(v > v0, np.maximum(accel, -BRAKE), accel)
        stop = idm(v, v0, np.maximum(red_gap + STANDSTILL_M - 0.4, 0.1), v)
        accel = np.where(np.isfinite(red_gap), np.minimum(accel, stop), accel)
        rows = np.repeat(np.arange(n)[:, None], len(LOOK_M), axis=1)
        points, heading = self.on_path(rows, (s + self.front)[:, None] + LOOK_M)
        # Squared distances by one matrix product, about a near origin to keep digits: [vehicle, look, disc].
        points, discs = points - self.middle[0], self.discs - self.middle[0]
        away = (points**2).sum(-1)[:, :, None] - 2 * points @ discs.T
        hits = away < (self.clearance - (discs**2).sum(-1))[:, None]
        hits &= (LOOK_M < (8.0 + 2.6 * v + v * v / 6)[:, None])[:, :, None]
        first = hits.any(2).argmax(1)
        blocked = hits.any((1, 2))
        disc = hits[np.arange(n), first].argmax(1)
        other = self.owner[disc]
        theirs = np.where(other < n, self.v[other] * np.cos(self.yaw[other] - heading[:, 0]), 0.0)
        # The corridor test already holds about a disc's radius of distance.
        follow = idm(v, v0, np.maximum(LOOK_M[first], 0.1) + 0.6, v - np.maximum(theirs, 0.0))
        accel = np.where(blocked, np.minimum(accel, follow), accel)
        return np.clip(accel, -HARD_BRAKE, ACCEL)

    def walk(self) -> np.ndarray:
        """Accelerations of the walkers: they halt at the kerb while a vehicle is near or coming, and at the path's end."""
        n = self.count
        ends = (self.size * self.spacing - self.spacing)[n:]
        pace = np.where(self.s[n:] < ends - 0.2, self.cruise[n:], 0.0)
        if len(self.kerb_of):
            s = self.s[self.kerb_of]
            at_kerb = (s > self.kerb_s - 0.4) & (s <= self.kerb_s + 0.05)
            distance = np.linalg.norm(self.kerb_xy[:, None] - self.middle[None, :n], axis=-1)
            danger = (distance < self.kerb_reach[:, None] + 2.8 * self.v[:n]).any(1)
            pace[self.kerb_of[at_kerb & danger] - n] = 0.0
        return (pace - self.v[n:]) / TICK_S

    def advance(self, accel: np.ndarray) -> None:
        accel = np.maximum(accel, -self.v / TICK_S)  # never backwards
        self.history.append((self.s, self.v, accel))
        self.s = self.s + self.v * TICK_S + 0.5 * accel * TICK_S**2
        self.v = np.maximum(self.v + accel * TICK_S, 0.0)
        self.steps += 1

    def store(self) -> None:
        """Writes the history into the tracks."""
        s, v, a = (np.array(rows) for rows in zip(*self.history))
        for i, track in enumerate(self.tracks):
            track.s, track.v, track.a = s[:, i].copy(), v[:, i].copy(), a[:, i].copy()
