"""Compare a replay with what was recorded, in the terms a driver cares about: metres, track ids, map cells."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from uniad.deploy.runner import Runner
from uniad.deploy.sequence import Sequence


@dataclass(frozen=True)
class Tolerance:
    """Largest difference to accept. One row a precision; reasons stand beside the table."""

    boxes_m: float  # centre, size and velocity of reported tracks: metres, metres per second, radians
    score: float
    map_cells: float  # fraction of map cells that may flip
    bev_rel: float  # last BEV features: largest difference over largest value


# fp32 backends differ by the order of additions: 20 layers of it measure 1e-5 on scores and 1e-4 m on boxes, amplified by
# feeding the state back. Lower precisions follow from the spacing of their numbers; issue-level limits are on planning.
TOLERANCES = {
    "fp32": Tolerance(boxes_m=1e-3, score=1e-3, map_cells=1e-3, bev_rel=1e-3),
    "fp16": Tolerance(boxes_m=0.1, score=0.02, map_cells=0.01, bev_rel=0.05),
    "int8": Tolerance(boxes_m=0.5, score=0.1, map_cells=0.05, bev_rel=0.2),
}


@dataclass
class Report:
    """Worst value of every check over a replay, and what broke."""

    backend: str
    precision: str
    frames: int
    tracks: int  # reported tracks, summed over frames; a replay without any proves little
    worst: dict[str, float] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

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


def replay(runner: Runner, sequence: Sequence) -> list[dict[str, np.ndarray]]:
    """Every frame's outputs with the state fed back, from the initial state."""
    with runner:
        return [runner.step(feed) for feed in sequence.feeds]


def compare(outputs: list[dict[str, np.ndarray]], sequence: Sequence, backend: str, precision: str = "fp32") -> Report:
    """Check a replay. Rows are compared by position: fp32 keeps them, and a row that moved is a track that changed its id."""
    limit = TOLERANCES[precision]
    report = Report(backend, precision, len(outputs), 0)
    worst = dict.fromkeys(("boxes_m", "score", "ids", "map_cells", "bev_rel"), 0.0)
    for i, (got, want) in enumerate(zip(outputs, sequence.expected)):
        for name, value in got.items():
            if not np.isfinite(value).all():
                report.faults.append(f"frame {i}: {name} has non-finite values")
        active = want["active"] != 0
        report.tracks += int(active.sum())
        flips = int((got["obj_id"] != want["obj_id"]).sum() + (got["active"] != want["active"]).sum())
        flips += int((got["label"] != want["label"])[active].sum())
        checks = {
            "ids": float(flips),
            "boxes_m": _largest(got["boxes"] - want["boxes"], active),
            "score": _largest(got["score"] - want["score"], want["valid"] != 0),
            "map_cells": max(_flipped(got[n], want[n]) for n in ("map_lanes", "map_drivable")),
        }
        for name, value in checks.items():
            worst[name] = max(worst[name], value)
            allowed = 0.0 if name == "ids" else getattr(limit, name)
            # Lower precision may move a score across a threshold; its limits are on the metrics of the tasks.
            if value > allowed and not (name == "ids" and precision != "fp32"):
                report.faults.append(f"frame {i}: {name} differs by {value:.3g}, allowed {allowed:.3g}")
    if outputs:
        want = sequence.end_state["bev"]
        worst["bev_rel"] = float(np.abs(outputs[-1]["next_bev"] - want).max() / max(np.abs(want).max(), 1e-12))
        if not worst["bev_rel"] <= limit.bev_rel:
            report.faults.append(
                f"last frame: next_bev differs by {worst['bev_rel']:.3g} of its range, allowed {limit.bev_rel:.3g}"
            )
    if len(outputs) != len(sequence):
        report.faults.append(f"{len(outputs)} frames came back, {len(sequence)} were recorded")
    report.worst = worst
    return report


def _largest(difference: np.ndarray, rows: np.ndarray) -> float:
    return float(np.abs(difference[rows]).max()) if rows.any() else 0.0


def _flipped(got: np.ndarray, want: np.ndarray) -> float:
    return float(((got > 0.5) != (want > 0.5)).mean())
