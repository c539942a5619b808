"""Linear assignment on the GPU: shortest augmenting paths (Jonker and Volgenant 1987, Crouse 2016).

One program solves one problem and adds the valid rows one after the other. For each it grows a shortest-path tree over
reduced costs until it meets a free column, then flips the path. What a problem needs per column (dual, distance,
parent, owner) is one vector in registers; a single entry is read or written by comparing against the vector of indices,
which is deterministic and needs no shared memory. Duals are float64, as in scipy, so that near ties are decided alike.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _shortest_augmenting_paths(
    cost_ptr, valid_ptr, column_ptr, num_rows, num_columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    problem = tl.program_id(0).to(tl.int64)
    cost_ptr += problem * num_rows * num_columns
    columns = tl.arange(0, COLUMNS)
    rows = tl.arange(0, ROWS)
    exists = columns < num_columns
    far = float("inf")

    row_dual = tl.zeros([ROWS], tl.float64)
    column_of_row = tl.full([ROWS], -1, tl.int32)
    column_dual = tl.zeros([COLUMNS], tl.float64)
    row_of_column = tl.full([COLUMNS], -1, tl.int32)

    for new_row in range(0, num_rows):
        if tl.load(valid_ptr + problem * num_rows + new_row) != 0:
            distance = tl.full([COLUMNS], far, tl.float64)
            parent = tl.full([COLUMNS], -1, tl.int32)
            settled = tl.where(exists, 0, 1)
            in_tree = tl.zeros([ROWS], tl.int32)
            entered_at = tl.zeros([ROWS], tl.float64)
            row = tl.full([], 0, tl.int32) + new_row
            reached = tl.full([], 0.0, tl.float64)
            sink = tl.full([], -1, tl.int32)
            rounds = tl.full([], 0, tl.int32)
            # Each round settles one column, and at most new_row columns are taken, so this ends.
            while (sink < 0) & (rounds <= new_row):
                rounds += 1
                in_tree = tl.where(rows == row, 1, in_tree)
                entered_at = tl.where(rows == row, reached, entered_at)
                dual = tl.sum(tl.where(rows == row, row_dual, 0.0))
                edge = tl.load(cost_ptr + row * num_columns + columns, mask=exists, other=0.0).to(tl.float64)
                through = reached + edge - dual - column_dual
                shorter = (settled == 0) & (through < distance)
                distance = tl.where(shorter, through, distance)
                parent = tl.where(shorter, row, parent)
                open_distance = tl.where(settled == 0, distance, far)
                reached = tl.min(open_distance, axis=0)
                nearest = (settled == 0) & (distance == reached)
                free = tl.min(tl.where(nearest & (row_of_column < 0), columns, COLUMNS), axis=0)
                taken = tl.min(tl.where(nearest, columns, COLUMNS), axis=0)
                column = tl.where(free < COLUMNS, free, taken)
                settled = tl.where(columns == column, 1, settled)
                row = tl.sum(tl.where(columns == column, row_of_column, 0))
                sink = tl.where(free < COLUMNS, column, -1)

            # Duals: every row and column of the tree by how much the path grew after it was entered.
            row_dual += tl.where(in_tree == 1, reached - entered_at, 0.0)
            column_dual -= tl.where((settled == 1) & exists, reached - distance, 0.0)

            # Flip the path from the free column back to the new row.
            column = sink
            row = tl.full([], -1, tl.int32)
            while (row != new_row) & (column >= 0):
                row = tl.sum(tl.where(columns == column, parent, 0))
                row_of_column = tl.where(columns == column, row, row_of_column)
                previous = tl.sum(tl.where(rows == row, column_of_row, 0))
                column_of_row = tl.where(rows == row, column, column_of_row)
                column = previous

    tl.store(column_ptr + problem * num_rows + rows, column_of_row.to(tl.int64), mask=rows < num_rows)


def solve(cost: Tensor, valid: Tensor) -> Tensor:
    """cost [N, G, R] float32, all finite, G <= R; valid [N, G] bool -> [N, G] int64, the column of each row or -1.

    Nothing leaves the device.
    """
    num_problems, num_rows, num_columns = cost.shape
    column_NG = torch.empty(num_problems, num_rows, dtype=torch.int64, device=cost.device)
    if column_NG.numel() == 0:
        return column_NG
    block = triton.next_power_of_2(num_columns)
    _shortest_augmenting_paths[(num_problems,)](
        cost.contiguous(),
        valid.to(torch.int32).contiguous(),
        column_NG,
        num_rows,
        num_columns,
        ROWS=triton.next_power_of_2(num_rows),
        COLUMNS=block,
        num_warps=max(1, min(8, block // 256)),
    )
    return column_NG
