"""What stage 2 predicts, scored frame by frame: trajectories, occupancy and the plan, each beside constant velocity.

The baselines go through the same metrics as the model. Motion: the model's own detections go on with the velocity that it gave
them. Occupancy: the same vehicles, drawn where that velocity takes them. Plan: the ego car goes on as it moved until now.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniad.config.spec import Spec
from uniad.data.dataset import SceneSample
from uniad.data.occupancy import draw_instances
from uniad.evaluation import motion_boxes
from uniad.evaluation.motion import MotionMetric
from uniad.evaluation.occupancy import OccupancyMetric
from uniad.evaluation.planning import PlanningMetric, constant_velocity_plan, ego_velocity, ego_velocity_from_can_bus
from uniad.geometry.grid import BevGrid
from uniad.geometry.nuscenes import STEP_S
from uniad.interface.types import Frame, Stage2Targets, Targets
from uniad.postprocess.result import NOBODY, Forecasts, Result, Stage2Result

MOTION_NAMES = ("car", "pedestrian")  # groups of the motion protocol; the first holds all vehicles
MODEL, BASELINE, OPTIMISED = "model", "constant_velocity", "model_with_collision_optimiser"


class EgoMotion:
    """The ego car's velocity from frame to frame, without looking ahead."""

    def __init__(self) -> None:
        self.before: tuple[NDArray[np.float32], float] | None = None

    def velocity(self, frame: Frame) -> NDArray[np.float64]:
        """[2] m/s in the lidar frame of now, since the frame before; from the CAN bus at a scene's start. Frames in order."""
        place, time_s = frame.l2g_t[0].cpu().numpy(), float(frame.time_s[0])
        before, self.before = self.before, (place, time_s)
        if before is None or bool(frame.scene_start[0]):
            return ego_velocity_from_can_bus(frame.can_bus[0].cpu())
        return ego_velocity(frame.l2g_r[0].cpu().numpy(), place, before[0], time_s - before[1])


