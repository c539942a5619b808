"""The loop: a policy plans every half second, the car follows the plan, the world moves on, and the cameras look from there."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from uniad.data.synthetic.motion import Moment
from uniad.data.synthetic.scene import Seen
from uniad.deploy.sensors import Sensors
from uniad.errors import UserError
from uniad.geometry.footprints import corners, overlap
from uniad.simulation.car import Car, CarState, Command, Tracker, moved
from uniad.simulation.log import (
    CAR_LENGTH_M,
    CAR_MIDDLE_M,
    CAR_WIDTH_M,
    F64,
    FRAME_S,
    NOTHING,
    PLAN_STEPS,
    TICK_S,
    TICKS_PER_FRAME,
    WHEELBASE_M,
    Actor,
    ActorStates,
    DriveLog,
    EgoStates,
    End,
    FrameLog,
    Observation,
    Planned,
    Policy,
    Privileged,
)
from uniad.simulation.routes import Setup
from uniad.simulation.traffic import Snapshot, Traffic, TrafficMode
from uniad.simulation.world import Cameras, command_of, later_on_route

AFTER_CRASH_TICKS = 10
AWAY_M = 30.0  # from the centreline


def drive(
    setup: Setup, policy: Policy, traffic: TrafficMode = "reactive", about: Mapping[str, Any] | None = None, *,
    others: Traffic | None = None, car: Car | None = None,
) -> DriveLog:  # fmt: skip
    """Drives a route once. The same setup and policy give the same log, to the bit but for ``FrameLog.step_ms``.

    others, car: traffic and car at tick 0 that the caller keeps, in place of the setup's own.
    Raises UserError where the policy refuses a frame, naming the route and the frame, or plans what is no plan.
    """
    route, scene = setup.route, setup.scene
    others = setup.traffic(traffic) if others is None else others
    car = Car(others.lead(), scene.spec.start_us) if car is None else car
    tracker, cameras = Tracker(), Cameras(scene)
    sizes = np.array([actor.size for actor in scene.actors])
    policy.reset(route)
    snapshots: list[Snapshot] = []
    frames: list[FrameLog] = []
    route_s = route.start_s
    crash: int | None = None
    end: End | None = None
    for tick in itertools.count():
        state = car.now
        found, aside = route.project(state.xy, route_s)
        route_s = float(found)
        snapshot = others.now(route_s)
        snapshots.append(snapshot)
        if crash is None and _crashes(state, snapshot, sizes):
            crash = tick
        end = _ended(setup, tick, route_s, float(aside), crash)
        if end:
            break
        if tick % TICKS_PER_FRAME == 0:
            frames.append(_frame(setup, policy, cameras, car, snapshot, tick, route_s))
            tracker.follow(frames[-1].plan_global, state, tick * TICK_S)
        wanted = tracker.command(state, tick * TICK_S)
        others.advance(state, route_s)
        car.step(wanted)
    assert end is not None  # the loop ends with it
    return DriveLog(
        route=route, policy=policy.name, traffic=traffic, end=end, crash_tick=crash,
        time_s=np.arange(len(snapshots)) * TICK_S, ego=_ego(car), actors=_actors(setup, snapshots, sizes),
        signals=np.stack([snapshot.signals for snapshot in snapshots]), frames=tuple(frames), about=dict(about or {}),
    )  # fmt: skip


def _frame(
    setup: Setup, policy: Policy, cameras: Cameras, car: Car, snapshot: Snapshot, tick: int, route_s: float
) -> FrameLog:
    route, state, t_s = setup.route, car.now, tick * TICK_S
    global_from_lidar = cameras.global_from_lidar(state.xy, state.heading)
    later = later_on_route(route.s, route.centre, route.heading, route.speed_mps, route_s, state.speed)
    command = command_of(global_from_lidar, later)
    sensors: Sensors | None = None
    if policy.sensors != "none":
        lights = dict(zip(setup.approaches, snapshot.signals.tolist()))
        sensors = cameras.sensors(t_s, car, seen_of(setup, snapshot.pose, snapshot.walked), lights, command, policy.sensors)
    privileged = Privileged(
        tick, state.xy, state.heading, state.speed, state.acceleration, state.steering, route_s, global_from_lidar,
        tuple(
            Actor(a.id, a.kind, a.mode, a.size, (float(x), float(y), float(yaw)), float(v))
            for a, (x, y, yaw), v in zip(setup.scene.actors, snapshot.pose, snapshot.speed)
        ),
        snapshot.signals,
    )  # fmt: skip
    begun = time.perf_counter()
    try:
        planned = policy.step(Observation(sensors, command, t_s), privileged)
    except UserError as error:
        raise UserError(f"{route.id}, frame {tick // TICKS_PER_FRAME}: {error}") from None
    step_ms = 1e3 * (time.perf_counter() - begun)
    plan = _checked(planned, policy, route.id, tick)
    there = plan @ global_from_lidar[:2, :2].T + global_from_lidar[:2, 2]
    return FrameLog(
        tick, command, global_from_lidar, plan, there, planned.detections or NOTHING, step_ms, planned.forecasts
    )


def _checked(planned: Planned, policy: Policy, route: str, tick: int) -> F64:
    plan = np.asarray(planned.plan, np.float64)
    if plan.shape != (PLAN_STEPS, 2) or not np.isfinite(plan).all():
        found = f"shape {list(plan.shape)}" + " with values that are not finite" * (plan.shape == (PLAN_STEPS, 2))
        raise UserError(
            f"{route}, frame {tick // TICKS_PER_FRAME}: {policy.name} gave a plan of {found}; needed is [{PLAN_STEPS}, 2], "
            "metres in the lidar frame, a step each 0.5 s"
        )
    return plan


def _crashes(state: CarState, snapshot: Snapshot, sizes: F64) -> bool:
    ahead = np.array([np.cos(state.heading), np.sin(state.heading)])
    middle = state.xy + CAR_MIDDLE_M * ahead
    near = np.hypot(*(snapshot.pose[:, :2] - middle).T) < CAR_LENGTH_M / 2 + sizes[:, 1] / 2 + sizes[:, 0]
    if not near.any():
        return False
    own = corners(middle, np.array(state.heading), CAR_WIDTH_M, CAR_LENGTH_M)
    pose = snapshot.pose[near]
    return bool(overlap(own[None], corners(pose[:, :2], pose[:, 2], sizes[near, 0], sizes[near, 1])).any())


def _ended(setup: Setup, tick: int, route_s: float, aside_m: float, crash: int | None) -> End | None:
    if crash is not None and tick >= crash + AFTER_CRASH_TICKS:
        return "crash"
    if route_s >= setup.route.goal_s:
        return "goal"
    if abs(aside_m) > AWAY_M:
        return "away"
    return "time" if tick >= round(setup.route.limit_s / TICK_S) else None


def _ego(car: Car) -> EgoStates:
    columns = np.array([[s.x, s.y, s.heading, s.speed] for s in car.states])
    commands = np.array([*car.commands, Command(car.now.acceleration, car.now.steering)])
    rate = columns[:, 3] * np.tan(commands[:, 1]) / WHEELBASE_M
    return EgoStates(columns[:, :2], columns[:, 2], columns[:, 3], commands[:, 0], rate, commands[:, 1])


def _actors(setup: Setup, snapshots: list[Snapshot], sizes: F64) -> ActorStates:
    actors = setup.scene.actors
    return ActorStates(
        np.array([a.id for a in actors], np.int64), tuple(a.kind for a in actors), tuple(a.mode for a in actors), sizes,
        np.stack([s.pose for s in snapshots]), np.stack([s.speed for s in snapshots]),
    )  # fmt: skip


def seen_of(setup: Setup, pose: F64, walked: F64) -> list[Seen]:
    """The scene's actors [A, 3] as what is drawn."""
    return [
        Seen(actor, (float(x), float(y), float(yaw)), float(way))
        for actor, (x, y, yaw), way in zip(setup.scene.actors, pose, walked)
    ]


