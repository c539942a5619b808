"""Deformable attention says what a loop over points says, in every decomposition and for any batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from uniad.models.layers import DeformableAttention
from uniad.ops.deformable_attention import deformable_attention, first_level_of_many, sampling_as, set_sampling

SHAPES = ((5, 7), (3, 4))
SAMPLINGS = ("gridsample", "gather")


def example(seed: int = 0, batch: int = 2, queries: int = 6, heads: int = 2, dim: int = 3, points: int = 3) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    rows = sum(h * w for h, w in SHAPES)
    value = torch.randn(batch, rows, heads, dim, generator=g)
    loc = torch.rand(batch, queries, heads, len(SHAPES), points, 2, generator=g) * 1.6 - 0.3  # a third lies outside
    weight = torch.rand(batch, queries, heads, len(SHAPES), points, generator=g)
    return value, loc, weight


def by_loops(value: Tensor, loc: Tensor, weight: Tensor, shapes=SHAPES) -> Tensor:
    """One point after the other; a neighbour outside the map counts as zero."""
    batch, _, heads, dim = value.shape
    out = torch.zeros(batch, loc.shape[1], heads, dim)
    for b, q, hd, level, p in torch.cartesian_prod(*(torch.arange(n) for n in weight.shape)).tolist():
        h, w = shapes[level]
        start = sum(a * b for a, b in shapes[:level])
        x, y = (loc[b, q, hd, level, p] * torch.tensor([w, h]) - 0.5).tolist()
        for cx, cy in ((0, 0), (1, 0), (0, 1), (1, 1)):
            col, row = math.floor(x) + cx, math.floor(y) + cy
            if 0 <= col < w and 0 <= row < h:
                share = (1 - abs(x - col)) * (1 - abs(y - row)) * weight[b, q, hd, level, p]
                out[b, q, hd] += share * value[b, start + row * w + col, hd]
    return out.flatten(2)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_every_decomposition_equals_a_loop_over_points(sampling) -> None:
    value, loc, weight = example()
    with sampling_as(sampling):
        got = deformable_attention(value, SHAPES, loc, weight)
    torch.testing.assert_close(got, by_loops(value, loc, weight), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_points_on_and_far_beyond_the_border_are_right(sampling) -> None:
    value, loc, weight = example(queries=6, points=3)
    h, w = SHAPES[0]
    # centre of the corner pixels, edges, one pixel outside, and where the projection of a point beside a camera ends up
    marks = [0.0, 1.0, 0.5 / w, 1 - 0.5 / w, -0.5 / w, 1 + 0.5 / w, -1e3, 1e3, -1.5 / w]
    flat = torch.tensor([(a, b) for a in marks for b in (0.5, -0.5 / h, 1 + 0.5 / h, 1e3)])
    loc = flat[torch.arange(loc[..., 0].numel()) % len(flat)].view_as(loc)
    with sampling_as(sampling):
        got = deformable_attention(value, SHAPES, loc, weight)
    torch.testing.assert_close(got, by_loops(value, loc, weight), rtol=1e-5, atol=1e-5)
    assert got.isfinite().all()


@pytest.mark.filterwarnings("ignore:Input #")  # gradcheck would rather have float64
@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_gradients_are_those_of_finite_differences(sampling) -> None:
    value, loc, weight = example(batch=1, queries=2, heads=1, dim=2, points=2)
    value, loc, weight = (t.requires_grad_() for t in (value, loc, weight))
    # Computed in float32 inside, so the step and the tolerance are those of float32.
    with sampling_as(sampling):
        assert torch.autograd.gradcheck(
            lambda *a: deformable_attention(a[0], SHAPES, a[1], a[2]), (value, loc, weight), eps=1e-3, atol=2e-2, rtol=2e-2
        )


def test_half_precision_values_are_sampled_at_full_precision_coordinates() -> None:
    value, loc, weight = example()
    value = value.bfloat16()
    got = deformable_attention(value, SHAPES, loc, weight)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), by_loops(value.float(), loc, weight), rtol=1e-2, atol=1e-2)


def test_wrong_level_sizes_are_named() -> None:
    value, loc, weight = example()
    with pytest.raises(ValueError, match="47 rows"):
        deformable_attention(value[:, 1:], SHAPES, loc, weight)


def test_an_unknown_sampling_is_refused() -> None:
    with pytest.raises(ValueError, match="gridsample, gather, plugin"):
        set_sampling("deform")


def test_one_level_fed_to_a_module_of_four_reads_the_flat_buffer_like_the_upstream_kernel() -> None:
    """Query q and head h read flat position (q * heads + h) * points of buffers laid out for four levels."""
    batch, queries, heads, levels, points, dim = 2, 10, 4, 4, 3, 5
    g = torch.Generator().manual_seed(1)
    loc = torch.rand(batch, queries, heads, levels, points, 2, generator=g)
    weight = torch.rand(batch, queries, heads, levels, points, generator=g)
    value = torch.randn(batch, 35, heads, dim, generator=g)
    got = deformable_attention(value, ((5, 7),), *first_level_of_many(loc, weight))
    want_loc, want_weight = torch.empty(batch, queries, heads, 1, points, 2), torch.empty(batch, queries, heads, 1, points)
    for b in range(batch):
        flat_loc, flat_weight = loc[b].flatten().tolist(), weight[b].flatten().tolist()
        for q in range(queries):
            for h in range(heads):
                for p in range(points):
                    at = (q * heads + h) * points + p
                    want_weight[b, q, h, 0, p] = flat_weight[at]
                    want_loc[b, q, h, 0, p] = torch.tensor(flat_loc[2 * at : 2 * at + 2])
    want = by_loops(value, want_loc, want_weight, ((5, 7),))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


def test_the_module_takes_one_level_where_it_was_built_for_four() -> None:
    g = torch.Generator().manual_seed(2)
    module = DeformableAttention(16, num_heads=4, num_levels=4, num_points=2, dropout=0.0)
    torch.nn.init.normal_(module.attention_weights.weight)
    query, value = torch.randn(2, 9, 16, generator=g), torch.randn(2, 12, 16, generator=g)
    for size in (2, 4):
        out = module(query, value, torch.rand(2, 9, 1, size, generator=g), ((3, 4),))
        assert out.shape == query.shape
        out.sum().backward()
