"""What a drive is asked (``Route``), who drives it (``Policy``), and what happened (``DriveLog``): plain arrays, no simulator.

Frames: *global* is the map's (x east, y north, metres). *ego* has its origin on the ground under the rear axle (x forward,
y left). *lidar* is the model's (x right, y forward), its origin ``LIDAR_AHEAD_M`` ahead of the rear axle; plans are positions of
that origin. Headings are radians, counter-clockwise from global x, not wrapped. Ground is flat, z is not kept.

Axes: T ticks of 0.1 s, A other actors, L stop lines, F frames of 0.5 s (each at a tick), P = 6 steps of a plan, n points.
Tick 0 and frame 0 are the first instant that the policy sees; frame f is tick 5 f.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from uniad.data.synthetic import dynamics
from uniad.deploy.sensors import Sensors
from uniad.geometry.nuscenes import EGO_SIZE, STEP_S

F64 = NDArray[np.float64]

TICK_S = dynamics.TICK_S  # of traffic and drives alike
FRAME_S = STEP_S
TICKS_PER_FRAME = round(FRAME_S / TICK_S)
PLAN_STEPS = 6  # of FRAME_S each: 0.5, 1.0 ... 3.0 s ahead
RED, AMBER, GREEN = 0, 1, 2  # states of a signal

# The simulated car: nuScenes' Renault Zoe as the synthetic world has it.
CAR_WIDTH_M, CAR_LENGTH_M, CAR_HEIGHT_M = EGO_SIZE
REAR_OVERHANG_M = 0.7  # rear axle to rear bumper
CAR_MIDDLE_M = CAR_LENGTH_M / 2 - REAR_OVERHANG_M  # its box's middle, ahead of the rear axle
CAR_FRONT_M = CAR_LENGTH_M - REAR_OVERHANG_M  # its front bumper, ahead of the rear axle
LIDAR_AHEAD_M = 0.943
WHEELBASE_M = 2.59

End = Literal["goal", "time", "crash", "away"]


@dataclass(frozen=True)
class Lane:
    """A strip that traffic drives in one direction: a lane of a road, or the way from one lane into another over a junction."""

    centre: F64  # [n, 2] global, in driving direction
    width_m: float
    kind: Literal["lane", "junction"]


@dataclass(frozen=True)
class StopLine:
    """A signal's stop line: cars stop before ``line`` while it is red. A front bumper that crosses it then runs the light."""

    line: F64  # [2, 2] global: both ends of its near edge, across the lanes that arrive
    direction: F64  # [2] unit vector of the traffic that it stops
    junction: int
    route_s: float  # where the line meets the route's centreline (arc length); NaN for lines of other approaches
    # Where, along the route, a car's rear is clear of the junction behind it; NaN as above.
    clear_s: float


@dataclass(frozen=True)
class RoadMap:
    """The streets within reach of a route (at least 60 m to both sides of its centreline)."""

    drivable: BaseGeometry  # shapely (multi)polygon, global: roads, junctions, parking strips, car parks
    walkway: BaseGeometry
    crossings: tuple[F64, ...]  # [4, 2] each, zebra crossings
    lanes: tuple[Lane, ...]
    side: int  # +1 where traffic keeps to the right, -1 to the left


