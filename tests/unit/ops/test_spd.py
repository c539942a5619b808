"""Small positive definite systems: solved to rounding, on CPU and in the GPU kernel (interpreted here)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.gpu_kernels import run_python
from uniad.ops.spd import solve_spd

AGREE = """
import torch
from uniad.ops.spd import solve_spd
from uniad.ops.triton_spd import solve

g = torch.Generator().manual_seed(0)
for count, size in ((1, 1), (2, 8), (1, 24), (3, 5)):
    half = torch.randn(count, size, size, generator=g, dtype=torch.float64)
    scale = 10.0 ** torch.linspace(-4, 4, size, dtype=torch.float64)
    matrix = scale[:, None] * (half @ half.mT + torch.eye(size, dtype=torch.float64)) * scale
    right = torch.randn(count, size, generator=g, dtype=torch.float64)
    torch.testing.assert_close(solve(matrix, right), solve_spd(matrix, right), rtol=1e-9, atol=1e-12)
torch.testing.assert_close(solve(matrix.mT, right), solve_spd(matrix, right), rtol=1e-9, atol=1e-12)
print("kernel agrees")
"""

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from uniad.ops.triton_spd import _eliminate as kernel
signature = dict(matrix_ptr="*fp64", right_ptr="*fp64", out_ptr="*fp64", size="i32", SIZE="constexpr")
source = ASTSource(fn=kernel, signature=signature, constexprs={"SIZE": 32})
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 2})
assert compiled.asm["cubin"]
print("kernel compiles")
"""


def problems(count: int, size: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    half = torch.randn(count, size, size, generator=g, dtype=torch.float64)
    return half @ half.mT + torch.eye(size, dtype=torch.float64), torch.randn(count, size, generator=g, dtype=torch.float64)


def test_the_solution_solves_it() -> None:
    matrix, right = problems(5, 24)
    torch.testing.assert_close((matrix @ solve_spd(matrix, right)[..., None])[..., 0], right)


def test_the_gpu_kernel_finds_the_same() -> None:
    assert "kernel agrees" in run_python(AGREE, TRITON_INTERPRET="1")


def test_the_gpu_kernel_compiles_for_a_gpu_that_is_not_here() -> None:
    assert "kernel compiles" in run_python(COMPILE)


@pytest.mark.device
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine")
def test_on_a_gpu_it_is_the_same_and_can_be_recorded() -> None:
    matrix, right = problems(128, 24)
    want, matrix, right = solve_spd(matrix, right), matrix.cuda(), right.cuda()
    torch.testing.assert_close(solve_spd(matrix, right).cpu(), want)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = solve_spd(matrix, right)
    graph.replay()
    torch.testing.assert_close(found.cpu(), want)
