"""Assignment: least total cost for every problem of a batch, on CPU and in the GPU kernel (interpreted here)."""

import itertools

import pytest
import torch

from helpers.gpu_kernels import run_python
from uniad.ops.assignment import linear_assignment


def brute_force(cost, valid):
    rows = [g for g in range(len(valid)) if valid[g]]
    ways = itertools.permutations(range(cost.shape[1]), len(rows))
    best = min(ways, key=lambda way: sum(cost[g, r] for g, r in zip(rows, way)))
    return torch.tensor([best[rows.index(g)] if g in rows else -1 for g in range(len(valid))])


def test_total_cost_is_least():
    generator = torch.Generator().manual_seed(1)
    cost = torch.randn(6, 3, 6, generator=generator)
    valid = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 1, 1]], dtype=torch.bool)
    column = linear_assignment(cost, valid)
    assert torch.equal(column, torch.stack([brute_force(c, v) for c, v in zip(cost, valid)]))
    assert column.dtype == torch.int64


def test_rows_that_take_no_part_get_minus_one_and_no_column_is_given_twice():
    valid = torch.tensor([[True, False, True, True]])
    column = linear_assignment(torch.zeros(1, 4, 5), valid)[0]
    assert column[1] == -1
    assert len({int(c) for c in column[[0, 2, 3]]}) == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf"), 3e38])
def test_a_cost_that_is_not_finite_is_avoided_and_never_stops_it(bad):
    cost = torch.tensor([[[bad, 2.0, 1.0], [bad, bad, 0.5]]])
    assert linear_assignment(cost, torch.ones(1, 2, dtype=torch.bool)).tolist() == [[1, 2]]
    everything = torch.full((2, 3, 4), bad)
    assert (linear_assignment(everything, torch.ones(2, 3, dtype=torch.bool)).sort().values.diff() > 0).all()


def test_no_rows_and_no_problems_are_fine():
    assert linear_assignment(torch.zeros(2, 0, 5), torch.zeros(2, 0, dtype=torch.bool)).shape == (2, 0)
    assert linear_assignment(torch.zeros(0, 3, 5), torch.zeros(0, 3, dtype=torch.bool)).shape == (0, 3)


def test_with_fewer_columns_than_rows_the_cheapest_rows_are_served():
    cost = torch.tensor([[[3.0, 9.0], [1.0, 9.0], [2.0, 4.0], [9.0, 9.0]]])
    assert linear_assignment(cost, torch.ones(1, 4, dtype=torch.bool)).tolist() == [[-1, 0, 1, -1]]


def test_a_valid_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="expected"):
        linear_assignment(torch.zeros(1, 3, 4), torch.ones(1, 4, dtype=torch.bool))


def test_it_is_one_operator_with_a_shape_rule():
    torch.library.opcheck(torch.ops.uniad.linear_assignment, (torch.rand(2, 3, 7), torch.ones(2, 3, dtype=torch.bool)))


KERNEL = """
import torch
from scipy.optimize import linear_sum_assignment
from uniad.ops.triton_assignment import solve
generator = torch.Generator().manual_seed(0)
free_choice = [(2, 9, 17, 3), (1, 16, 16, 2)]
for n, g, r, levels in [(3, 4, 4, 0), (2, 12, 30, 0), (1, 24, 65, 0), (1, 48, 1157, 0), (2, 1, 1, 0), *free_choice]:
    cost = torch.rand(n, g, r, generator=generator)
    if levels:  # many equal costs: the choice is free, its total is not
        cost = (cost * levels).round()
    else:  # columns that are closed, as carried queries are
        cost[:, :, g:] += 1e6 * (torch.rand(n, 1, r - g, generator=generator) > 0.5)
    valid = torch.rand(n, g, generator=generator) > 0.2
    column = solve(cost, valid)
    assert ((column >= 0) == valid).all()
    for i in range(n):
        rows = valid[i].nonzero()[:, 0]
        expected_row, expected_column = linear_sum_assignment(cost[i][rows].numpy())
        got = column[i][rows]
        assert len(set(got.tolist())) == len(rows)
        if levels:
            best = cost[i][rows].numpy()[expected_row, expected_column].sum()
            assert cost[i][rows, got].sum() == best, (cost[i], got)
        else:
            assert got.tolist() == expected_column.tolist()
print("kernel agrees")
"""

COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from uniad.ops.triton_assignment import _shortest_augmenting_paths as kernel
signature = dict(cost_ptr="*fp32", valid_ptr="*i32", column_ptr="*i64", num_rows="i32", num_columns="i32",
                 ROWS="constexpr", COLUMNS="constexpr")
source = ASTSource(fn=kernel, signature=signature, constexprs=dict(ROWS=256, COLUMNS=2048))
compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=dict(num_warps=8))
assert compiled.asm["cubin"]
print("kernel compiles")
"""


def test_the_gpu_kernel_finds_the_assignment_of_scipy():
    assert "kernel agrees" in run_python(KERNEL, TRITON_INTERPRET="1")


def test_the_gpu_kernel_compiles_for_a_gpu_that_is_not_here():
    assert "kernel compiles" in run_python(COMPILE)


@pytest.mark.device
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine")
def test_on_a_gpu_it_is_the_assignment_of_scipy_and_can_be_captured():
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(12, 192, 1157, generator=generator)
    cost[:, :, 901:] += 1e6 * (torch.rand(12, 1, 256, generator=generator) > 0.2)
    valid = torch.rand(12, 192, generator=generator) > 0.6
    expected = linear_assignment(cost, valid)
    on_gpu = cost.cuda(), valid.cuda()
    assert torch.equal(linear_assignment(*on_gpu).cpu(), expected)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = linear_assignment(*on_gpu)
    captured.fill_(-7)
    graph.replay()
    assert torch.equal(captured.cpu(), expected)
