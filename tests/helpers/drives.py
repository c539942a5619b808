"""Hand-made drives: a straight street with one lane each way and a junction, a car on it, and whoever meets it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from shapely.geometry import box

from uniad.simulation.log import (
    CAR_FRONT_M,
    GREEN,
    LIDAR_AHEAD_M,
    PLAN_STEPS,
    TICK_S,
    ActorStates,
    Detections,
    DriveLog,
    EgoStates,
    FrameLog,
    Lane,
    RoadMap,
    Route,
    StopLine,
)

LANE_M, EDGE_M = 3.5, 6.0  # the parking strips lie between
START_M, GOAL_M = 0.0, 152.0  # of the rear axle, along x; the expert is there in 19 s
JUNCTION_M = (100.0, 120.0)
STOP_M = 94.0


@dataclass(frozen=True)
class Other:
    """Somebody else: where the middle is at tick 0, and a constant velocity."""

    kind: str = "car"
    xy: tuple[float, float] = (30.0, -1.75)
    velocity: tuple[float, float] = (0.0, 0.0)
    heading: float = 0.0
    size: tuple[float, float, float] = (1.9, 4.6, 1.7)
    mode: str = ""


def street(features: tuple[str, ...] = (), index: int = 0) -> Route:
    """A route along x, in the lane to the right of the centre line y = 0."""
    x = np.arange(-50.0, 250.5, 0.5)
    centre = np.stack([x, np.full_like(x, -LANE_M / 2)], -1)
    lanes = []
    for a, b, kind in ((-50.0, JUNCTION_M[0], "lane"), (*JUNCTION_M, "junction"), (JUNCTION_M[1], 250.0, "lane")):
        along = np.linspace(a, b, 20)
        for y, way in ((-LANE_M / 2, 1), (LANE_M / 2, -1)):
            lanes.append(Lane(np.stack([along, np.full(20, y)], -1)[::way], LANE_M, kind))
    stop = StopLine(np.array([[STOP_M, -LANE_M], [STOP_M, 0.0]]), np.array([1.0, 0.0]), 3, STOP_M + 50, JUNCTION_M[1] + 53)
    side = box(105, -40, 115, 40)  # the street that crosses
    return Route(
        id=f"seed-0100-route-{index:02d}",
        seed=100,
        index=index,
        location="boston-seaport",
        manoeuvre="straight",
        features=features,
        centre=centre,
        heading=np.zeros(len(x)),
        s=x + 50,
        speed_mps=np.full(len(x), 8.0),
        start_s=START_M + 50,
        goal_s=GOAL_M + 50,
        start_speed_mps=8.0,
        limit_s=40.0,
        stop_lines=(stop,),
        map=RoadMap(box(-60, -EDGE_M, 260, EDGE_M).union(side), box(-60, -9, 260, -EDGE_M), (), tuple(lanes), 1),
    )


def driven(
    speed: np.ndarray | float = 8.0, seconds: float = 20.0, *, y: np.ndarray | float = -LANE_M / 2,
    others: tuple[Other, ...] = (), signal: np.ndarray | int = GREEN, policy: str = "model",
    route: Route | None = None, x0: float = START_M,
) -> DriveLog:  # fmt: skip
    """A drive along x at a speed [T] and a lateral place y [T], which the heading follows."""
    ticks = len(speed) if isinstance(speed, np.ndarray) else round(seconds / TICK_S) + 1
    speed, y = np.broadcast_to(np.asarray(speed, float), ticks).copy(), np.broadcast_to(np.asarray(y, float), ticks)
    heading = np.arctan2(np.gradient(y), np.maximum(speed * TICK_S, 1e-6))
    x = x0 + np.concatenate([[0.0], np.cumsum(speed[:-1] * TICK_S)])
    time = np.arange(ticks) * TICK_S
    rate = np.gradient(heading, TICK_S)
    ego = EgoStates(np.stack([x, y], -1), heading, speed, np.gradient(speed, TICK_S), rate, np.zeros(ticks))
    moved = np.array([o.velocity for o in others]).reshape(1, -1, 2) * time[:, None, None]
    place = np.array([o.xy for o in others]).reshape(1, -1, 2) + moved
    turned = np.broadcast_to(np.array([o.heading for o in others]).reshape(1, -1, 1), (ticks, len(others), 1))
    size = np.array([o.size for o in others]).reshape(-1, 3)
    modes = tuple(o.mode or ("driving" if np.any(o.velocity) else "parked") for o in others)
    pace = np.broadcast_to(np.linalg.norm(np.array([o.velocity for o in others]).reshape(-1, 2), axis=1), (ticks, len(others)))
    kinds = tuple(o.kind for o in others)
    actors = ActorStates(np.arange(1, len(others) + 1), kinds, modes, size, np.concatenate([place, turned], -1), pace)
    route = route or street()
    frames = tuple(_frame(ego, tick) for tick in range(0, ticks, 5))
    signals = np.broadcast_to(np.asarray(signal, np.int8).reshape(-1, 1), (ticks, 1)).copy()
    end = "goal" if x[-1] >= GOAL_M - 1e-6 else "time"
    return DriveLog(route, policy, "replay", end, None, time, ego, actors, signals, frames)


def _frame(ego: EgoStates, tick: int) -> FrameLog:
    """A plan that goes on as the car does."""
    c, s = np.cos(ego.heading[tick]), np.sin(ego.heading[tick])
    origin = ego.xy[tick] + LIDAR_AHEAD_M * np.array([c, s])
    global_from_lidar = np.array([[s, c, origin[0]], [-c, s, origin[1]], [0, 0, 1.0]])
    plan = np.stack([np.zeros(PLAN_STEPS), ego.speed[tick] * 0.5 * np.arange(1, PLAN_STEPS + 1)], -1)
    there = plan @ global_from_lidar[:2, :2].T + origin
    nothing = Detections(np.zeros((0, 9), np.float32), (), np.zeros(0, np.float32), np.zeros(0, np.int64))
    return FrameLog(tick, 2, global_from_lidar, plan, there, nothing, 12.5)


def expert(route: Route | None = None, seconds: float = 19.0) -> DriveLog:
    """The drive that others are measured by: 8 m/s to the goal, alone."""
    return driven(8.0, seconds, policy="expert", route=route)


def front_x(log: DriveLog) -> np.ndarray:
    """[T] of the front bumper of a car that drives along x."""
    return log.ego.xy[:, 0] + CAR_FRONT_M


def as_policy(log: DriveLog, policy: str) -> DriveLog:
    return replace(log, policy=policy)
