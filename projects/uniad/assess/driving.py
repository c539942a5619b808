"""The closed loop under a fault: the same filter stands between the simulator's cameras and the model."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from uniad.assess.faults import Deliver, Fault
from uniad.assess.frames import DROPPED, REFUSED, moved_on
from uniad.deploy.runtime import Runtime
from uniad.errors import UserError
from uniad.simulation.drive import drive
from uniad.simulation.log import PLAN_STEPS, DriveLog, Observation, Planned, Policy, Privileged, Route
from uniad.simulation.policies import Expert, Model
from uniad.simulation.routes import Setup, make_setup, route_keys
from uniad.simulation.score import score

FIRST_WORLD = 100  # as tools/drive.py drives: nobody trains on it


class FaultyModel:
    """A model that drives on what a fault lets through. Without a result the car keeps its plan, standing where it has none."""

    sensors: Literal["rendered", "blank", "none"] = "rendered"

    def __init__(self, model: Policy, fault: Fault | None, severity: int, seed: int) -> None:
        self.name, self.model = model.name, model
        self.fault, self.severity, self.seed = fault, severity, seed
        self.missing: Counter[str] = Counter()
        self.frames = 0
        self._deliver: Deliver = lambda sensors: sensors
        self._last: tuple[int, NDArray[np.float64], NDArray[np.float64]] | None = None

    def reset(self, route: Route) -> None:
        self.model.reset(route)
        if self.fault is not None:
            self._deliver = self.fault.begin(self.severity, self.seed, route.id)
        self._last, self._number = None, -1

    def step(self, observation: Observation, privileged: Privileged) -> Planned:
        assert observation.sensors is not None  # asked for
        self._number += 1
        self.frames += 1
        sensors = self._deliver(observation.sensors)
        if sensors is None:
            self.missing[DROPPED] += 1
            return self._held(privileged)
        try:
            planned = self.model.step(replace(observation, sensors=sensors), privileged)
        except UserError:
            self.missing[REFUSED] += 1
            return self._held(privileged)
        self._last = self._number, _spatial(privileged.global_from_lidar), planned.plan
        return planned

    def _held(self, privileged: Privileged) -> Planned:
        if self._last is None:
            return Planned(np.zeros((PLAN_STEPS, 2)))
        number, pose, plan = self._last
        return Planned(moved_on(plan, self._number - number, pose, _spatial(privileged.global_from_lidar)).astype(np.float64))


def _spatial(plane: NDArray[np.float64]) -> NDArray[np.float64]:
    """A plane transform [3, 3] as one of space [4, 4]."""
    out = np.eye(4)
    out[:2, :2], out[:2, 3] = plane[:2, :2], plane[:2, 2]
    return out


def drive_under(runtime: Runtime, fault: Fault | None, severity: int, seed: int, routes: int) -> dict[str, Any]:
    """``score``: the mean driving score (PDM) of the first ``routes`` of the worlds from ``FIRST_WORLD`` on; ``by_route``;
    ``frames`` and ``missing`` of all of them.
    """
    policy = FaultyModel(Model(runtime), fault, severity, seed)
    by_route: dict[str, float] = {}
    for key in route_keys(FIRST_WORLD, routes):
        setup, expert = _route(*key)
        by_route[setup.route.id] = score(drive(setup, policy), expert).pdm.score
    return {
        "score": sum(by_route.values()) / len(by_route), "by_route": by_route, "frames": policy.frames,
        "missing": dict(policy.missing),
    }  # fmt: skip


@lru_cache(maxsize=4)
def _route(seed: int, index: int) -> tuple[Setup, DriveLog]:
    """A route, and the expert's drive of it, by which progress is measured."""
    setup = make_setup(seed, index)
    return setup, drive(setup, Expert())
