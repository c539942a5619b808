"""Batches of small symmetric positive definite systems, solved so that a CUDA graph can record it."""

from __future__ import annotations

import torch
from torch import Tensor

from uniad.ops.kernels import solver


@torch.library.custom_op("uniad::solve_spd", mutates_args=())
def solve_spd(matrix: Tensor, right: Tensor) -> Tensor:
    """x [N, U] with matrix @ x = right; matrix [N, U, U] symmetric positive definite, right [N, U], float64.

    Nothing is checked or read back: a matrix that is not positive definite gives numbers without meaning, perhaps not finite.
    No gradient flows through it.
    """
    on_gpu = matrix.device.type == "cuda"
    solve = solver("triton_spd", "linear systems go to a library, which no graph can record") if on_gpu else None
    if solve is not None:
        return solve(matrix, right)
    factor = torch.linalg.cholesky_ex(matrix, check_errors=False).L
    half = torch.linalg.solve_triangular(factor, right[..., None], upper=False)
    return torch.linalg.solve_triangular(factor.mT, half, upper=True)[..., 0].contiguous()


@solve_spd.register_fake
def _(matrix: Tensor, right: Tensor) -> Tensor:
    return torch.empty_like(right, memory_format=torch.contiguous_format)
