"""Plans of recorded frames against what the driver did: both definitions of L2, collisions, curbs, by manoeuvre and speed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from uniad.assess.ego_alone import ego_status
from uniad.assess.frames import Recorded
from uniad.config.spec import UPSTREAM
from uniad.data.maps import vector_map
from uniad.evaluation.future import EgoMotion
from uniad.evaluation.planning import HORIZONS_S, PlanningMetric, constant_velocity_plan, ego_corners
from uniad.geometry.nuscenes import STEP_S
from uniad.interface.command import COMMANDS

F64 = NDArray[np.float64]
REACH_M = 120.0  # of the map around the car: 3 s at 40 m/s
CURB_M2 = 0.05  # of a footprint that may lie beyond the edge: what a polygon of few points is off by
STANDING_MPS, BRAKING_MPS2 = 0.3, 1.0  # of the path's mean; at least so much less, over the path
ALL = "all"
MANOEUVRES = ("left", "right", "straight", "braking", "standing")
SPEEDS = (("below 0.5 m/s", 0.5), ("0.5 to 5 m/s", 5.0), ("5 to 10 m/s", 10.0), ("above 10 m/s", np.inf))


@dataclass(frozen=True)
class TruePlan:
    """A frame's ground truth, as plans are held against it. Metres, lidar frame of now, steps of 0.5 s."""

    key: int
    path: NDArray[np.float32]  # [P, 2] where the driver went
    known: NDArray[np.bool_]  # [P] steps within the scene
    occupied: NDArray[Any]  # [P, h, w]
    boxes: tuple[NDArray[np.float32], ...]  # P of [n, 9]
    road: BaseGeometry  # drivable, in the lidar frame
    velocity: F64  # [2] m/s of now
    status: F64  # what the car knows of itself
    manoeuvre: str
    speed: str

    def groups(self) -> tuple[str, str, str]:
        return ALL, self.manoeuvre, self.speed


def truths(recorded: Recorded) -> Iterator[TruePlan]:
    """Of every frame, scene after scene, that has a future."""
    assert recorded.spec.model.stage2 is not None
    steps = recorded.spec.model.stage2.plan.steps
    table = recorded.table
    for scene in recorded.scenes:
        ego = EgoMotion()
        for key in scene.keys:
            # nothing that the truth is made of reads more of an info than these
            sample = recorded.truth(key, {"token": str(table.token[key]), "scene_token": scene.token})
            gt = sample.targets.stage2
            assert gt is not None
            velocity = ego.velocity(sample.frame)
            path, known = gt.sdc_planning[0, 0, :steps, :2].numpy(), gt.sdc_planning_mask[0, 0, :steps, 0].numpy() != 0
            if not known.any():
                continue
            speed = float(np.hypot(*velocity))
            pose = recorded.global_from_lidar(key)
            road = vector_map(str(recorded.spec.data.data_root), str(table.location[table.scene[key]]))
            yield TruePlan(
                key=key, path=path, known=known, occupied=gt.segmentation[0, 1 : steps + 1].numpy(),
                boxes=tuple(gt.future_boxes[0, t][gt.future_boxes_valid[0, t]].numpy() for t in range(1, steps + 1)),
                road=_in_lidar(road.drivable_area((float(pose[0, 3]), float(pose[1, 3])), REACH_M), pose),
                velocity=velocity, status=ego_status(table, recorded.labeller, key),
                manoeuvre=manoeuvre_of(path[known], speed, recorded.labeller.command(key)),
                speed=next(name for name, most in SPEEDS if speed < most),
            )  # fmt: skip


def manoeuvre_of(path: NDArray[Any], speed: float, command: int) -> str:
    """What the driver does within the path [n, 2] of known steps, at ``speed`` (m/s) now: one of ``MANOEUVRES``."""
    ways = np.linalg.norm(np.diff(np.concatenate([np.zeros((1, 2)), path]), axis=0), axis=1)
    if ways.mean() < STANDING_MPS * STEP_S:
        return "standing"
    if COMMANDS[command] != "straight":
        return COMMANDS[command]
    return "braking" if speed - ways[-1] / STEP_S > BRAKING_MPS2 * STEP_S * len(ways) else "straight"


def _in_lidar(area: BaseGeometry, global_from_lidar: F64) -> BaseGeometry:
    lidar_from_global = np.linalg.inv(global_from_lidar)
    turn, shift = lidar_from_global[:2, :2], lidar_from_global[:2, :2] @ -global_from_lidar[:2, 3]
    shapely.prepare(area := shapely.transform(area, lambda points: points @ turn.T + shift))
    return area


