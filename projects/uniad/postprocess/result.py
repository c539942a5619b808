"""What a step says of one frame: plain arrays of what is there, without padding. Host code, after the graph.

``Result`` is the one form in which anything after the step reads it, whatever back end ran it: inference, evaluation, pictures,
videos and recordings. ``result_of`` makes it from the graph's outputs.

Metres in the lidar frame of the frame's own instant (x right, y forward, z up); steps of 0.5 s. Grids have row 0 behind the car
and column 0 on its left. Axes: n objects, a agents, K modes, F future steps of an agent, P steps of the plan, F' occupancy steps,
h w cells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from uniad.config.spec import BENCH2DRIVE, CompatSpec, Spec, Stage2Spec, Vocabulary
from uniad.errors import UserError
from uniad.interface.command import ALL_COMMANDS
from uniad.interface.types import EGO_ID
from uniad.postprocess.tracks import decode

Array = NDArray[np.float32]
NOBODY = -1


@dataclass(frozen=True)
class Objects:
    """n boxes, best first."""

    boxes: Array  # [n, 9] x, y, z of the bottom centre, w, l, h (m), yaw (rad), vx, vy (m/s)
    labels: NDArray[np.int64]  # [n] index into the class names
    scores: Array  # [n]
    ids: NDArray[np.int64]  # [n] track id; -1 where an object is not tracked

    def __len__(self) -> int:
        return len(self.scores)

    def joined(self, other: Objects) -> Objects:
        """Both, best first."""
        both = [np.concatenate(pair) for pair in zip(vars(self).values(), vars(other).values())]
        order = np.argsort(-np.concatenate([self.scores, other.scores]), kind="stable")
        return Objects(*(values[order] for values in both))


@dataclass(frozen=True)
class Forecasts:
    """Where a agents may go, best score first. Agents are tracks, by id; not every track is one (``agents_dropped``, range).

    The last three are what metrics are computed from, and None where a result was read from a file, which does not hold them.
    """

    ids: NDArray[np.int64]  # [a] track id
    starts: Array  # [a, 3] where each stands, on the ground
    labels: NDArray[np.int64]  # [a]
    traj: Array  # [a, K, F, 2] positions, not offsets
    prob: Array  # [a, K], adding up to 1
    boxes: Array | None = None  # [a, 9] as in Objects
    scores: Array | None = None  # [a]
    raw: Array | None = None  # [a, K, F, 5] as the network gave it: x, y from the box centre, inverse deviations, correlation


@dataclass(frozen=True)
class Plan:
    """Where the car should go."""

    path: Array  # [P, 2] after the collision optimiser, where the config has one
    raw: Array  # [P, 2] as the network gave it
    command: int


class Stage2Result(NamedTuple):
    """What the heads of stage 2 add to a ``Result``, all of it there."""

    forecasts: Forecasts
    occupancy: NDArray[np.bool_]
    occupancy_ids: NDArray[np.int64]
    plan: Plan


@dataclass(frozen=True)
class Result:
    """Everything of one frame. forecasts, occupancy, occupancy_ids and plan are None for a model of stage 1."""

    tracks: Objects
    detections: Objects
    ego: Objects  # the car's own box as a detection, where it is among the best: upstream evaluation counts it with the others
    lanes: NDArray[np.bool_]  # [C, h, w] by map class: dividers, crossings and contours of nuScenes
    drivable: NDArray[np.bool_]  # [h, w]
    forecasts: Forecasts | None = None
    occupancy: NDArray[np.bool_] | None = None  # [F', h, w] now first
    occupancy_ids: NDArray[np.int64] | None = None  # [F', h, w] track that claims a cell, -1 none
    plan: Plan | None = None
    dropped: int = 0  # tracks lost because all slots were taken
    timings_ms: dict[str, float] = field(default_factory=dict)  # load (of a recorded frame), preprocess, step, postprocess
    drivable_value: Array | None = None  # [h, w] mask value, drivable where above 0.5; files do not hold it
    agents_dropped: int = 0  # tracks in range that found no agent slot; files do not hold it

    @property
    def stage2(self) -> Stage2Result | None:
        """Forecasts, occupancy and plan; None for a model of stage 1."""
        if self.forecasts is None or self.occupancy is None or self.occupancy_ids is None or self.plan is None:
            return None
        return Stage2Result(self.forecasts, self.occupancy, self.occupancy_ids, self.plan)


def result_of(outputs: Mapping[str, np.ndarray], frame: Mapping[str, np.ndarray], spec: Spec) -> Result:
    """Result of one frame's graph outputs (``interface.contract``), lanes already settled (``Runner.step`` does that).

    frame: the graph inputs of the frame, of which the command is read. Raises UserError for outputs that are not finite: a car
    must not be given them.
    """
    for name in ("boxes", "score", *(() if spec.model.stage2 is None else ("plan_traj",))):
        if not np.isfinite(outputs[name][outputs["valid"] != 0] if name != "plan_traj" else outputs[name]).all():
            raise UserError(f"the model's {name} are not finite for this frame; verify the model (`make verify`) and the inputs")
    rows = {name: outputs[name][0] for name in ("boxes", "score", "label", "obj_id")}
    tracked, detected = (decode(rows, outputs[name][0] != 0, spec.model.track) for name in ("active", "valid"))
    drivable = outputs["map_drivable"][0] if "map_drivable" in outputs else np.zeros(spec.model.map.canvas_hw, np.float32)
    common = {
        "tracks": _objects(tracked, ego=False),
        "detections": _objects(detected, ego=False),
        "ego": _objects(detected, ego=True),
        "lanes": outputs["map_lanes"][0] > 0,
        "drivable": drivable > 0.5,
        "dropped": int(outputs["dropped"][0]),
        "drivable_value": drivable,
    }
    if spec.model.stage2 is None:
        return Result(**common)
    occupancy = outputs["occ_seg"][0] != 0
    return Result(
        **common,
        forecasts=_forecasts(outputs),
        occupancy=occupancy,
        occupancy_ids=np.where(occupancy, _slot_ids(outputs)[outputs["occ_ids"][0]], NOBODY),
        plan=_plan(outputs, frame, spec.model.stage2, spec.model.compat, spec.data.vocabulary, common["tracks"].boxes),
        agents_dropped=int(outputs["agents_dropped"][0]),
    )


def prepare_result(spec: Spec) -> None:
    """Make now what the first frames would wait for: the collision optimiser's solvers, where the config has one."""
    if spec.model.stage2 is not None and spec.model.stage2.plan.col_moves == "points" and spec.model.stage2.plan.use_col_optim:
        from uniad.postprocess.collision import prepare

        prepare(spec.model.stage2.plan, spec.model.compat, (spec.model.stage2.occ.xbound, spec.model.stage2.occ.ybound))


