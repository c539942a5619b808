"""Compare a replay with what was recorded, in the terms a driver cares about: metres, track ids, map cells.

Every output and every state tensor is judged; a fault names it. Objects are compared row by row: fp32 keeps rows, and a row
that moved is a track that changed its id. Map elements and agents are sets, see ``map_compare`` and ``future_compare``.
The plan is judged as the graph gives it: the collision optimiser comes after the graph, on the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Dict, NamedTuple  # noqa: UP035

import numpy as np

from uniad.postprocess.map_merge import merged_anew
from uniad.verify.future import compare_future
from uniad.verify.map import compare_elements
from uniad.verify.objects import Aligned, align

if TYPE_CHECKING:
    from uniad.artifacts.sequence import Sequence
    from uniad.backends.runner import Runner
    from uniad.interface.contract import Contract

# This file, and what it imports, travels to Jetsons: Python 3.8 and numpy are all that JetPack 5 has.
Outputs = Dict[str, np.ndarray]  # noqa: UP006


@dataclass(frozen=True)
class Tolerance:
    """Largest difference to accept. One row a precision; reasons stand beside the table."""

    boxes_m: float  # centre, size and velocity of reported tracks: metres, metres per second, radians
    score: float  # of objects, and of map elements where they are below 1, else relative to them
    logits: float  # class logits of all valid rows, and log probabilities of predicted trajectories
    ids: float  # rows whose id, label or validity differs, and state slots of another track; above 0 objects are matched first
    objects: float  # share of reported objects, over all frames, that only one of the two reports
    map_cells: float  # fraction of map cells that may flip
    map_box: float  # fraction of the canvas
    map_mask: float  # largest difference over the larger of 1 and the largest value
    map_elements: float  # share of elements without counterpart in the other set
    bev_rel: float  # last BEV features: largest difference over largest value
    state_rel: float  # any other state of carried tracks at the end, likewise
    plan_m: float  # mean distance of a frame's planned positions: metres
    plan_mean_m: float  # the same, mean over all frames
    traj_m: float  # any position of any predicted trajectory of an agent: metres from its centre
    traj_spread: float  # its inverse deviations and correlation: largest difference over the larger of 1 and the value
    occ_cells: float  # fraction of occupancy cells that differ, in being occupied or in whose they are
    tensor_rms: float  # any tensor inside the graph, the frame before being right: root mean square of its error over its own
    tensor_max: float  # the same: largest difference over largest value
    tensor_flips: float  # share of whole numbers and truths that differ in a tensor inside the graph


# The one table of limits, a row a precision.
#
# fp32. Backends differ by the order of additions: 20 layers of it measure 1e-5 on scores and 1e-4 m on boxes, amplified by
# feeding the state back. A logit of 5 moves 150 times as much as its score, so logits have more room. A map box of 1e-3 is 0.1 m,
# half a cell of full's canvas. The elements are the best 100 of 900 pairs: when two nearly tie for the last place either may be
# in, so 2 % may be exchanged, but none that the merged map is made of. Plans of 1e-3 m and occupancy equal on 99.9 % of the cells
# are what the product promises. Predicted trajectories start from boxes and read the BEV, and have the room that boxes have;
# spreads are exponentials of what the network gives. Inside the graph, given the same state, tensors of nano agree to 1e-6 of
# their root mean square and 1e-5 of their range: ten times and more is no rounding, and a near tie may flip one index in 1000.
#
# fp16. Half keeps 11 bits, 5e-4 of a value, and a hundred roundings that add up by chance make 5e-3; four times that is lost
# accuracy. Single elements after a cancellation may be further off. Scores cross thresholds, so ids are free, and limits are on
# what tasks are judged by. A tenth of a metre of a box is half the finest matching threshold of nuScenes' 0.5 m, less what the
# box is off anyway. A plan may be off by 0.02 m over the sequence, as both lower precisions promise; a single frame, in which one
# agent may have appeared or gone, by five times that. One reported object in twenty may come or go a frame earlier or later.
#
# int8. 8 bits keep 4e-3 of a range, mostly of a much smaller value: a tenth of the root mean square is usual in a quantised
# layer. Boxes of 0.5 m and less are matched as right by the loosest thresholds alone, so that is where it ends. The plan is
# promised as in fp16: its layers and what it reads keep the precision that this takes.
_ANY = float("inf")
TOLERANCES = {
    "fp32": Tolerance(
        boxes_m=1e-3, score=1e-3, logits=1e-2, ids=0, objects=0, map_cells=1e-3, map_box=1e-3, map_mask=1e-3, map_elements=0.02,
        bev_rel=1e-3, state_rel=1e-3, plan_m=1e-3, plan_mean_m=1e-3, traj_m=1e-3, traj_spread=1e-3, occ_cells=1e-3,
        tensor_rms=1e-4, tensor_max=1e-3, tensor_flips=1e-3,
    ),
    "fp16": Tolerance(
        boxes_m=0.1, score=0.02, logits=0.2, ids=_ANY, objects=0.05, map_cells=0.01, map_box=0.02, map_mask=0.1, map_elements=0.1,
        bev_rel=0.05, state_rel=_ANY, plan_m=0.1, plan_mean_m=0.02, traj_m=0.2, traj_spread=0.05, occ_cells=0.01,
        tensor_rms=0.02, tensor_max=0.5, tensor_flips=0.02,
    ),
    "int8": Tolerance(
        boxes_m=0.5, score=0.1, logits=1.0, ids=_ANY, objects=0.1, map_cells=0.05, map_box=0.05, map_mask=0.3, map_elements=0.3,
        bev_rel=0.2, state_rel=_ANY, plan_m=0.1, plan_mean_m=0.02, traj_m=1.0, traj_spread=0.2, occ_cells=0.05,
        tensor_rms=0.2, tensor_max=1.0, tensor_flips=0.1,
    ),
}  # fmt: skip


YAW = 6  # of a box's nine numbers
AHEAD = ("plan_m", "plan_mean_m", "traj_m", "traj_spread", "occ_cells")  # rows that only the end-to-end step is judged by
INSIDE = ("tensor_rms", "tensor_max", "tensor_flips")  # rows for tensors that no replay sees; see locate


class Check(NamedTuple):
    """How far one tensor is off."""

    tensor: str  # its name at the border
    row: str  # of Tolerance
    value: float


@dataclass
class Report:
    """Worst value of every check over a replay, and what broke."""

    backend: str
    precision: str
    frames: int
    tracks: int  # reported tracks, summed over frames; a replay without any proves little
    worst: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    departed: list[tuple[int, str]] = field(default_factory=list)  # frame and tensor of every fault

    @property
    def ok(self) -> bool:
        return not self.faults

    def to_json(self) -> dict:
        return {
            "backend": self.backend,
            "precision": self.precision,
            "frames": self.frames,
            "tracks": self.tracks,
            "worst": self.worst,
            "faults": self.faults,
            "ok": self.ok,
        }


def replayed(runner: Runner, sequence: Sequence) -> Iterator[Outputs]:
    """Every frame's outputs as they come, with the state fed back, from the initial state; the last frame's hold the state after
    it. A caller that has seen enough stops asking."""
    with runner:
        for i, feed in enumerate(sequence.feeds):
            outputs = runner.step(feed)
            if i == len(sequence.feeds) - 1:  # a runner whose state lives on a device hands it out when asked
                after = {f"next_{name.removeprefix('state_')}": value for name, value in runner.state.items()}
                outputs = {**outputs, **after}
            yield outputs


def replay(runner: Runner, sequence: Sequence) -> list[Outputs]:
    """All of what ``replayed`` gives."""
    return list(replayed(runner, sequence))


def compare(
    outputs: Iterable[Outputs],
    sequence: Sequence,
    contract: Contract,
    backend: str,
    precision: str = "fp32",
    until_broken: bool = False,
) -> Report:
    """Judge a replay by the row of ``TOLERANCES`` that ``precision`` names.

    until_broken: leave off after the first frame with a fault; what is judged over all frames is then only told of those seen.
    """
    limit = TOLERANCES[precision]
    judged = [row for row in vars(limit) if row not in INSIDE and (contract.looks_ahead or row not in AHEAD)]
    report = Report(backend, precision, 0, 0, dict.fromkeys(judged, 0.0))

    def judge(where: str, frame: int, checks: Iterable[Check]) -> None:
        for check in checks:
            report.worst[check.row] = max(report.worst[check.row], check.value)
            allowed = getattr(limit, check.row)
            if not check.value <= allowed:  # a NaN is over any limit
                report.faults.append(f"{where}: {check.tensor} differs by {check.value:.3g} ({check.row}), allowed {allowed:.3g}")
                report.departed += [(frame, tensor) for tensor in check.tensor.split(" and ")]

    plans: list[float] = []
    strangers = reported = 0
    came, last = iter(outputs), None
    for i, (want, got) in enumerate(zip(sequence.expected, came)):
        report.frames, last = i + 1, got
        broken = {name for name, value in got.items() if not np.isfinite(value).all()}
        report.faults += [f"frame {i}: {name} has non-finite values" for name in sorted(broken)]
        report.departed += [(i, name) for name in sorted(broken)]
        report.tracks += int((want["active"] != 0).sum())
        if not broken:
            aligned = align(got, want) if limit.ids else _as_it_is(got, want)
            got, reported = aligned.outputs, reported + int((want["active"] != 0).sum() + (got["active"] != 0).sum())
            strangers += aligned.strangers
            judge(f"frame {i}", i, _objects(got, want, aligned.comparable, limit))
            judge(f"frame {i}", i, _map(got, want, contract, limit))
            if contract.looks_ahead:
                future = [Check(*found) for found in compare_future(got, want, limit, aligned.comparable)]
                judge(f"frame {i}", i, future)
                plans += [check.value for check in future if check.row == "plan_m"]
        if until_broken and report.faults:
            if plans:
                report.worst["plan_mean_m"] = float(np.mean(plans))
            return report
    end = report.frames - 1
    if last is not None:
        judge("last frame", end, _state(last, sequence.end_state))
    judge("all frames", end, [Check("active", "objects", strangers / max(reported, 1))])
    if plans:
        judge("all frames", end, [Check("plan_traj", "plan_mean_m", float(np.mean(plans)))])
    report.frames += sum(1 for _ in came)
    if report.frames != len(sequence):
        report.faults.append(f"{report.frames} frames came back, {len(sequence)} were recorded")
    return report


def _as_it_is(got: Outputs, want: Outputs) -> Aligned:
    """Every row is what it was, and one that is not is a fault."""
    return Aligned(got, want["valid"][0] != 0, int(((got["active"] != 0) != (want["active"] != 0)).sum()))


def _objects(got: Outputs, want: Outputs, comparable: np.ndarray, limit: Tolerance) -> Iterator[Check]:
    for name in ("obj_id", "active", "valid", "dropped"):
        yield Check(name, "ids", float((got[name] != want[name]).sum()))
    valid = (want["valid"] != 0) & comparable
    active = (want["active"] != 0) & comparable
    # A label is the largest of the class logits: where two nearly tie, either will do, unless the row is reported.
    classes = want["cls_logits"]
    label = got["label"].clip(0, classes.shape[-1] - 1)
    behind = classes.max(-1) - np.take_along_axis(classes, label[..., None], -1)[..., 0]
    other = (got["label"] != label) | (behind > 2 * limit.logits) | (active & (got["label"] != want["label"]))
    yield Check("label", "ids", float((other & valid).sum()))
    boxes = got["boxes"] - want["boxes"]
    boxes[..., YAW] = (boxes[..., YAW] + np.pi) % (2 * np.pi) - np.pi  # a car that looks back may read +pi or -pi
    yield Check("boxes", "boxes_m", _largest(boxes, active))
    # In lower precision one query in a thousand settles on something else; that matters where it is reported.
    judged = active if limit.ids else valid
    yield Check("score", "score", _largest(got["score"] - want["score"], judged))
    yield Check("cls_logits", "logits", _largest(got["cls_logits"] - want["cls_logits"], judged))


def _map(got: Outputs, want: Outputs, contract: Contract, limit: Tolerance) -> Iterator[Check]:
    yield Check("map_drivable", "map_cells", _flipped(got["map_drivable"], want["map_drivable"]))
    yield Check("map_settled", "ids", float((got["map_settled"] != want["map_settled"]).sum()))
    flipped = _flipped(got["map_lanes"], want["map_lanes"])
    if flipped > limit.map_cells:
        # One cell on the edge can decide whether a whole element is painted. Then the lanes must follow from the elements that
        # came with them, and those are judged below.
        flipped = min(flipped, _flipped(got["map_lanes"], merged_anew(got, contract.map_merge)))
    yield Check("map_lanes", "map_cells", flipped)
    for tensor, row, value in compare_elements(got, want, contract.map_merge, limit):
        yield Check(tensor, row, value)


def _state(got: Outputs, want: Outputs) -> Iterator[Check]:
    """The state after the last frame. An empty slot may hold anything but an id."""
    for name, value in want.items():
        fed, slots = got[f"next_{name}"], None
        if name.startswith("track_") and name not in ("track_id", "track_next_id"):
            slots = (want["track_id"] >= 0) & (got["next_track_id"] == want["track_id"])
            fed, value = fed[slots], value[slots]
        if name == "track_ref_pts":
            # Inverse sigmoids of places: on the edge of the range one rounding of a place is 0.006 of them, so compare places.
            fed, value = (1.0 / (1.0 + np.exp(-points.astype(np.float64))) for points in (fed, value))
        if value.dtype.kind != "f":
            yield Check(f"next_{name}", "ids", float((fed != value).sum()))
        elif value.size:
            range_ = max(float(np.abs(value).max()), 1e-12)
            yield Check(f"next_{name}", "bev_rel" if name == "bev" else "state_rel", float(np.abs(fed - value).max()) / range_)


def _largest(difference: np.ndarray, rows: np.ndarray) -> float:
    return float(np.abs(difference[rows]).max()) if rows.any() else 0.0


def _flipped(got: np.ndarray, want: np.ndarray) -> float:
    return float(((got > 0.5) != (want > 0.5)).mean())
