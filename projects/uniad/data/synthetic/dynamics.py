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

STEP_S = 0.1
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
    s: list[float]
    v: list[float]
    a: list[float] = field(default_factory=list)
    cruise: float = 8.0
    limit: tuple[np.ndarray, np.ndarray] | None = None
    stops: list[tuple[float, float, int, int]] = field(default_factory=list)  # stop at s, clear at s, junction, road
    waits: list[tuple[float, np.ndarray]] = field(default_factory=list)  # pedestrians: kerb at s, middle of the crossing

    def at(self, t_s: np.ndarray | float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Position [.., 2], heading, speed and acceleration of the path point at times since the first keyframe."""
        s, v, a = self.motion(t_s)
        return *self.path.at(s), v, a

    def motion(self, t_s: np.ndarray | float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Arc length, speed and acceleration at times since the first keyframe."""
        steps = (np.asarray(t_s, float) + LEAD_S) / STEP_S
        k = np.clip(np.floor(steps + 1e-9).astype(int), 0, len(self.a) - 1)
        tau = (steps - k) * STEP_S
        s0, v0, a0 = (np.asarray(x)[k] for x in (self.s, self.v, self.a))
        return s0 + v0 * tau + 0.5 * a0 * tau**2, np.maximum(v0 + a0 * tau, 0.0), a0


def vehicle_track(path: Path, s: float, size: tuple[float, float, float], cruise: float, stops: list) -> Track:
    """A vehicle at arc length s (its rear axle), as fast as curves and the next stop line allow."""
    length = size[1]
    limit = path.speed_limit(cruise, LATERAL_ACCEL, BRAKE)
    track = Track(path, REAR_AXLE * length, (REAR_AXLE + 0.5) * length, [s], [0.0], cruise=cruise, limit=limit, stops=stops)
    track.v[0] = float(np.interp(s, *limit))
    return track


def simulate(town: Town, actors: list[Actor], ego: Actor, duration_s: float, ego_priority: bool, phase: np.ndarray) -> None:
    """Moves all tracks from before the first keyframe until ``duration_s``.

    ``phase`` [junctions] shifts the signals. With ``ego_priority`` a signal turns green for the ego car as it comes near.
    """
    vehicles = [a for a in [ego, *actors] if a.track is not None and a.mode == "driving"]
    walkers = [a for a in actors if a.track is not None and a.mode == "walking"]
    discs = _Discs(vehicles, walkers)
    for step in range(int(np.ceil((duration_s + LEAD_S) / STEP_S)) + 1):
        t_s = step * STEP_S
        granted = _granted(ego.track) if ego_priority else None
        discs.place(vehicles, walkers)
        wanted = [_drive(town, actor.track, i, discs, t_s, granted, phase) for i, actor in enumerate(vehicles)]
        paces = [_walk(walker.track, discs) for walker in walkers]
        for actor, accel in zip(vehicles, wanted):
            _advance(actor.track, accel)
        for actor, pace in zip(walkers, paces):
            _advance(actor.track, (pace - actor.track.v[-1]) / STEP_S)
    for actor in [*vehicles, *walkers]:
        actor.track.s, actor.track.v, actor.track.a = (np.array(x) for x in (actor.track.s, actor.track.v, actor.track.a))


def _advance(track: Track, accel: float) -> None:
    v = track.v[-1]
    accel = max(accel, -v / STEP_S)  # never backwards
    track.a.append(accel)
    track.s.append(track.s[-1] + v * STEP_S + 0.5 * accel * STEP_S**2)
    track.v.append(max(v + accel * STEP_S, 0.0))


def _granted(ego: Track) -> tuple[int, int] | None:
    """(junction, road) that the ego car is about to pass, or is passing."""
    for stop_s, clear_s, junction, road in ego.stops:
        if ego.s[-1] < clear_s:
            return (junction, road) if stop_s - ego.s[-1] < 48.0 else None
    return None


def _green(town: Town, junction: int, road: int, t_s: float, granted: tuple[int, int] | None, phase: np.ndarray) -> bool:
    """One approach at a time has green, so streams never cross."""
    if granted is not None and granted[0] == junction:
        return granted[1] == road
    roads = town.junctions[junction].roads
    turn = (t_s + phase[junction]) % (len(roads) * (GREEN_S + RED_S))
    return roads[int(turn // (GREEN_S + RED_S))] == road and turn % (GREEN_S + RED_S) < GREEN_S


class _Discs:
    """Every mover as a row of discs, for finding what is in a driver's way."""

    def __init__(self, vehicles: list[Actor], walkers: list[Actor]) -> None:
        self.owner, self.along, self.radius = [], [], []
        for i, actor in enumerate(vehicles):
            w, l, _ = actor.size
            n = max(1, int(np.ceil(l / w)))
            reach = max(0.0, l / 2 - w / 2)
            for offset in np.linspace(-reach, reach, n):
                self.owner.append(i)
                self.along.append(offset)
                self.radius.append(w / 2)
        self.bodies = len(self.owner)
        for j in range(len(walkers)):
            self.owner.append(len(vehicles) + j)
            self.along.append(0.0)
            self.radius.append(0.5)
        self.owner, self.along, self.radius = np.array(self.owner, int), np.array(self.along), np.array(self.radius)
        self.vehicles = len(vehicles)

    def place(self, vehicles: list[Actor], walkers: list[Actor]) -> None:
        poses = []
        for actor in [*vehicles, *walkers]:
            xy, yaw = actor.track.path.at(actor.track.s[-1])
            poses.append([*xy, yaw, actor.track.v[-1], actor.track.axle])
        poses = np.array(poses).reshape(-1, 5)
        self.yaw, self.v = poses[:, 2], poses[:, 3]
        self.middle = poses[:, :2] + poses[:, 4:] * np.stack([np.cos(poses[:, 2]), np.sin(poses[:, 2])], axis=1)
        yaw = self.yaw[self.owner]
        self.xy = self.middle[self.owner] + self.along[:, None] * np.stack([np.cos(yaw), np.sin(yaw)], axis=1)


def _idm(v: float, v0: float, gap: float, closing: float) -> float:
    """Intelligent driver model (Treiber et al. 2000)."""
    desired = STANDSTILL_M + max(0.0, v * HEADWAY_S + v * closing / (2 * np.sqrt(ACCEL * BRAKE)))
    return ACCEL * (1 - (v / max(v0, 0.1)) ** 4 - (desired / max(gap, 0.1)) ** 2)


def _drive(town: Town, track: Track, me: int, discs: _Discs, t_s: float, granted, phase: np.ndarray) -> float:
    s, v = track.s[-1], track.v[-1]
    v0 = float(np.interp(s + 0.5 * v, *track.limit))
    accel = _idm(v, v0, 1e6, 0.0)
    if v > v0:
        accel = max(accel, -BRAKE)
    front = s + track.front
    for stop_s, _, junction, road in track.stops:
        gap = stop_s - front
        if gap < -0.5:
            continue
        if gap < 45 and not _green(town, junction, road, t_s, granted, phase) and gap > v * v / (2 * 4.5) - 1.0:
            accel = min(accel, _idm(v, v0, max(gap + STANDSTILL_M - 0.4, 0.1), v))
        break
    reach = LOOK_M[LOOK_M < 8.0 + 2.6 * v + v * v / 6]
    near = np.linalg.norm(discs.xy - discs.middle[me], axis=1) < reach[-1] + 12.0
    near &= discs.owner != me
    if near.any():
        points, _ = track.path.at(front + reach)
        width = discs.radius[discs.owner == me][0]
        xy, radius, owner = discs.xy[near], discs.radius[near], discs.owner[near]
        away = np.linalg.norm(points[:, None] - xy[None], axis=-1)  # [look, disc]
        # A disc blocks where the car's corridor would touch it.
        hits = away < width + radius + np.where(owner < discs.vehicles, 0.3, 0.5)
        if hits.any():
            first = int(np.argmax(hits.any(axis=1)))
            other = int(owner[np.argmax(hits[first])])
            gap = max(float(reach[first]), 0.1)
            heading = track.path.at(front)[1]
            theirs = discs.v[other] * np.cos(discs.yaw[other] - heading) if other < discs.vehicles else 0.0
            # The corridor test already holds about a disc's radius of distance.
            accel = min(accel, _idm(v, v0, gap + 0.6, v - max(theirs, 0.0)))
    return float(np.clip(accel, -HARD_BRAKE, ACCEL))


def _walk(track: Track, discs: _Discs) -> float:
    """Walking speed now: 0 at the kerb while a vehicle is near or coming."""
    s = track.s[-1]
    for kerb_s, middle in track.waits:
        if kerb_s - 0.4 < s <= kerb_s + 0.05 and discs.vehicles:
            distance = np.linalg.norm(discs.middle[: discs.vehicles] - middle, axis=1)
            if (distance < 6.5 + 2.8 * discs.v[: discs.vehicles]).any():
                return 0.0
    return track.cruise if s < track.path.length - 0.2 else 0.0