class _LoggedCar:
    """The car of a log at a tick, for looking again from where it was: what came later was not known then."""

    def __init__(self, log: DriveLog, car: Car, tick: int) -> None:
        self.log, self.lead, self.tick = log, car, tick

    def at(self, t_s: F64) -> Moment:
        ego, t_s = self.log.ego, np.asarray(t_s, np.float64)
        moment = self.lead.at(t_s if self.tick == 0 else np.minimum(t_s, 0.0))
        for i in np.flatnonzero(t_s > 0) if self.tick else ():
            k = min(int(np.floor(t_s[i] / TICK_S + 1e-9)), self.tick)
            held = k if k < self.tick else k - 1
            state = CarState(float(ego.xy[k, 0]), float(ego.xy[k, 1]), float(ego.heading[k]), float(ego.speed[k]), 0.0, 0.0)
            a = float(ego.acceleration[held]) if state.speed > 0 or held == k else 0.0
            command = Command(a, float(ego.steering[held]))
            moment.xy[i], moment.yaw[i], moment.v[i] = moved(state, command, float(t_s[i]) - k * TICK_S)
            moment.a[i] = command.acceleration if moment.v[i] > 0 else 0.0
            moment.yaw_rate[i] = moment.v[i] * np.tan(command.steering) / WHEELBASE_M
        return replace(moment, utime=np.round(self.lead.start_us + t_s * 1e6).astype(np.int64))


def sensors_again(setup: Setup, log: DriveLog, frame: int) -> Sensors:
    """What the sensors delivered at a frame of a finished drive, made anew from its log; ``setup`` is of the log's route.

    Images differ from those of the drive in the stride of people on foot, which a log does not hold, and in nothing else.
    """
    if setup.route.id != log.route.id:
        raise UserError(f"a drive of {log.route.id} cannot be looked at in the world of {setup.route.id}")
    entry = log.frames[frame]
    tick = entry.tick
    car = _LoggedCar(log, Car(setup.traffic("replay").lead(), setup.scene.spec.start_us), tick)
    walked = log.actors.speed[:tick].sum(0) * TICK_S
    lights = dict(zip(setup.approaches, log.signals[tick].tolist()))
    return Cameras(setup.scene).sensors(
        round(tick / TICKS_PER_FRAME) * FRAME_S, car, seen_of(setup, log.actors.pose[tick], walked), lights, entry.command
    )
