"""Who can drive: a model, the same model without images, and what needs none: the expert, constant velocity, standing still."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from shapely.geometry import Point
from shapely.prepared import prep

from uniad.data.synthetic.dynamics import ACCEL, BRAKE, HARD_BRAKE, STANDSTILL_M, idm
from uniad.deploy.runtime import Runtime
from uniad.errors import UserError
from uniad.interface.command import command_of_vocabulary
from uniad.postprocess.giving_way import give_way
from uniad.postprocess.result import Result
from uniad.simulation.log import (
    CAR_FRONT_M,
    CAR_WIDTH_M,
    F64,
    FRAME_S,
    GREEN,
    LIDAR_AHEAD_M,
    NOTHING,
    PLAN_STEPS,
    TICK_S,
    Actor,
    Detections,
    Forecasts,
    Observation,
    Planned,
    Policy,
    Privileged,
    Route,
)

ROLL_STEPS = round(PLAN_STEPS * FRAME_S / TICK_S)
LOOK_M = np.arange(0.0, 45.0, 1.0)  # from the front bumper, along the route
WALK_S = (0.0, 0.8, 1.6, 2.4)  # where somebody on foot on the street will be
PERSON_M = 0.9  # the room that people get round their middle


class _Unaware:
    """Looks at nothing and remembers nothing."""

    sensors: Literal["none"] = "none"

    def reset(self, route: Route) -> None:
        pass


class StandStill(_Unaware):
    """Brakes, and stands."""

    name = "standing still"

    def step(self, observation: Observation, privileged: Privileged) -> Planned:
        return Planned(np.zeros((PLAN_STEPS, 2)))


class ConstantVelocity(_Unaware):
    """Goes on as it goes: at the speed of now, straight ahead."""

    name = "constant velocity"

    def step(self, observation: Observation, privileged: Privileged) -> Planned:
        way = LIDAR_AHEAD_M + privileged.speed * FRAME_S * np.arange(1, PLAN_STEPS + 1)
        ahead = np.array([np.cos(privileged.heading), np.sin(privileged.heading)])
        return Planned(in_lidar(privileged.xy + way[:, None] * ahead, privileged))


class Expert:
    """Knows everything: follows the route's centreline, as fast as bends allow, by the intelligent driver model behind who is in
    its way; stops for signals that are not green and for people on the street.
    """

    name = "expert"
    sensors: Literal["none"] = "none"

    def reset(self, route: Route) -> None:
        self.route = route
        self.street = prep(route.map.drivable)

    def step(self, observation: Observation, privileged: Privileged) -> Planned:
        now = privileged
        gap, lead_mps = self._leader(now)
        stop_s = self._red_stop(now)
        s, v, way = now.route_s, now.speed, []
        for _ in range(ROLL_STEPS):
            limit = np.array([np.interp(s + 0.5 * v, self.route.s, self.route.speed_mps)])
            a = self._idm(v, limit, 1e6, 0.0)
            if v > limit[0]:
                a = max(a, -BRAKE)
            if np.isfinite(gap):
                a = min(a, self._idm(v, limit, max(gap, 0.1), v - lead_mps))
            if stop_s is not None:
                a = min(a, self._idm(v, limit, max(stop_s - s - CAR_FRONT_M + STANDSTILL_M - 0.4, 0.1), v))
            a = float(np.clip(a, -HARD_BRAKE, ACCEL))
            rolling = TICK_S if v + a * TICK_S >= 0 else v / -a
            moved = v * rolling + 0.5 * a * rolling**2
            s, v, gap = s + moved, max(v + a * TICK_S, 0.0), gap - moved + lead_mps * TICK_S
            way.append(s)
        points = np.array(way)[round(FRAME_S / TICK_S) - 1 :: round(FRAME_S / TICK_S)]
        return Planned(self._on_route(now, points))

    @staticmethod
    def _idm(v: float, limit: F64, gap: float, closing: float) -> float:
        return float(idm(np.array([v]), limit, np.array([gap]), np.array([closing]))[0])

    def _on_route(self, now: Privileged, s: F64) -> F64:
        """Lidar positions [P, 2] in the frame of now, for the rear axle at arc lengths s; what it is aside fades."""
        route = self.route
        heading = np.interp(s, route.s, route.heading)
        ahead = np.stack([np.cos(heading), np.sin(heading)], -1)
        left = np.stack([-ahead[:, 1], ahead[:, 0]], -1)
        aside = float(route.project(now.xy, now.route_s)[1]) * np.exp(-(s - now.route_s) / 6.0)
        centre = np.stack([np.interp(s, route.s, route.centre[:, k]) for k in (0, 1)], -1)
        points = centre + LIDAR_AHEAD_M * ahead + aside[:, None] * left
        return in_lidar(points, now)

    def _red_stop(self, now: Privileged) -> float | None:
        """Arc length at which the front has to stop, if a signal ahead demands it."""
        front = now.route_s + CAR_FRONT_M
        own = [(line.route_s, state) for line, state in zip(self.route.stop_lines, now.signals) if np.isfinite(line.route_s)]
        for line_s, state in sorted(own):
            gap = line_s - 0.4 - front
            if gap < -0.5:
                continue
            too_late = gap <= now.speed**2 / (2 * 4.5) - 1.0
            return None if gap > 45.0 or too_late or state == GREEN else line_s - 0.4
        return None

    def _leader(self, now: Privileged) -> tuple[float, float]:
        """Gap to who is next in the way, and their speed along it."""
        route = self.route
        s = now.route_s + CAR_FRONT_M + LOOK_M
        path = np.stack([np.interp(s, route.s, route.centre[:, k]) for k in (0, 1)], -1)
        heading = np.interp(s, route.s, route.heading)
        reach = LOOK_M[-1] + 15.0
        best = (np.inf, 0.0)
        for actor in now.actors:
            if np.hypot(actor.pose[0] - now.xy[0], actor.pose[1] - now.xy[1]) > reach:
                continue
            discs, radius = _discs(actor)
            if actor.mode == "walking" and actor.speed > 0.1 and self.street.contains(Point(actor.pose[:2])):
                step = actor.speed * np.array([np.cos(actor.pose[2]), np.sin(actor.pose[2])])
                discs = np.concatenate([discs + step * t for t in WALK_S])
            away = np.linalg.norm(path[:, None] - discs[None], axis=-1).min(1)
            hit = np.flatnonzero(away < CAR_WIDTH_M / 2 + radius + 0.3)
            if len(hit) and LOOK_M[hit[0]] < best[0]:
                toward = actor.speed * np.cos(actor.pose[2] - heading[hit[0]]) if actor.mode == "driving" else 0.0
                best = (float(LOOK_M[hit[0]]), max(float(toward), 0.0))
        # The corridor test already holds about a disc's radius of distance.
        return best[0] + 0.3, best[1]


def _discs(actor: Actor) -> tuple[F64, float]:
    """Discs [n, 2] that cover an actor, and their radius."""
    x, y, yaw = actor.pose
    w, l, _ = actor.size
    if actor.kind == "pedestrian":
        return np.array([[x, y]]), PERSON_M
    short, long = min(w, l), max(w, l)
    offsets = np.linspace(-1, 1, max(1, int(np.ceil(long / short)))) * (long - short) / 2
    turn = yaw if l >= w else yaw + np.pi / 2  # a barrier is long across its heading
    return np.array([x, y]) + offsets[:, None] * [np.cos(turn), np.sin(turn)], short / 2


class Model:
    """A model in any back end. ``blank``: it is handed images without content, and everything else as it is."""

    def __init__(self, runtime: Runtime, blank: bool = False) -> None:
        if runtime.spec.model.stage2 is None:
            raise UserError(f"{runtime.source}: a model of stage 1 plans nothing; `make drive` takes an end-to-end model")
        self.runtime = runtime
        self.name = "model without images" if blank else "model"
        self.sensors: Literal["rendered", "blank"] = "blank" if blank else "rendered"

    def reset(self, route: Route) -> None:
        self.runtime.reset()

    def step(self, observation: Observation, privileged: Privileged) -> Planned:
        assert observation.sensors is not None  # asked for
        data = self.runtime.spec.data
        command = command_of_vocabulary(observation.sensors.command, data.vocabulary)
        result = self.runtime.step(replace(observation.sensors, command=command))
        stage2 = result.stage2
        assert stage2 is not None  # looked at when it was opened
        names = data.class_names
        return Planned(np.asarray(stage2.plan.path, np.float64), _detections(result, names), _forecasts(result, names))


class Guarded(Model):
    """The model with a guard that reads nothing but what the model itself tracks and the speed on the CAN bus, and slows the plan
    down on its own way: ``postprocess.giving_way``. A model whose config has the guard (``collision_optimiser="speed"``) drives
    no other way with it.

    The guard never steers, is never faster than the plan, and knows no signals.
    """

    def __init__(self, runtime: Runtime) -> None:
        super().__init__(runtime)
        self.name = "model with guard"

    def step(self, observation: Observation, privileged: Privileged) -> Planned:
        planned = super().step(observation, privileged)
        assert observation.sensors is not None and observation.sensors.can_bus is not None
        return self._guarded(planned, float(np.asarray(observation.sensors.can_bus)[13]))

    @staticmethod
    def _guarded(planned: Planned, speed: float) -> Planned:
        return replace(planned, plan=give_way(planned.plan, speed, (planned.detections or NOTHING).boxes))


def _detections(result: Result, names: tuple[str, ...]) -> Detections:
    tracks = result.tracks
    return Detections(tracks.boxes, tuple(names[label] for label in tracks.labels), tracks.scores, tracks.ids)


def _forecasts(result: Result, names: tuple[str, ...]) -> Forecasts:
    forecasts = result.forecasts
    assert forecasts is not None
    best = forecasts.prob.argmax(1) if len(forecasts.prob) else np.zeros(0, int)
    paths = forecasts.traj[np.arange(len(best)), best] if len(best) else np.zeros((0, 1, 2), np.float32)
    return Forecasts(forecasts.starts[:, :2], paths, tuple(names[label] for label in forecasts.labels))


def in_lidar(points: F64, now: Privileged) -> F64:
    """Global points [n, 2] in the lidar frame of now."""
    lidar_from_global = np.linalg.inv(now.global_from_lidar)
    return points @ lidar_from_global[:2, :2].T + lidar_from_global[:2, 2]


BASELINES: Mapping[str, Callable[[], Policy]] = {
    policy.name: policy for policy in (Expert, StandStill, ConstantVelocity)
}  # all that drive without a model