@dataclass(frozen=True)
class Route:
    """One drive that is asked for; known before it starts, and a function of (seed, index) alone."""

    id: str  # as in seed-0100-route-03; a file name
    seed: int  # of the town and of everything in it
    index: int  # counts the routes of a seed from 0
    location: str
    manoeuvre: Literal["left", "right", "straight"]  # at the first junction
    features: tuple[str, ...]  # what it is about, of: red_light, crossing_pedestrian, braking_leader, parked_cars
    centre: F64  # [n, 2] global: the centreline to drive, at even steps, from well before the start to beyond the goal
    heading: F64  # [n] of the centreline
    s: F64  # [n] arc length of its points, from 0
    speed_mps: F64  # [n] what the expert would drive there on an empty road: cruise, less in bends
    start_s: float  # arc length of the rear axle at tick 0
    goal_s: float  # the rear axle's arc length at which the route is completed
    start_speed_mps: float
    limit_s: float  # time after which the drive ends
    stop_lines: tuple[StopLine, ...]  # L, in the order of DriveLog.signals
    map: RoadMap

    def project(self, xy: F64, near_s: F64 | float | None = None, reach_m: float = 25.0) -> tuple[F64, F64]:
        """Arc length and signed distance (left positive, m) of the nearest point of the centreline, for points [..., 2].

        near_s: where to look, at most ``reach_m`` away from there. Without it, everywhere, which is ambiguous where a route meets
        itself; ``progress`` walks along a drive from ``start_s``, each tick near the one before.
        """
        xy = np.asarray(xy, np.float64)
        a, step = self.centre[:-1], np.diff(self.centre, axis=0)
        length = np.linalg.norm(step, axis=1)
        along = np.clip(((xy[..., None, :] - a) * step).sum(-1) / np.maximum(length, 1e-9) ** 2, 0.0, 1.0)
        off = xy[..., None, :] - (a + along[..., None] * step)
        distance = np.linalg.norm(off, axis=-1)
        if near_s is not None:
            near = np.asarray(near_s, np.float64)[..., None]
            distance = np.where(np.abs(self.s[:-1] - near) <= reach_m, distance, distance + 1e6)
        best = distance.argmin(-1)[..., None]
        across = (step[:, 0] * off[..., 1] - step[:, 1] * off[..., 0]) / np.maximum(length, 1e-9)
        pick = lambda values: np.take_along_axis(values, best, -1)[..., 0]  # noqa: E731
        return pick(self.s[:-1] + along * length), pick(across)

    def progress(self, xy: F64) -> F64:
        """Arc length reached [T] by rear-axle positions [T, 2] of a drive that began at ``start_s``."""
        found, now = np.empty(len(xy)), self.start_s
        for t, point in enumerate(xy):
            found[t] = now = float(self.project(point, now)[0])
        return found


@dataclass(frozen=True)
class EgoStates:
    """The simulated car at every tick. Position and heading are the rear axle's."""

    xy: F64  # [T, 2] global
    heading: F64  # [T]
    speed: F64  # [T] m/s, never negative
    acceleration: F64  # [T] m/s2 along the car, over the tick that begins here
    yaw_rate: F64  # [T] rad/s; lateral acceleration is speed * yaw_rate
    steering: F64  # [T] rad, angle of the front wheels, left positive

    def middle(self) -> F64:
        """[T, 3] x, y, heading of the middle of the car's box (CAR_LENGTH_M x CAR_WIDTH_M)."""
        ahead = CAR_MIDDLE_M * np.stack([np.cos(self.heading), np.sin(self.heading)], -1)
        return np.concatenate([self.xy + ahead, self.heading[:, None]], -1)


@dataclass(frozen=True)
class ActorStates:
    """Everybody and everything else with a box, at every tick; the same A all along."""

    ids: NDArray[np.int64]  # [A]
    kinds: tuple[str, ...]  # detection class: car, truck, bus, bicycle, pedestrian, barrier, traffic_cone, ...
    modes: tuple[str, ...]  # driving, parked, walking, standing, static
    size: F64  # [A, 3] width, length, height, m
    pose: F64  # [T, A, 3] x, y of the box's middle, heading; global
    speed: F64  # [T, A] m/s along the heading


class Detections(NamedTuple):
    """What the model saw in a frame, as ``postprocess.result.Objects`` has it; empty for policies without a model."""

    boxes: NDArray[np.float32]  # [n, 9] lidar frame of that frame: x, y, z of the bottom centre, w, l, h, yaw, vx, vy
    labels: tuple[str, ...]  # [n] class names
    scores: NDArray[np.float32]  # [n]
    ids: NDArray[np.int64]  # [n] track id, -1 where not tracked


