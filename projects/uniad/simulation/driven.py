"""Scenes for learning to drive: the expert in closed loop, with somebody who disturbs it, recorded as a data set.

Who learns from a car that keeps to its way learns nothing about coming back to it, for a model's own small errors lead to places
that no recorded scene has. Here the car begins beside its way or at another speed, and is led astray now and then; the ground
truth is at every frame what the expert would do from there on (DART, Laskey et al. 2017). A scene has one of the events of
``routes``, and signals show their state.

Or a model has the wheel, whose own errors lead where no other disturbance does (DAgger, Ross et al. 2011).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np

from uniad.data.synthetic.curves import Path
from uniad.data.synthetic.dynamics import LEAD_S, Track
from uniad.data.synthetic.motion import Motion, steering, utimes
from uniad.data.synthetic.paint import Stage
from uniad.data.synthetic.params import SceneSpec, WorldParams, rng_for
from uniad.data.synthetic.scene import Course, Scene
from uniad.simulation.car import Car
from uniad.simulation.drive import drive
from uniad.simulation.log import (
    F64,
    FRAME_S,
    LIDAR_AHEAD_M,
    PLAN_STEPS,
    TICK_S,
    TICKS_PER_FRAME,
    DriveLog,
    Observation,
    Planned,
    Privileged,
    Route,
)
from uniad.simulation.policies import Expert, Model
from uniad.simulation.routes import Event, Setup, setup_of
from uniad.simulation.run import Driver
from uniad.simulation.world import Cameras

# Seven, so that towns (four) and manoeuvres (three) meet all of them. Lights and leaders are what takes most learning.
EVENTS: tuple[Event | None, ...] = (
    "red_light", "braking_leader", None, "queue", "crossing_pedestrian", "red_light", "braking_leader",
)  # fmt: skip
ASIDE_M, TURNED_RAD, PACE = 1.0, np.radians(5.0), (0.5, 1.15)  # at the start: at most, and the speed's share of the wanted one
AT_REST = 0.15  # of the starts
HALTS = 0.15  # of the disturbances: the car brakes for nobody, so that somebody has to start again
LATER_FRAMES = {"red_light": 10, "queue": 10}  # a scene may begin so many frames into its drive, so that some begin waiting
LATER_ELSE = 4
ATTEMPTS = 12  # with weaker disturbances each, should somebody be hit
HAND_OVER_FRAMES = 4


class Disturbance(NamedTuple):
    """From one frame until before another the car is led aside, and along its way by another pace."""

    first: int
    last: int
    aside_m: float
    pace: float


class Disturbed:
    """The expert, who is not obeyed while a disturbance lasts."""

    name = "disturbed expert"
    sensors: Literal["none"] = "none"

    def __init__(self, disturbances: tuple[Disturbance, ...]) -> None:
        self.expert, self.disturbances = Expert(), disturbances
        self.wanted: list[F64] = []

    def reset(self, route: Route) -> None:
        self.expert.reset(route)
        self.wanted = []

    def step(self, observation: Observation, privileged: Privileged) -> Planned:
        plan = self.expert.step(observation, privileged).plan
        frame = len(self.wanted)
        self.wanted.append(plan)
        for d in self.disturbances:
            if d.first <= frame < d.last:
                return Planned(_led_astray(plan, d))
        return Planned(plan)


class Learning:
    """A model at the wheel, and the expert beside it, who takes over where the model is lost: far aside, or standing for seconds
    without a reason. From frame ``until`` on the expert drives alone.

    Driven again with an earlier ``until``, the frames before it are the same to the bit: the model's plans are kept, and nobody
    renders images for them a second time.
    """

    name = "learner"
    LOST_M, BACK_M = 2.0, 0.4  # aside
    STOOD_FRAMES, HELP_FRAMES = 5, 4
    STANDS_MPS, GOES_M = 0.3, 3.0  # of a plan's whole way

    def __init__(self, model: Model) -> None:
        self.expert, self.model = Expert(), model
        self.until: float = np.inf
        self.made: list[F64] = []
        self.wanted: list[F64] = []

    @property
    def sensors(self) -> Literal["rendered", "none"]:
        return "rendered" if len(self.made) <= len(self.wanted) < self.until else "none"

    def reset(self, route: Route) -> None:
        self.route = route
        self.expert.reset(route)
        self.model.reset(route)
        self.wanted = []
        self.lost, self.stood, self.helped = False, 0, 0

    def step(self, observation: Observation, privileged: Privileged) -> Planned:
        frame = len(self.wanted)
        if len(self.made) <= frame < self.until:
            self.made.append(self.model.step(observation, privileged).plan)
        wanted = self.expert.step(observation, privileged).plan
        self.wanted.append(wanted)
        return Planned(wanted if frame >= self.until or self._relieved(privileged, wanted) else self.made[frame])

    def _relieved(self, now: Privileged, wanted: F64) -> bool:
        aside = abs(float(self.route.project(now.xy, now.route_s)[1]))
        self.lost = aside > (self.BACK_M if self.lost else self.LOST_M)
        goes = np.linalg.norm(np.diff(wanted, axis=0, prepend=0.0), axis=1).sum() > self.GOES_M
        self.stood = self.stood + 1 if now.speed < self.STANDS_MPS and goes else 0
        if self.stood >= self.STOOD_FRAMES:
            self.helped = self.HELP_FRAMES
        self.helped -= self.helped > 0
        return self.lost or self.helped > 0


def _led_astray(plan: F64, by: Disturbance) -> F64:
    """A plan [P, 2] in the lidar frame (right, forward) that goes aside within its first metres, and along its way by another
    pace. Who stands is left alone.
    """
    points = np.concatenate([np.zeros((1, 2)), plan])
    hops = np.diff(points, axis=0)
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(hops, axis=1))])
    if way[-1] < 2.0:
        return plan
    s = np.minimum(way[1:] * by.pace, way[-1])
    there = np.stack([np.interp(s, way, points[:, k]) for k in (0, 1)], -1)
    direction = hops / np.maximum(np.linalg.norm(hops, axis=1, keepdims=True), 1e-6)
    heading = np.stack([np.interp(s, way[1:], direction[:, k]) for k in (0, 1)], -1)
    left = np.stack([-heading[:, 1], heading[:, 0]], -1)
    return there + (by.aside_m * np.minimum(s / 8.0, 1.0))[:, None] * left


def event_of(spec: SceneSpec) -> Event | None:
    """Events go round from scene to scene."""
    return EVENTS[(spec.index + 3 * (spec.split == "val")) % len(EVENTS)]


class Lesson(NamedTuple):
    """A drive and what to record of it."""

    setup: Setup
    log: DriveLog
    car: Car
    actors: list  # with tracks that begin at the first recorded frame
    first: int  # frame of the drive that the scene begins with
    wanted: list[F64]  # [P, 2] a frame of the drive, lidar frame: what the expert would do


def lesson(params: WorldParams, spec: SceneSpec, learner: Callable[[], Model] | None = None) -> Lesson:
    """The drive of a scene, by the disturbed expert or by the learner. Nobody is hit in it, and it lasts as long as the scene."""
    event = event_of(spec)
    for attempt in range(ATTEMPTS):
        rng = rng_for(params.seed, spec.name, "lesson", attempt)
        rare = rng_for(params.seed, spec.name, "standing", attempt)
        strength = 1.0 - attempt / (ATTEMPTS - 1)
        setup = setup_of(params, spec, event, "lesson", attempt)
        later = LATER_FRAMES.get(event or "", LATER_ELSE)
        first = 0 if rng.random() < 0.5 else int(rng.integers(1, later + 1))
        frames = first + params.frames
        setup = replace(setup, route=replace(setup.route, goal_s=np.inf, limit_s=frames * FRAME_S))
        others = setup.traffic("reactive")
        start = _beside(others.lead(), rng, rare, strength)
        policy: Disturbed | Learning
        policy = Learning(learner()) if learner else Disturbed(_disturbances(frames, rng, rare, strength))
        while True:
            car = Car(start, setup.scene.spec.start_us)
            log = drive(setup, policy, "reactive", others=others, car=car)
            if log.end == "time" or isinstance(policy, Disturbed) or policy.until == 0:
                break
            # Two seconds before what ended it, and earlier each time
            policy.until = max(0, min(policy.until, len(log.frames) - 2) - HAND_OVER_FRAMES)
            others = setup.traffic("reactive")
        if log.end == "time":
            break
    else:
        raise RuntimeError(f"{spec.name}: no drive without a crash")
    others.fleet.store()
    skipped = round(first * FRAME_S / TICK_S)
    actors = [a if a.track is None else replace(a, track=_from(a.track, skipped)) for a in setup.scene.actors]
    return Lesson(setup, log, car, actors, first, policy.wanted)


def _from(track: Track, steps: int) -> Track:
    """A track whose time begins some steps later."""
    return replace(track, s=track.s[steps:], v=track.v[steps:], a=track.a[steps:])


def _beside(lead: Track, rng: np.random.Generator, rare: np.random.Generator, strength: float) -> Track:
    """The way to the start, led beside the lane, turned a little, at a constant speed that is not the wanted one."""
    n = round(LEAD_S / TICK_S) + 1
    aside = strength * rng.uniform(-ASIDE_M, ASIDE_M) * (rng.random() < 0.7)
    turned = strength * rng.uniform(-TURNED_RAD, TURNED_RAD) * (rng.random() < 0.7)
    pace = float(lead.v[-1]) * (1.0 + strength * (rng.uniform(*PACE) - 1.0) * (rng.random() < 0.6))
    if rare.random() < AT_REST:
        pace *= 1.0 - strength
    xy, yaw = lead.path.at(float(lead.s[-1]))
    start = xy + aside * np.array([-np.sin(yaw), np.cos(yaw)])
    direction = yaw + turned
    step = 0.5
    way = np.arange(-40.0, 40.0 + step, step)
    path = Path(step, start + way[:, None] * np.array([np.cos(direction), np.sin(direction)]), np.full(len(way), direction))
    s = 40.0 - pace * TICK_S * np.arange(n - 1, -1, -1)
    return replace(lead, path=path, s=s, v=np.full(n, pace), a=np.zeros(n))


def _disturbances(
    frames: int, rng: np.random.Generator, rare: np.random.Generator, strength: float
) -> tuple[Disturbance, ...]:
    found, at = [], int(rng.integers(2, 7))
    while at < frames:
        last = at + int(rng.integers(2, 4))
        kind = rng.random()
        aside = strength * float(rng.choice([-1, 1]) * rng.uniform(0.5, 1.6)) if kind < 0.7 else 0.0
        pace = 1.0 + strength * float(rng.uniform(-0.5, 0.3)) if kind > 0.5 else 1.0
        if rare.random() < HALTS:
            aside, pace = 0.0, 1.0 - strength
        found.append(Disturbance(at, last, aside, pace))
        at = last + int(rng.integers(4, 9))
    return tuple(found)


class DrivenScene(Scene):
    """A scene of ``lesson``. Poses, CAN bus, cameras and boxes follow from it as those of other scenes do from their tracks."""

    def __init__(self, params: WorldParams, spec: SceneSpec, learner: Callable[[], Model] | None = None) -> None:
        """learner: opens the model that has the wheel, whose digest is ``params.learner``; nobody else reads that."""
        if bool(params.learner) != (learner is not None):
            raise ValueError("a world's parameters name its learner's digest, and no other world has one")
        self.lesson = found = lesson(params, spec, learner)
        driven = found.log.ego.xy[:: 2 * TICKS_PER_FRAME]
        super().__init__(params, spec, Course(found.setup.ego, found.actors, driven))
        self._cameras = Cameras(self)

    @property
    def _began_s(self) -> float:
        """Of the scene, since the drive's tick 0."""
        return self.lesson.first * FRAME_S

    def ego_pose(self, t_s: float) -> tuple[np.ndarray, float]:
        moment = self.lesson.car.at(np.array([t_s + self._began_s]))
        return moment.xy[0], float(moment.yaw[0])

    def motion(self, t_s: np.ndarray) -> Motion:
        moment = self.lesson.car.at(t_s + self._began_s)
        bend = np.where(moment.v > 0.05, moment.yaw_rate / np.maximum(moment.v, 0.05), 0.0)
        s = self.lesson.setup.route.progress(moment.xy)
        utime = utimes(self.spec.start_us, t_s)
        return Motion(moment.xy, moment.yaw, moment.v, moment.a, moment.yaw_rate, utime, bend, steering(bend), s)

    def stage(self, t_s: float, hide: frozenset[int] = frozenset()) -> Stage:
        log = self.lesson.log
        tick = min(int(np.floor((t_s + self._began_s) / TICK_S + 1e-6)), len(log.signals) - 1)
        lights = dict(zip(self.lesson.setup.approaches, log.signals[tick].tolist()))
        return self.stage_of(self.seen_at(t_s, hide), self._cameras.props(lights))

    def expert(self, index: int) -> dict[str, Any]:
        """The plan of a keyframe, rear-axle poses [P, 3] global (x, y, heading) at 0.5 s steps, and the command."""
        frame = self.lesson.first + index
        entry = self.lesson.log.frames[frame]
        plan = self.lesson.wanted[frame]
        there = plan @ entry.global_from_lidar[:2, :2].T + entry.global_from_lidar[:2, 2]
        now = self.lesson.car.states[entry.tick]
        heading = _headings(np.concatenate([[now.xy + LIDAR_AHEAD_M * _ahead(now.heading)], there]), now.heading)
        axle = there - LIDAR_AHEAD_M * _ahead(heading)
        assert len(plan) == PLAN_STEPS
        return {"plan": np.concatenate([axle, heading[:, None]], 1).tolist(), "command": int(entry.command)}


@dataclass(frozen=True)
class LearnerScenes:
    """Builds scenes in which a model has the wheel. Processes that make a world get it by name, and open the model once each."""

    driver: Driver

    def __call__(self, params: WorldParams, spec: SceneSpec) -> DrivenScene:
        return DrivenScene(params, spec, lambda: _model(self.driver))


@lru_cache(maxsize=1)
def _model(driver: Driver) -> Model:
    return Model(driver.open())


def _ahead(heading: F64 | float) -> F64:
    return np.stack([np.cos(heading), np.sin(heading)], -1)


def _headings(points: F64, now: float) -> F64:
    """Heading at each point [n + 1, 2] but the first: of the way that leads there and away; who stands keeps theirs."""
    hops = np.diff(points, axis=0)
    found, heading = [], now
    for k in range(len(hops)):
        hop = hops[k] + (hops[k + 1] if k + 1 < len(hops) else hops[k])
        if np.linalg.norm(hop) > 0.2:
            heading = float(np.arctan2(hop[1], hop[0]))
        found.append(heading)
    return np.array(found)