def crosses_curb(path: NDArray[Any], road: BaseGeometry) -> NDArray[np.bool_]:
    """At which steps [P] the car's footprint lies beyond the edge of what is drivable."""
    cars = shapely.polygons(ego_corners(path))
    outside = ~shapely.covers(road, cars)
    outside[outside] = shapely.area(shapely.difference(cars[outside], road)) > CURB_M2
    return outside


@dataclass
class PlanScores:
    """Sums over the frames of one group."""

    upstream: PlanningMetric  # every step counts, also those without ground truth
    known: PlanningMetric  # the steps with ground truth
    curbs: NDArray[np.float64]
    counts: NDArray[np.float64]
    frames: int = 0

    @classmethod
    def empty(cls, recorded: Recorded) -> PlanScores:
        data, heads = recorded.spec.data, recorded.spec.model.stage2
        assert heads is not None
        grid, steps = (data.occ_xbound, data.occ_ybound), heads.plan.steps
        return cls(
            PlanningMetric(grid, steps, UPSTREAM), PlanningMetric(grid, steps, "fixed"), np.zeros(steps), np.zeros(steps)
        )

    def add(self, plan: NDArray[Any], truth: TruePlan) -> None:
        self.upstream.update(plan, truth.path, truth.known, truth.occupied)
        self.known.update(plan, truth.path, truth.known, truth.occupied, truth.boxes)
        # Where the driver drove over the edge (a car park that the map lacks), no plan is blamed for it.
        blamed = truth.known & ~crosses_curb(np.where(truth.known[:, None], truth.path, 0), truth.road)
        self.curbs += crosses_curb(plan, truth.road) & blamed
        self.counts += truth.known
        self.frames += 1

    def numbers(self) -> dict[str, float]:
        """``L2_{t}s`` upstream's masked mean at 1, 2, 3 s; ``L2_avg_{t}s`` the mean up to it (ST-P3, VAD), over known steps;
        ``collisions``, ``curbs``: percent, the mean of 1, 2, 3 s. ``L2`` and ``L2_avg``: means of the three. NaN: not defined.
        """
        at, mean = self.upstream.compute(), self.known.compute()
        found = {f"L2_{t}s": at[f"L2_{t}s"] for t in HORIZONS_S} | {f"L2_avg_{t}s": mean[f"L2_avg_{t}s"] for t in HORIZONS_S}
        steps = [round(t / STEP_S) - 1 for t in HORIZONS_S]
        with np.errstate(invalid="ignore", divide="ignore"):
            curbs = 100 * self.curbs / self.counts
        found["L2"] = _mean([found[f"L2_{t}s"] for t in HORIZONS_S])
        found["L2_avg"] = _mean([found[f"L2_avg_{t}s"] for t in HORIZONS_S])
        found["collisions"] = 100 * _mean([mean[f"obj_box_col_{t}s"] for t in HORIZONS_S])
        found["curbs"] = _mean([curbs[step] for step in steps])
        return found


def _mean(values: Sequence[float]) -> float:
    """Of those that are defined: short scenes have no truth at 3 s."""
    known = [float(value) for value in values if not np.isnan(value)]
    return sum(known) / len(known) if known else float("nan")


def score_plans(recorded: Recorded, truth: Sequence[TruePlan], plans: Mapping[int, NDArray[Any]]) -> dict[str, dict[str, float]]:
    """By group (all, manoeuvres, speeds): ``PlanScores.numbers`` and ``frames``. plans: by frame."""
    groups: dict[str, PlanScores] = {}
    for frame in truth:
        for group in frame.groups():
            groups.setdefault(group, PlanScores.empty(recorded)).add(np.asarray(plans[frame.key], np.float32), frame)
    names = (ALL, *MANOEUVRES, *(name for name, _ in SPEEDS))
    return {name: groups[name].numbers() | {"frames": groups[name].frames} for name in names if name in groups}


def without_a_model(truth: Sequence[TruePlan]) -> dict[str, dict[int, NDArray[np.float32]]]:
    """Plans that need none: constant velocity, and standing still."""
    steps = len(truth[0].path)
    return {
        "constant velocity": {frame.key: constant_velocity_plan(frame.velocity, steps) for frame in truth},
        "standing still": {frame.key: np.zeros((steps, 2), np.float32) for frame in truth},
    }
