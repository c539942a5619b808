"""Compare what stage 2 says of the future: agents and their trajectories, occupancy, the plan.

Agents lie in slots by their score, and two that nearly tie may change places; so they are matched by the detection row that each
came from. A cell is claimed by a slot, and is compared by the row that the slot stands for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Mapping  # noqa: UP035  Python 3.8 cannot index the newer one

import numpy as np

Outputs = Mapping[str, np.ndarray]
FREE, NO_ROW = -1, -2


def compare_future(got: Outputs, want: Outputs, comparable: np.ndarray | None = None) -> Iterator[tuple[str, str, float]]:
    """(tensor, row of the tolerance, value) of every check. Tensors are those of the contract, with a leading axis of 1.

    comparable: [R] detection rows that hold the same object in both; all where None.
    """
    rows = want["score"].shape[-1]
    g, w = (_slots_by_row(x, rows) for x in (got, want))
    yield "agent_valid", "ids", float(abs(int((got["agent_valid"] != 0).sum()) - int((want["agent_valid"] != 0).sum())))
    yield "agent_row", "ids", float(((g >= 0) != (w >= 0)).sum())
    both = np.flatnonzero((g >= 0) & (w >= 0) & (True if comparable is None else comparable))
    g, w = g[both], w[both]  # the same agents in the order of their rows
    yield "agent_id", "ids", float((got["agent_id"][0][g] != want["agent_id"][0][w]).sum())
    # The ego car has its place; before it, the best come first.
    ranked = got["score"][0][got["agent_row"][0].clip(0, rows - 1)][:-1][got["agent_valid"][0][:-1] != 0]
    yield "agent_row", "score", float(np.maximum(np.diff(ranked), 0.0).max(initial=0.0))
    yield "agent_row", "ids", float(got["agent_row"][0, -1] != want["agent_row"][0, -1])
    yield "agents_dropped", "ids", float(abs(int(got["agents_dropped"][0]) - int(want["agents_dropped"][0])))

    traj_g, traj_w = got["motion_traj"][0][g], want["motion_traj"][0][w]
    yield "motion_traj", "traj_m", _largest(np.linalg.norm(traj_g[..., :2] - traj_w[..., :2], axis=-1))
    spread = np.abs(traj_g[..., 2:] - traj_w[..., 2:]) / np.maximum(1.0, np.abs(traj_w[..., 2:]))
    yield "motion_traj", "traj_spread", _largest(spread)
    yield "motion_score", "logits", _largest(np.abs(got["motion_score"][0][g] - want["motion_score"][0][w]))

    yield "occ_seg", "occ_cells", float(((got["occ_seg"] != 0) != (want["occ_seg"] != 0)).mean())
    yield "occ_ids", "occ_cells", float((_rows_of_cells(got) != _rows_of_cells(want)).mean())
    yield "plan_traj", "plan_m", float(np.linalg.norm(got["plan_traj"][0] - want["plan_traj"][0], axis=-1).mean())


def _slots_by_row(outputs: Outputs, rows: int) -> np.ndarray:
    """The agent slot that each detection row stands in, -1 where in none. The last of two slots of one row wins."""
    slots = np.full(rows, -1)
    used = np.flatnonzero(outputs["agent_valid"][0])
    row = outputs["agent_row"][0][used]
    inside = (row >= 0) & (row < rows)
    slots[row[inside]] = used[inside]
    return slots


def _rows_of_cells(outputs: Outputs) -> np.ndarray:
    """The detection row behind every claimed cell of occ_ids; FREE, or NO_ROW where a slot is claimed that holds no agent."""
    row = np.where(outputs["agent_valid"][0] != 0, outputs["agent_row"][0], NO_ROW)
    table = np.concatenate([[FREE], row, [NO_ROW]])
    ids = outputs["occ_ids"]
    return table[np.where((ids >= 0) & (ids <= len(row)), ids, len(row) + 1)]


def _largest(values: np.ndarray) -> float:
    return float(values.max()) if values.size else 0.0
