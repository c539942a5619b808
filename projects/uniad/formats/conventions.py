"""Conventions of boxes and motion anchors in which UniAD's generations differ, how data shows which it has, and the way over.

Boxes: v1 writes (w, l, h, -yaw - pi/2), as mmdet3d before 1.0 has them; v2.0 writes (l, w, h, yaw). Bench2DriveZoo follows v1.
Anchors: offsets from the agent, which faces +y in v1's files and +x in v2.0's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniad.errors import UserError
from uniad.formats.published import TITLES, UNIAD_V1, UNIAD_V2

F64 = NDArray[np.float64]

CONVENTIONS = (UNIAD_V1, UNIAD_V2)
BOXES = {UNIAD_V1: "w, l, h, -yaw - pi/2", UNIAD_V2: "l, w, h, yaw"}
FACING = {UNIAD_V1: "+y", UNIAD_V2: "+x"}
# Longer than wide, whichever is written first
_LONG = ("car", "truck", "bus", "trailer", "construction_vehicle", "motorcycle", "bicycle", "van")
_MOVING_M_S = 2.0  # from here on a velocity tells where a vehicle heads
_AGREE = 0.9  # share of the objects that must say the same
_FEW = 5  # objects that are too few to say anything
YAW_REST = "gt_yaw_rest"  # of a converted frame: what rounding took from its yaws, so that the way back is exact


def box_convention(boxes: F64, names: NDArray[np.str_], velocity: F64, path: str) -> str | None:
    """The convention of boxes [n, >= 7] as their sizes and yaws show it; None where there is too little to tell by.

    names [n]; velocity [n, 2] m/s in lidar axes, NaN where unknown. UserError where sizes say one thing and yaws another, or
    where a file holds both.
    """
    long = np.isin(names, _LONG)
    by_size = _by_size(boxes[long])
    known = long & (np.linalg.norm(np.nan_to_num(velocity), axis=1) > _MOVING_M_S)
    by_yaw = _by_yaw(boxes[known, 6], velocity[known])
    if "mixed" in (by_size, by_yaw):
        what = "sizes" if by_size == "mixed" else "yaws"
        raise UserError(
            f"{path}: its {what} fit neither {_both()}: files of both were joined, or another program wrote it; "
            "make it again with tools/create_data.py"
        )
    if by_size and by_yaw and by_size != by_yaw:
        raise UserError(
            f"{path}: its sizes are those of {TITLES[by_size]}, its yaws those of {TITLES[by_yaw]}: no generation writes "
            "boxes so; make it again with tools/create_data.py"
        )
    return by_size or by_yaw


def _both() -> str:
    return " nor ".join(f"{TITLES[c]} ({BOXES[c]})" for c in CONVENTIONS)


def _by_size(boxes: F64) -> str | None:
    first, second = boxes[:, 3], boxes[:, 4]
    return _vote(int((first < second).sum()), int((first > second).sum()))


def _by_yaw(yaw: F64, velocity: F64) -> str | None:
    """Which of two readings puts vehicles nose first, or tail first, along their velocities."""
    course = np.arctan2(velocity[:, 1], velocity[:, 0])
    # The axis counts: a car may back up. What lies near a diagonal fits neither or both, and says nothing.
    one, other = np.abs(np.cos(course + np.pi / 2 + yaw)), np.abs(np.cos(course - yaw))
    plain = np.abs(one - other) > 0.5
    return _vote(int((plain & (one > other)).sum()), int((plain & (other > one)).sum()))


def _vote(for_v1: int, for_v2: int) -> str | None:
    total = for_v1 + for_v2
    if total < _FEW:
        return None
    if for_v1 >= _AGREE * total:
        return UNIAD_V1
    return UNIAD_V2 if for_v2 >= _AGREE * total else "mixed"


def anchor_convention(groups: Sequence[NDArray[np.floating[Any]]]) -> str | None:
    """The convention of anchors, one [K, F, 2] array a group: agents mostly go ahead. None where they do not."""
    ends = np.concatenate([np.asarray(group)[:, -1] for group in groups]).astype(np.float64)
    reach = float(np.linalg.norm(ends, axis=1).sum())
    if reach == 0.0:
        return None
    ahead_x, ahead_y = (ends.sum(0) / reach).tolist()  # 1: all straight along it
    strong, weak = max(ahead_x, ahead_y), min(abs(ahead_x), abs(ahead_y))
    if strong < 0.6 or weak > 0.3:
        return None
    return UNIAD_V1 if ahead_y > ahead_x else UNIAD_V2


def check_convention(found: str | None, wanted: str, path: str, what: str, remedy: str) -> None:
    """UserError where a file is of the other generation than the weights. what: "boxes" or "motion anchors"."""
    if found is None or found == wanted:
        return
    says = BOXES if what == "boxes" else {c: f"agents face {FACING[c]}" for c in CONVENTIONS}
    raise UserError(
        f"{path} holds {what} of {TITLES[found]} ({says[found]}), the model computes as {TITLES[wanted]} ({says[wanted]}): "
        f"{remedy}"
    )


# --- the way over -----------------------------------------------------------------------------------------------------


def convert_boxes(boxes: F64, rest: F64 | None = None) -> tuple[F64, F64]:
    """Boxes [n, >= 7] of one convention in the other, both ways alike, and what rounding took from each yaw [n].

    rest: that of an earlier conversion. With it the way back gives the very numbers that the way there began with.
    """
    out = np.array(boxes, dtype=np.float64)
    out[:, 3], out[:, 4] = boxes[:, 4], boxes[:, 3]
    turned, lost = _two_sum(-boxes[:, 6], np.full(len(boxes), -np.pi / 2))
    if rest is not None:
        turned, lost = _two_sum(turned, lost - rest)
    out[:, 6] = turned
    return out, lost


def _two_sum(a: F64, b: F64) -> tuple[F64, F64]:
    """The sum, and exactly what rounding took from it (Knuth 1969)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def convert_anchors(group: NDArray[Any], to: str) -> NDArray[Any]:
    """Anchors [K, F, 2] with agents that face the other way: +y becomes +x for v2.0, and back. Exact."""
    x, y = group[..., 0], group[..., 1]
    out = np.empty_like(group)
    out[..., 0], out[..., 1] = (y, -x) if to == UNIAD_V2 else (-y, x)
    return out


