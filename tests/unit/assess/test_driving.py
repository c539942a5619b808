"""A car in the closed loop whose sensors are broken: what reaches the model, and what it drives on without a result."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from uniad.assess import driving
from uniad.assess.driving import FaultyModel, drive_under
from uniad.assess.faults import FAULTS
from uniad.assess.frames import DROPPED, REFUSED
from uniad.deploy.sensors import Pose, Sensors
from uniad.errors import UserError
from uniad.formats.layout import CAMERAS
from uniad.simulation.log import Observation, Planned

PLAN = np.stack([np.zeros(6), 2.0 * np.arange(1, 7)], axis=1)  # straight on at 4 m/s


class Asked:
    """A model that keeps what it is asked, and refuses a frame without the front camera."""

    name, sensors = "model", "rendered"

    def __init__(self) -> None:
        self.seen: list[Sensors] = []
        self.begun = 0

    def reset(self, route: object) -> None:
        self.begun += 1

    def step(self, observation: Observation, privileged: object) -> Planned:
        if "CAM_FRONT" not in observation.sensors.images:
            raise UserError("it lacks CAM_FRONT")
        self.seen.append(observation.sensors)
        return Planned(PLAN)


def sensors() -> Sensors:
    pose = Pose(np.zeros(3), np.array([1.0, 0, 0, 0]))
    images = {name: np.full((9, 16, 3), 99, np.uint8) for name in CAMERAS}
    return Sensors(images, {name: np.eye(4) for name in CAMERAS}, pose, pose, 0.0, 2, np.zeros(18))


def driven(policy: FaultyModel, frames: int) -> list[np.ndarray]:
    """Plans of a car that goes straight on at 4 m/s, as planned."""
    policy.reset(SimpleNamespace(id="route"))
    plans = []
    for number in range(frames):
        plane = np.eye(3)
        plane[1, 2] = 2.0 * number
        observation = Observation(replace(sensors(), time_s=0.5 * number), 2, 0.5 * number)
        plans.append(policy.step(observation, SimpleNamespace(global_from_lidar=plane)).plan)
    return plans


def test_without_a_fault_the_model_gets_the_very_sensors() -> None:
    for fault in (None, FAULTS["Fog"]):
        model = Asked()
        policy = FaultyModel(model, fault, 0, 0)
        assert all(plan is PLAN for plan in driven(policy, 3)) and policy.missing == {} and policy.frames == 3
        assert all(not np.any(seen.images["CAM_BACK"] != 99) for seen in model.seen) and model.begun == 1


@pytest.mark.parametrize("name, kind", [("FrameDrops", DROPPED), ("CameraMissing", REFUSED)])
def test_a_frame_without_a_result_keeps_the_plan_and_is_counted(name: str, kind: str) -> None:
    model = Asked()
    policy = FaultyModel(model, FAULTS[name], 3, 4)
    plans = driven(policy, 20)
    assert policy.missing[kind] == 20 - len(model.seen) > 4 and set(policy.missing) == {kind}
    begun = next(number for number, plan in enumerate(plans) if plan is PLAN)
    assert all(not plan.any() for plan in plans[:begun])  # standing until there is a plan
    # a car that is where it planned to be finds the same plan ahead of it
    assert all(np.allclose(plan, PLAN, atol=1e-5) for plan in plans[begun:])


def test_the_score_is_the_mean_over_the_routes_and_is_of_the_faulty_drive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "Model", lambda runtime: Asked())
    monkeypatch.setattr(
        driving, "_route", lambda seed, index: (SimpleNamespace(route=SimpleNamespace(id=f"{seed}-{index}")), index)
    )

    def drive(setup: SimpleNamespace, policy: FaultyModel) -> int:
        driven(policy, 10)
        return policy.missing[DROPPED]

    monkeypatch.setattr(driving, "drive", drive)
    monkeypatch.setattr(
        driving, "score", lambda missing, index: SimpleNamespace(pdm=SimpleNamespace(score=1.0 - (missing > 0) - 0.1 * index))
    )
    clean = drive_under(None, None, 0, 0, 2)
    assert clean == {"score": 0.95, "by_route": {"100-0": 1.0, "100-1": 0.9}, "frames": 20, "missing": {}}
    faulty = drive_under(None, FAULTS["FrameDrops"], 3, 0, 2)
    assert faulty["score"] < clean["score"] and faulty["missing"][DROPPED] > 0
