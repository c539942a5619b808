"""Which reported object of one replay is which of the other.

In fp32 a row is an object. In lower precision a score crosses a threshold now and then, a track is born or let go one frame off,
and all behind it change their rows and numbers though nothing moved. So objects are matched by class and place first.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple  # noqa: UP035  Python 3.8 cannot index the newer one

import numpy as np

from uniad.verify.assignment import assign

Outputs = Mapping[str, np.ndarray]
BY_ROW = ("boxes", "cls_logits", "score", "label", "obj_id", "valid", "active")
NEAR_M = 2.0  # the middle threshold by which nuScenes calls a box the same object


class Aligned(NamedTuple):
    outputs: dict  # got, in the rows of want
    comparable: np.ndarray  # [R] rows that hold the same object, or the same query that is none, in both
    unmatched: int  # reported objects, of either, without counterpart


def align(got: Outputs, want: Outputs) -> Aligned:
    """Reorder the rows of ``got`` so that objects stand where they do in ``want``. Tensors are those of the contract."""
    reported = [np.flatnonzero(x["active"][0]) for x in (want, got)]
    ours, theirs = pairs(got, want, *reported)
    rows = len(want["active"][0])
    order = np.arange(rows)
    free_rows, free_from = np.setdiff1d(order, ours), np.setdiff1d(order, theirs)
    order[ours] = theirs
    stays = np.intersect1d(free_rows, free_from)
    order[np.setdiff1d(free_rows, stays)] = np.setdiff1d(free_from, stays)
    aligned = {**got, **{name: got[name][:, order] for name in BY_ROW}}
    if "agent_row" in got:
        to = np.empty(rows, np.int64)
        to[order] = np.arange(rows)
        row = got["agent_row"]
        inside = (row >= 0) & (row < rows)
        aligned["agent_row"] = np.where(inside, to[row.clip(0, rows - 1)], row).astype(row.dtype)
    paired = np.zeros(rows, bool)
    paired[ours] = True
    is_track = (want["obj_id"][0] >= 0) | (aligned["obj_id"][0] >= 0)
    unmoved = (order == np.arange(rows)) & ~is_track & (want["valid"][0] != 0) & (aligned["valid"][0] != 0)
    return Aligned(aligned, paired | unmoved, len(reported[0]) + len(reported[1]) - 2 * len(ours))


def pairs(got: Outputs, want: Outputs, ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of ``want`` and of ``got`` that hold the same object: of one class, near, and nearest in sum."""
    if not len(ours) or not len(theirs):
        return ours[:0], theirs[:0]
    apart = np.linalg.norm(want["boxes"][0][ours][:, None, :2] - got["boxes"][0][theirs][None, :, :2], axis=-1)
    unlike = (want["label"][0][ours][:, None] != got["label"][0][theirs][None]) | (apart > NEAR_M)
    # A pair that cannot match costs more than any two that can, and each object has a column of its own to stay unmatched in.
    cost = np.where(unlike, 4 * NEAR_M, apart)
    column = assign(np.concatenate([cost, np.full((len(ours), len(ours)), 2 * NEAR_M)], axis=1))
    row = np.flatnonzero(column < len(theirs))
    return ours[row], theirs[column[row]]