class FutureScores:
    """Metrics of some frames; ``merge`` joins those of others. Grids and compatibility switches are the config's."""

    def __init__(self, spec: Spec) -> None:
        data, compat = spec.data, spec.model.compat
        # Of the labels, which are what the plan is held against and what the occupancy head predicts
        bounds = (data.occ_xbound, data.occ_ybound)
        assert spec.model.stage2 is not None
        plan = spec.model.stage2.plan
        plans = (MODEL, OPTIMISED, BASELINE) if plan.use_col_optim else (MODEL, BASELINE)
        self.planning = {name: PlanningMetric(bounds, plan.steps, compat.planning_metric) for name in plans}
        self.motion = {name: MotionMetric(MOTION_NAMES, compat=compat.motion_metric) for name in (MODEL, BASELINE)}
        self.occupancy = {name: OccupancyMetric(*bounds) for name in (MODEL, BASELINE)}
        self.agents_dropped = 0

    def update(self, result: Result, sample: SceneSample, velocity: NDArray[np.float64], spec: Spec) -> None:
        """One frame: its result, its sample with the targets of stage 2, the ego's velocity [2] m/s."""
        said, heads, gt = result.stage2, spec.model.stage2, sample.targets.stage2
        assert said is not None and heads is not None and gt is not None
        self._update_motion(said.forecasts, sample, gt, spec)
        self._update_occupancy(said, sample.targets, heads.motion.vehicle_ids, spec)
        steps = heads.plan.steps
        plans = {MODEL: said.plan.raw, OPTIMISED: said.plan.path, BASELINE: constant_velocity_plan(velocity, steps)}
        boxes = [gt.future_boxes[0, t][gt.future_boxes_valid[0, t]].numpy() for t in range(1, steps + 1)]
        path, mask, occupied = gt.sdc_planning[0, 0, :, :2], gt.sdc_planning_mask[0, 0], gt.segmentation[0, 1 : steps + 1]
        driver = self.planning[MODEL].driver_hits(path, occupied, boxes)
        for name, metric in self.planning.items():
            metric.update(plans[name], path, mask, occupied, boxes, driver)
        self.agents_dropped += result.agents_dropped

    def _update_motion(self, agents: Forecasts, sample: SceneSample, ahead: Stage2Targets, spec: Spec) -> None:
        names, compat, gt = spec.data.class_names, spec.model.compat.motion_metric, sample.targets
        if agents.boxes is None or agents.scores is None or agents.raw is None:
            raise ValueError("forecasts that were read from a file have nothing that metrics are computed from")
        ego_xy = ego_in_lidar(sample.info)
        distance = np.linalg.norm(agents.boxes[:, :2] - ego_xy, axis=1)
        labels = motion_boxes.motion_labels(agents.labels, names, MOTION_NAMES, True, compat, distance)
        predicted = motion_boxes.predictions(agents.boxes, agents.scores, labels, agents.raw, MOTION_NAMES, ego_xy)
        seen = gt.valid[0, 0]  # annotated, in range, and with a lidar or radar point on it
        truth = motion_boxes.truth(
            gt.boxes[0, 0][seen], motion_boxes.motion_labels(gt.labels[0, 0][seen], names, MOTION_NAMES, False, compat),
            ahead.fut_traj[0][seen], ahead.fut_traj_mask[0][seen], MOTION_NAMES, spec.data.use_nonlinear_optimizer, ego_xy,
        )  # fmt: skip
        token = sample.info["token"]
        self.motion[MODEL].update(token, predicted, truth)
        self.motion[BASELINE].update(token, motion_boxes.constant_velocity(predicted, ahead.fut_traj.shape[2]), truth)

    def _update_occupancy(self, said: Stage2Result, targets: Targets, vehicle_ids: tuple[int, ...], spec: Spec) -> None:
        receptive, agents = spec.data.occ_receptive_field, said.forecasts
        if agents.boxes is None:
            raise ValueError("forecasts that were read from a file have no boxes")
        self.occupancy[MODEL].update_sample(said.occupancy, said.occupancy_ids - NOBODY, targets, receptive)
        grid = BevGrid.from_bounds(spec.data.occ_xbound, spec.data.occ_ybound)
        vehicles = np.isin(agents.labels, vehicle_ids)
        seg, ids = constant_velocity_occupancy(agents.boxes[vehicles], len(said.occupancy), grid)
        self.occupancy[BASELINE].update_sample(seg, ids, targets, receptive)

    def merge(self, other: FutureScores) -> None:
        for name, planning in self.planning.items():
            planning.merge(other.planning[name])
        for name, motion in self.motion.items():
            motion.merge(other.motion[name])
        for name, occupancy in self.occupancy.items():
            occupancy.merge(other.occupancy[name])
        self.agents_dropped += other.agents_dropped

    def compute(self) -> dict[str, Any]:
        """``motion``, ``occupancy`` and ``planning``, each by who predicted; None for what nothing was seen of."""
        families = {"motion": self.motion, "occupancy": self.occupancy, "planning": self.planning}
        scores: dict[str, Any] = {
            family: {name: _plain(metric.compute()) for name, metric in metrics.items()} for family, metrics in families.items()
        }
        scores["occupancy"]["areas"] = [area.name for area in self.occupancy[MODEL].areas]
        scores["planning"]["grid"] = self.planning[MODEL].grid
        scores["agents_dropped"] = self.agents_dropped
        return scores


def ego_in_lidar(info: dict[str, Any]) -> NDArray[np.float64]:
    """The ego car's origin [2] in the lidar frame, metres; info: the pose of the lidar on the car."""
    from pyquaternion import Quaternion

    lidar = np.asarray(info["lidar2ego_translation"], float)
    return -np.asarray(Quaternion(info["lidar2ego_rotation"]).inverse.rotate(lidar))[:2]


def constant_velocity_occupancy(
    boxes: NDArray[np.float32], steps: int, grid: BevGrid
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Which cells vehicles take, and which vehicle does (from 1, 0 nobody), now and in steps of 0.5 s: [steps, h, w] each.

    boxes [n, 9] of the vehicles, the surest first, which go on at their velocity.
    """
    numbers = np.arange(len(boxes)) + 1 + _OFFSET
    frames = []
    for step in range(steps):
        moved = boxes.copy()
        moved[:, :2] += boxes[:, 7:9] * (step * STEP_S)
        # The surest comes last on the canvas: it keeps the cells that two claim
        frames.append(draw_instances(grid, moved[::-1], numbers[::-1]))
    seg, ids = (np.stack(x) for x in zip(*frames))
    return seg, np.where(ids > 0, ids - _OFFSET, 0)


# draw_instances reads the id 255 as one that means "ignore"; vehicles are counted from beyond it.
_OFFSET = 1000


def _plain(scores: dict[str, float]) -> dict[str, float | int | None]:
    """Ready for JSON, which knows no NaN."""
    return {key: None if isinstance(value, float) and np.isnan(value) else value for key, value in scores.items()}
