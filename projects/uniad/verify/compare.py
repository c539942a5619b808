"""Compare a replay with what was recorded, in the terms a driver cares about: metres, track ids, map cells.

Every output and every state tensor is judged; a fault names it. Objects are compared row by row: fp32 keeps rows, and a row
that moved is a track that changed its id. Map elements and agents are sets, see ``map_compare`` and ``future_compare``.
The plan is judged as the graph gives it: the collision optimiser comes after the graph, on the host.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Dict, NamedTuple, Protocol  # noqa: UP035

import numpy as np

from uniad.postprocess.map_merge import merged_anew
from uniad.verify.future import compare_future
from uniad.verify.map import compare_elements
from uniad.verify.objects import Aligned, align
from uniad.verify.tolerances import AHEAD, INSIDE, TOLERANCES, Tolerance

if TYPE_CHECKING:
    from uniad.artifacts.sequence import Sequence
    from uniad.backends.base import Runner
    from uniad.postprocess.map_merge import MergeRule

# This file, and what it imports, travels to Jetsons: Python 3.8 and numpy are all that JetPack 5 has.
Outputs = Dict[str, np.ndarray]  # noqa: UP006


YAW = 6  # of a box's nine numbers


class Compared(Protocol):
    """What comparing needs of a contract; a bundle on a Jetson has as much."""

    @property
    def map_merge(self) -> MergeRule: ...
    @property
    def has_stage2(self) -> bool: ...


class Recording(Protocol):
    """What comparing needs of a recorded sequence."""

    @property
    def expected(self) -> Iterable[Outputs]: ...
    @property
    def end_state(self) -> Outputs: ...
    def __len__(self) -> int: ...


class Check(NamedTuple):
    """How far one tensor is off."""

    tensor: str  # its name in the graph
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
    outputs: Iterable[Outputs], sequence: Recording, contract: Compared, backend: str, precision: str = "fp32",
    stop_on_failure: bool = False, limit: Tolerance | None = None,
) -> Report:  # fmt: skip
    """Judge a replay by ``limit``, or by the row of ``TOLERANCES`` that ``precision`` names.

    stop_on_failure: leave off after the first frame with a fault; what is judged over all frames is then only told of those seen.
    """
    limit = limit or TOLERANCES[precision]
    judged = [row for row in vars(limit) if row not in INSIDE and (contract.has_stage2 or row not in AHEAD)]
    report = Report(backend, precision, 0, 0, dict.fromkeys(judged, 0.0))

    def judge(where: str, frame: int, checks: Iterable[Check]) -> None:
        for check in checks:
            report.worst[check.row] = max(report.worst[check.row], check.value)
            allowed = getattr(limit, check.row)
            if not check.value <= allowed:  # a NaN is over any limit
                report.faults.append(f"{where}: {check.tensor} differs by {check.value:.3g} ({check.row}), allowed {allowed:.3g}")
                report.departed += [(frame, tensor) for tensor in check.tensor.split(" and ")]

    plans: list[float] = []
    unmatched = reported = 0
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
            unmatched += aligned.unmatched
            judge(f"frame {i}", i, _objects(got, want, aligned.comparable, limit))
            judge(f"frame {i}", i, _map(got, want, contract, limit))
            if contract.has_stage2:
                future = [Check(*found) for found in compare_future(got, want, aligned.comparable)]
                judge(f"frame {i}", i, future)
                plans += [check.value for check in future if check.row == "plan_m"]
        if stop_on_failure and report.faults:
            if plans:
                report.worst["plan_mean_m"] = float(np.mean(plans))
            return report
    end = report.frames - 1
    if last is not None:
        judge("last frame", end, _state(last, sequence.end_state))
    judge("all frames", end, [Check("active", "objects", unmatched / max(reported, 1))])
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


def _map(got: Outputs, want: Outputs, contract: Compared, limit: Tolerance) -> Iterator[Check]:
    if "map_drivable" in want:  # not every data set has areas
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
