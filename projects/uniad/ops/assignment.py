"""Linear assignment for a batch of problems: each ground-truth row gets the column that makes the total cost least.

Set losses match predictions to objects this way (Kuhn 1955; Carion et al. 2020). On a CPU every problem goes to scipy.
On a GPU a Triton kernel solves all problems at once and no value visits the host, so a training step can be captured.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from uniad.ops.kernels import solver

# Stands for "never": NaN, infinities and anything beyond it. Far above any real cost (tens), far below the point where
# double precision would lose the digits of the real ones.
FORBIDDEN = 1.0e6


def linear_assignment(cost: Tensor, valid: Tensor) -> Tensor:
    """The column of each row in the assignment of least total cost, for every problem of a batch.

    cost: [N, G, R] float; entries that are not finite, or beyond 1e6, count as 1e6.
    valid: [N, G] bool, rows that take part. Returns [N, G] int64, -1 where a row takes no part, or where there are
    fewer columns than rows and the row was left over. No gradient flows through it.
    """
    if cost.dim() != 3 or valid.shape != cost.shape[:2]:
        raise ValueError(f"cost is {tuple(cost.shape)} and valid {tuple(valid.shape)}; expected [N, G, R] and [N, G]")
    num_columns = cost.shape[2]
    missing = max(0, cost.shape[1] - num_columns)
    column_NG = _assign(F.pad(cost.detach(), (0, missing), value=FORBIDDEN), valid)
    return torch.where(column_NG < num_columns, column_NG, -1) if missing else column_NG


@torch.library.custom_op("uniad::linear_assignment", mutates_args=())
def _assign(cost: Tensor, valid: Tensor) -> Tensor:
    """One operator for torch.compile and CUDA graphs, whatever solves it."""
    cost = sanitised(cost)
    on_gpu = cost.device.type == "cuda"
    solve = solver("triton_assignment", "assignments run on the host, which stalls the GPU") if on_gpu else None
    return (solve or _solve_on_host)(cost, valid)


@_assign.register_fake
def _(cost: Tensor, valid: Tensor) -> Tensor:
    return cost.new_empty(cost.shape[:2], dtype=torch.int64)


def sanitised(cost: Tensor) -> Tensor:
    """Cost in float32 with every entry finite: what is not a number is as bad as forbidden, never attractive."""
    return cost.float().nan_to_num(nan=FORBIDDEN, posinf=FORBIDDEN, neginf=FORBIDDEN).clamp(-FORBIDDEN, FORBIDDEN)


def _solve_on_host(cost: Tensor, valid: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    cost_NGR, valid_NG = cost.cpu().numpy(), valid.cpu().numpy()
    column_NG = torch.full(valid.shape, -1, dtype=torch.int64)
    for n in range(len(cost_NGR)):
        rows = valid_NG[n].nonzero()[0]
        if len(rows):
            chosen_row, chosen_column = linear_sum_assignment(cost_NGR[n][rows])
            column_NG[n, torch.from_numpy(rows[chosen_row])] = torch.from_numpy(chosen_column)
    return column_NG.to(cost.device)
