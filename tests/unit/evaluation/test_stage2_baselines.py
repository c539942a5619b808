"""Stage-2 metrics on frames as the data set gives them: a perfect prediction scores perfectly, constant velocity nearly so."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from helpers.specs import edit, tiny_spec
from uniad.data.dataset import SceneStream
from uniad.evaluation.motion import MotionMetric
from uniad.evaluation.motion_boxes import constant_velocity, motion_labels, predictions, truth
from uniad.evaluation.planning import PlanningMetric, constant_velocity_plan, ego_velocity, ego_velocity_from_can_bus

MOTION = ("car", "pedestrian")


class Scored(NamedTuple):
    planning: dict[str, PlanningMetric]
    motion: dict[str, MotionMetric]
    moved: np.ndarray  # [n, 2] velocity from poses
    sensed: np.ndarray  # [n, 2] velocity from the CAN bus


@pytest.fixture(scope="module")
def scored(synthetic_root: Path, synthetic_infos: Path) -> Scored:
    spec = edit(
        tiny_spec(2).data, data_root=str(synthetic_root), workers_per_gpu=0,
        ann_file_train=str(synthetic_infos / "nuscenes_infos_temporal_train.pkl"),
        ann_file_val=str(synthetic_infos / "nuscenes_infos_temporal_val.pkl"),
    )  # fmt: skip
    planning = {k: PlanningMetric((spec.occ_xbound, spec.occ_ybound), compat="fixed") for k in ("truth", "velocity", "standing")}
    motion = {k: MotionMetric(MOTION) for k in ("truth", "velocity", "standing")}
    before, moved, sensed = None, [], []
    for sample in SceneStream(spec, "val", stage=2):
        frame, gt = sample.frame, sample.targets
        place, time_s = frame.l2g_t[0].numpy(), float(frame.time_s[0])
        velocity = ego_velocity_from_can_bus(frame.can_bus[0])
        if before is not None:
            sensed.append(velocity)
            velocity = ego_velocity(frame.l2g_r[0].numpy(), place, before[0], time_s - before[1])
            moved.append(velocity)
        before = (place, time_s)
        path, mask = gt.stage2.sdc_planning[0, 0, :, :2], gt.stage2.sdc_planning_mask[0, 0]
        plans = {"truth": path, "velocity": constant_velocity_plan(velocity), "standing": np.zeros((6, 2))}
        for name, plan in plans.items():
            planning[name].update(plan, path, mask, gt.stage2.segmentation[0, 1:7])

        last = [x[0, -1][gt.valid[0, -1]].numpy() for x in (gt.boxes, gt.labels)]
        chosen = gt.valid[0, -1].numpy()
        labels = [motion_labels(last[1], spec.class_names, MOTION, predicted=p, compat="fixed") for p in (False, True)]
        future, known = (x[0, chosen].numpy() for x in (gt.stage2.fut_traj, gt.stage2.fut_traj_mask))
        objects = truth(last[0], labels[0], future, known, MOTION, absolute=spec.use_nonlinear_optimizer)
        offsets = (objects.traj - objects.centre[:, None])[:, None]
        found = predictions(last[0], np.ones(len(last[0])), labels[1], offsets, MOTION)
        still = found._replace(velocity=np.zeros_like(found.velocity))
        for name, forecast in (("truth", found), ("velocity", constant_velocity(found)), ("standing", constant_velocity(still))):
            motion[name].update(sample.info["token"], forecast, objects)
    return Scored(planning, motion, np.array(moved), np.array(sensed))


def test_the_drivers_own_path_is_perfect(scored: Scored) -> None:
    values = [v for v in scored.planning["truth"].compute().values() if not np.isnan(v)]
    assert len(values) > 6 and not any(values)


def test_a_car_that_keeps_its_velocity_plans_better_than_one_that_stands(scored: Scored) -> None:
    keeps, stands = (scored.planning[k].compute() for k in ("velocity", "standing"))
    assert 0 < keeps["L2_1s"] < 0.5 * stands["L2_1s"]
    assert 0 < keeps["L2_2s"] < 0.5 * stands["L2_2s"]


def test_poses_and_can_bus_agree_on_the_velocity(scored: Scored) -> None:
    assert np.linalg.norm(scored.moved, axis=1).max() > 1, "the car drives"
    assert np.abs(scored.moved - scored.sensed).max() < 1.0  # mean over half a second beside an instant


def test_perfect_forecasts_are_perfect_and_constant_velocity_beats_standing(scored: Scored) -> None:
    perfect, keeps, stands = (scored.motion[k].compute() for k in ("truth", "velocity", "standing"))
    assert perfect["car/N_gt"] > 0
    assert perfect["car/min_ade_mean"] == pytest.approx(0, abs=1e-6) and perfect["car/miss_rate_err"] == 0
    assert perfect["car/min_ade_mean"] < keeps["car/min_ade_mean"] < stands["car/min_ade_mean"]