# Numbers of box10 that a branch says: log w and log l change places, and sine and cosine of the yaw do, with their signs
_BOX10 = ((0, 1), (1, 1), (3, 1), (2, 1), (4, 1), (5, 1), (7, -1), (6, -1), (8, 1), (9, 1))


def convert_box_code(values: NDArray[Any]) -> NDArray[Any]:
    """Weights [10, D] or bias [10] of a last box layer for the other convention's code. Its own inverse, and exact."""
    out = values[[row for row, _ in _BOX10]]
    for row, (_, sign) in enumerate(_BOX10):
        if sign < 0:
            out[row] = -out[row]
    return out


@dataclass
class Report:
    """What a conversion did. ``str()`` are the lines for a person; ``to_json`` the same for programs."""

    source: str
    target: str
    kind: str  # infos, motion anchors or checkpoint
    old: str
    new: str
    changed: dict[str, int] = field(default_factory=dict)  # what, and of how many
    notes: list[str] = field(default_factory=list)
    sha256: tuple[str, str] = ("", "")  # before, after

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.source, "target": self.target, "kind": self.kind, "from": self.old, "to": self.new,
            "changed": self.changed, "notes": self.notes, "sha256_before": self.sha256[0], "sha256_after": self.sha256[1],
        }  # fmt: skip

    def __str__(self) -> str:
        lines = [f"{self.kind}: {TITLES[self.old]} -> {TITLES[self.new]}"]
        lines += [f"  {what}: {count}" for what, count in self.changed.items()]
        lines += [f"  {note}" for note in self.notes]
        lines += [f"  sha256 before {self.sha256[0]}  {self.source}", f"  sha256 after  {self.sha256[1]}  {self.target}"]
        return "\n".join(lines)


def convention_now(found: str | None, said: str | None, to: str, path: str, what: str) -> str:
    """The convention that a file has: what it shows, else what was said; a UserError where neither is there, or it is ``to``."""
    if found and said and found != said:
        raise UserError(f"{path}: --from {said}, but its {what} are those of {TITLES[found]}: leave --from out")
    old = found or said
    if old is None:
        raise UserError(f"{path}: its {what} do not show whose they are: say it with --from {' or '.join(CONVENTIONS)}")
    if old == to:
        raise UserError(f"{path}: its {what} are those of {TITLES[to]} already: nothing to convert")
    return old