def _objects(decoded: Mapping[str, np.ndarray], ego: bool) -> Objects:
    """The car itself, or all others: it is no object of its surroundings."""
    chosen = (decoded["track_ids"] == EGO_ID) == ego
    return Objects(*(decoded[key][chosen] for key in ("boxes_3d", "labels", "scores", "track_ids")))


def _slot_ids(outputs: Mapping[str, np.ndarray]) -> NDArray[np.int64]:
    """Track id by value of occ_ids: 0 nobody, else 1 + slot."""
    return np.concatenate([[NOBODY], outputs["agent_id"][0]]).astype(np.int64)


def _forecasts(outputs: Mapping[str, np.ndarray]) -> Forecasts:
    ids = outputs["agent_id"][0].astype(np.int64)
    slots = np.flatnonzero((outputs["agent_valid"][0] != 0) & (ids >= 0))
    rows = outputs["agent_row"][0][slots]
    boxes, raw = outputs["boxes"][0][rows], outputs["motion_traj"][0][slots]
    prob = np.exp(outputs["motion_score"][0][slots].astype(np.float64))
    return Forecasts(
        ids=ids[slots],
        starts=boxes[:, :3],
        labels=outputs["label"][0][rows].astype(np.int64),
        traj=boxes[:, None, None, :2] + raw[..., :2],
        prob=(prob / prob.sum(-1, keepdims=True)).astype(np.float32),
        boxes=boxes,
        scores=outputs["score"][0][rows],
        raw=raw,
    )


def _plan(
    outputs: Mapping[str, np.ndarray], frame: Mapping[str, np.ndarray], spec: Stage2Spec, compat: CompatSpec, words: Vocabulary,
    tracked: Array,
) -> Plan:  # fmt: skip
    raw = outputs["plan_traj"][0].astype(np.float32)
    if spec.plan.use_col_optim and spec.plan.col_moves == "speed":
        from uniad.postprocess.giving_way import give_way

        forward = 7 if compat.can_bus_order == BENCH2DRIVE else 13  # of can_bus, m/s
        path = give_way(raw, float(frame["can_bus"][0][forward]), tracked).astype(np.float32)
    else:
        from uniad.postprocess.collision import optimise_plan  # needs the solver, which stage 1 does without

        path = optimise_plan(raw, outputs["occ_seg"][0], spec.plan, compat, (spec.occ.xbound, spec.occ.ybound))
    return Plan(path=path, raw=raw, command=ALL_COMMANDS.index(words.commands[int(frame["command"][0])]))
