"""Small symmetric positive definite systems on the GPU, one program each: elimination without pivoting, in registers.

A library call takes several kernels and reserves a workspace, which a CUDA graph may not; and a smoother makes sixty of them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _eliminate(matrix_ptr, right_ptr, out_ptr, size, SIZE: tl.constexpr):
    problem = tl.program_id(0).to(tl.int64)
    index = tl.arange(0, SIZE)
    exists = index < size
    row, column = index[:, None], index[None, :]
    here = exists[:, None] & exists[None, :]
    # What stands beyond the matrix is a unit matrix, and never touches it.
    unit = tl.where(row == column, 1.0, 0.0).to(tl.float64)
    matrix = tl.load(matrix_ptr + problem * size * size + row * size + column, mask=here, other=0.0).to(tl.float64)
    matrix = tl.where(here, matrix, unit)
    right = tl.load(right_ptr + problem * size + index, mask=exists, other=0.0).to(tl.float64)

    for k in range(0, size):
        pivot_row = tl.sum(tl.where(row == k, matrix, 0.0), axis=0)
        pivot_column = tl.sum(tl.where(column == k, matrix, 0.0), axis=1)
        pivot = tl.sum(tl.where(index == k, pivot_row, 0.0), axis=0)
        factor = tl.where(index > k, pivot_column / pivot, 0.0)
        right -= factor * tl.sum(tl.where(index == k, right, 0.0), axis=0)
        matrix -= factor[:, None] * pivot_row[None, :]

    x = tl.zeros([SIZE], tl.float64)
    for back in range(0, size):
        k = size - 1 - back
        pivot_row = tl.sum(tl.where(row == k, matrix, 0.0), axis=0)
        pivot = tl.sum(tl.where(index == k, pivot_row, 0.0), axis=0)
        known = tl.sum(tl.where(index > k, pivot_row * x, 0.0), axis=0)
        at_k = tl.sum(tl.where(index == k, right, 0.0), axis=0)
        x = tl.where(index == k, (at_k - known) / pivot, x)
    tl.store(out_ptr + problem * size + index, x, mask=exists)


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """matrix [N, U, U], right [N, U], both float64 -> [N, U]. Nothing leaves the device."""
    out = torch.empty_like(right, memory_format=torch.contiguous_format)
    if out.numel():
        size = right.shape[1]
        _eliminate[(len(right),)](
            matrix.contiguous(), right.contiguous(), out, size, SIZE=triton.next_power_of_2(size), num_warps=2
        )
    return out