NOTHING = Detections(np.zeros((0, 9), np.float32), (), np.zeros(0, np.float32), np.zeros(0, np.int64))


class Forecasts(NamedTuple):
    """Where the model expects others to go, the likeliest way of each; for pictures."""

    starts: NDArray[np.float32]  # [a, 2] lidar frame of that frame, m
    paths: NDArray[np.float32]  # [a, n, 2] the same, at 0.5 s steps
    labels: tuple[str, ...]  # [a] class names


@dataclass(frozen=True)
class FrameLog:
    """One frame: what the policy was asked and what it planned."""

    tick: int
    command: int  # 0 right, 1 left, 2 straight
    global_from_lidar: F64  # [3, 3] plane transform of the frame's lidar to global
    plan: F64  # [P, 2] lidar frame of this frame, m: where the lidar's origin should be 0.5 ... 3.0 s from now
    plan_global: F64  # [P, 2] the same, global
    detections: Detections
    step_ms: float  # wall clock of the policy's step; not part of what reruns must repeat
    forecasts: Forecasts | None = None


@dataclass(frozen=True)
class DriveLog:
    """A finished drive."""

    route: Route
    policy: str
    traffic: Literal["replay", "reactive"]
    end: End  # goal reached; time is up; stopped after a crash (see crash_tick); away: left the streets' surroundings
    crash_tick: int | None  # first tick at which the car's box overlaps another's; the drive goes on for at most 1 s after it
    time_s: F64  # [T] 0.0, 0.1, ...
    ego: EgoStates
    actors: ActorStates
    signals: NDArray[np.int8]  # [T, L] RED, AMBER or GREEN, for route.stop_lines
    frames: tuple[FrameLog, ...]  # F
    about: Mapping[str, Any] = field(default_factory=dict)  # of the model: file, digest, back end

    @property
    def frame_ticks(self) -> NDArray[np.int64]:
        return np.array([frame.tick for frame in self.frames], np.int64)


class Actor(NamedTuple):
    """Another actor now, as a policy with privileges is told it."""

    id: int
    kind: str
    mode: str
    size: tuple[float, float, float]  # width, length, height
    pose: tuple[float, float, float]  # x, y of the middle, heading; global
    speed: float


@dataclass(frozen=True)
class Privileged:
    """The true state of the world at a frame, which no real car has. The expert reads all of it, a model none."""

    tick: int
    xy: F64  # [2] rear axle, global
    heading: float
    speed: float
    acceleration: float
    steering: float
    route_s: float  # the rear axle's arc length along the route
    global_from_lidar: F64  # [3, 3] plane transform
    actors: tuple[Actor, ...]
    signals: NDArray[np.int8]  # [L]


@dataclass(frozen=True)
class Observation:
    """A frame as the car's sensors deliver it. ``sensors`` is None for a policy that asks for none (``Policy.sensors``)."""

    sensors: Sensors | None
    command: int
    time_s: float


@dataclass(frozen=True)
class Planned:
    """A policy's answer."""

    plan: F64  # [P, 2] lidar frame of the frame, m, at 0.5 s steps; finite
    detections: Detections | None = None
    forecasts: Forecasts | None = None


class Policy(Protocol):
    """Who drives. An instance drives one route at a time; ``reset`` begins the next."""

    @property
    def name(self) -> str: ...

    @property
    def sensors(self) -> Literal["rendered", "blank", "none"]:
        """Rendered images; images of the right size without content; no Sensors at all."""

    def reset(self, route: Route) -> None:
        """A drive of the route begins. What was remembered of another is forgotten."""

    def step(self, observation: Observation, privileged: Privileged) -> Planned:
        """The plan of the frame. Called every 0.5 s, at ticks 0, 5, 10, ..."""
