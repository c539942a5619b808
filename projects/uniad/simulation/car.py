"""The simulated car: a kinematic bicycle with limits, and the driver that has it follow a plan.

A tick's commands are an acceleration and a steering angle. Both are held over the tick, so that the car moves on an arc and its
pose at any instant (cameras, CAN bus) comes from a closed form. The reference point is the rear axle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline

from uniad.data.synthetic.dynamics import LEAD_S, Track
from uniad.data.synthetic.motion import Moment, motion_along, utimes
from uniad.simulation.log import F64, FRAME_S, LIDAR_AHEAD_M, PLAN_STEPS, TICK_S, WHEELBASE_M


@dataclass(frozen=True)
class CarLimits:
    """What the car can do, whatever it is asked. Nothing is a comfort limit: hard braking is there for who needs it."""

    acceleration_mps2: float = 3.0
    braking_mps2: float = 7.0
    jerk_mps3: float = 20.0
    steering_rad: float = 0.5  # of the front wheels: a turning circle of 4.7 m at the rear axle
    steering_radps: float = 0.7
    speed_mps: float = 20.0


LIMITS = CarLimits()


class CarState(NamedTuple):
    """At a tick. ``acceleration`` and ``steering`` are those of the tick that ended here."""

    x: float
    y: float
    heading: float
    speed: float
    acceleration: float
    steering: float

    @property
    def xy(self) -> F64:
        return np.array([self.x, self.y])


class Command(NamedTuple):
    acceleration: float
    steering: float


def limited(state: CarState, wanted: Command, limits: CarLimits = LIMITS, dt_s: float = TICK_S) -> Command:
    """What the car does of what it is asked, for one tick."""
    jerk, turn = limits.jerk_mps3 * dt_s, limits.steering_radps * dt_s
    a = float(np.clip(wanted.acceleration, state.acceleration - jerk, state.acceleration + jerk))
    a = min(max(a, -limits.braking_mps2), limits.acceleration_mps2, (limits.speed_mps - state.speed) / dt_s)
    steering = float(np.clip(wanted.steering, state.steering - turn, state.steering + turn))
    return Command(a, float(np.clip(steering, -limits.steering_rad, limits.steering_rad)))


def moved(state: CarState, command: Command, dt_s: F64 | float) -> tuple[F64, F64, F64]:
    """Position [..., 2], heading and speed after the command was held for a time [...]. A car that stops stays."""
    dt = np.asarray(dt_s, np.float64)
    a, v = command.acceleration, state.speed
    rolling = np.minimum(dt, v / -a) if a < 0 else dt
    way = v * rolling + 0.5 * a * rolling**2
    bend = np.tan(command.steering) / WHEELBASE_M
    turned = bend * way
    # Chord of an arc: its length and direction hold for any bend, zero included.
    chord = way * np.sinc(turned / (2 * np.pi))
    middle = state.heading + turned / 2
    xy = np.stack([state.x + chord * np.cos(middle), state.y + chord * np.sin(middle)], -1)
    return xy, state.heading + turned, np.maximum(v + a * rolling, 0.0)


class Car:
    """The car along a drive: its states at all ticks so far, and its pose at any instant up to a tick beyond the last.

    lead: the track that led here, for instants before tick 0; cameras fire ahead of their frame, and CAN messages as well.
    """

    def __init__(self, lead: Track, start_us: int, limits: CarLimits = LIMITS) -> None:
        self.lead, self.start_us, self.limits = lead, start_us, limits
        motion = motion_along(lead, start_us, np.array([0.0]))
        before = motion_along(lead, start_us, np.array([-1e-3]))
        (x, y), yaw = motion.xy[0], motion.yaw[0]
        steering = float(np.arctan(WHEELBASE_M * before.bend[0]))
        self.states = [CarState(float(x), float(y), float(yaw), float(motion.v[0]), float(before.a[0]), steering)]
        self.commands: list[Command] = []

    @property
    def now(self) -> CarState:
        return self.states[-1]

    def step(self, wanted: Command) -> None:
        """One tick."""
        state = self.now
        command = limited(state, wanted, self.limits)
        xy, heading, speed = moved(state, command, TICK_S)
        # What braking was left over when the car came to rest was not felt.
        a = (float(speed) - state.speed) / TICK_S if float(speed) == 0.0 else command.acceleration
        self.commands.append(command)
        self.states.append(CarState(float(xy[0]), float(xy[1]), float(heading), float(speed), a, command.steering))

    def at(self, t_s: F64) -> Moment:
        """The motion at times [n] since tick 0; after the last tick what was commanded last is held."""
        t_s = np.asarray(t_s, np.float64)
        utime = utimes(self.start_us, t_s)
        lead = motion_along(self.lead, self.start_us, np.clip(t_s, -LEAD_S, 0.0))
        xy, yaw, v, a, rate = (np.array(column, np.float64) for column in (lead.xy, lead.yaw, lead.v, lead.a, lead.yaw_rate))
        for i in np.flatnonzero(t_s > 0):
            k = min(int(np.floor(t_s[i] / TICK_S + 1e-9)), len(self.states) - 1)
            state = self.states[k]
            command = self.commands[k] if k < len(self.commands) else Command(state.acceleration, state.steering)
            xy[i], yaw[i], v[i] = moved(state, command, float(t_s[i]) - k * TICK_S)
            a[i] = command.acceleration if v[i] > 0 else 0.0
            rate[i] = v[i] * np.tan(command.steering) / WHEELBASE_M
        return Moment(xy, yaw, v, a, rate, utime)


class Tracker:
    """Has the car follow a plan: acceleration and steering for each tick until the next plan.

    The plan's points become a smooth curve from where the lidar is now. Along it, the acceleration is the constant one that comes
    closest to where the plan wants to be ``HORIZON_S`` ahead; across it, the steering is that of the arc that comes closest to
    the curve's next metres. Both are worked out anew at every tick, from where the car has come.
    """

    HORIZON_S = np.array([0.5, 1.0, 1.5])
    WEIGHTS = np.array([3.0, 2.0, 1.0])
    JERK_MPS3, HARD_MPS2 = 4.0, -3.0  # what people find comfortable; braking harder than this takes what the car has
    REACH_S = 1.1  # of the way ahead that steering aims at
    STILL_M = 0.6  # a plan that is shorter than this in 3 s means to stand

    def __init__(self, limits: CarLimits = LIMITS) -> None:
        self.limits = limits
        bend = np.tan(limits.steering_rad) / WHEELBASE_M
        self.bends = np.linspace(-bend, bend, 161)

    def follow(self, plan_global: F64, state: CarState, now_s: float) -> None:
        """Takes a plan [P, 2] of lidar positions, made at ``now_s`` where the car is in ``state``."""
        here = _lidar(state)
        points = np.concatenate([here[None], plan_global])
        ahead = np.array([np.cos(state.heading), np.sin(state.heading)])
        hops = np.diff(points, axis=0)
        # A step backwards, as noise round a standing car makes, is no way gained.
        direction = plan_global[-1] - here
        long = float(np.linalg.norm(direction))
        direction = direction / long if long > 1.0 else ahead
        gain = np.where((hops @ direction > 0) | (long > 3.0), np.linalg.norm(hops, axis=1), 0.0)
        way = np.concatenate([[0.0], np.cumsum(gain)])
        self.made_s, self.still = now_s, way[-1] < self.STILL_M or float((plan_global[-1] - here) @ ahead) < -1.0
        self.time = np.arange(PLAN_STEPS + 1) * FRAME_S
        self.way = way
        keep = np.concatenate([[True], np.diff(way) > 0.05])
        if self.still or keep.sum() < 2:
            self.curve = here + ahead * np.arange(0.0, 20.0, 0.25)[:, None]
        else:
            turn = float(np.tan(state.steering) / WHEELBASE_M * LIDAR_AHEAD_M)
            course = np.array([np.cos(state.heading + turn), np.sin(state.heading + turn)])
            spline = CubicSpline(way[keep], points[keep], bc_type=((1, course), (2, np.zeros(2))))
            s = np.arange(0.0, way[-1] + 0.25, 0.25)
            end = spline(way[-1], 1)
            end = end / max(float(np.linalg.norm(end)), 1e-6)
            beyond = spline(way[-1]) + end * np.arange(0.25, 4.0, 0.25)[:, None]
            self.curve = np.concatenate([spline(s[s <= way[-1]]), beyond])
        self.along = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(self.curve, axis=0), axis=1))])

    def command(self, state: CarState, now_s: float) -> Command:
        """What to ask of the car for the next tick."""
        half = 0.5 * self.HORIZON_S**2
        weight = self.WEIGHTS * half / (self.WEIGHTS * half**2).sum()
        if self.still:
            a = min(float(-(weight * state.speed * self.HORIZON_S).sum()), -1.0)
            return Command(self._smooth(a, state), state.steering)
        here = _lidar(state)
        done = float(self.along[np.linalg.norm(self.curve - here, axis=1).argmin()])
        ahead_s = self.HORIZON_S + (now_s - self.made_s)
        target = np.interp(ahead_s, self.time, self.way) - done
        a = float((weight * (target - state.speed * self.HORIZON_S)).sum())
        return Command(self._smooth(a, state), self._steering(state, done))

    def _smooth(self, a: float, state: CarState) -> float:
        """The acceleration, reached gently unless hard braking is wanted."""
        if a < self.HARD_MPS2:
            return a
        step = self.JERK_MPS3 * TICK_S
        return float(np.clip(a, state.acceleration - step, state.acceleration + step))

    def _steering(self, state: CarState, done: float) -> float:
        reach = min(max(self.REACH_S * state.speed, 3.0), 16.0)
        s = np.linspace(0.25, 1.0, 6) * reach
        c, sn = np.cos(state.heading), np.sin(state.heading)
        aim = np.stack([np.interp(done + s, self.along, self.curve[:, i]) for i in (0, 1)], -1) - _lidar(state)
        local = aim @ np.array([[c, -sn], [sn, c]])  # ahead, left; from the lidar
        turned = self.bends[:, None] * s
        chord = s * np.sinc(turned / (2 * np.pi))
        x = chord * np.cos(turned / 2) + LIDAR_AHEAD_M * (np.cos(turned) - 1.0)
        y = chord * np.sin(turned / 2) + LIDAR_AHEAD_M * np.sin(turned)
        cost = ((x - local[:, 0]) ** 2 + (y - local[:, 1]) ** 2).sum(1)
        best = int(cost.argmin())
        bend = self.bends[best]
        if 0 < best < len(cost) - 1:  # the parabola through three neighbours has its minimum between them
            left, mid, right = cost[best - 1 : best + 2]
            bend += 0.5 * (left - right) / max(left - 2 * mid + right, 1e-12) * (self.bends[1] - self.bends[0])
        return float(np.arctan(bend * WHEELBASE_M))


def _lidar(state: CarState) -> F64:
    return state.xy + LIDAR_AHEAD_M * np.array([np.cos(state.heading), np.sin(state.heading)])
