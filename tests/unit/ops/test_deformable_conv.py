"""Modulated deformable convolution says what a loop over pixels and taps says."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from uniad.ops import deformable_conv
from uniad.ops.deformable_conv import DeformConv2d, modulated_deform_conv2d
from uniad.ops.sampling import sampling_as

SAMPLINGS = ("gridsample", "gather")


def by_loops(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    images, channels, h, w = x.shape
    outs, _, kh, kw = weight.shape
    ho, wo = offset.shape[-2:]
    groups = offset.shape[1] // (2 * kh * kw)
    per_group = channels // groups
    out = torch.zeros(images, outs, ho, wo)
    for m in range(images):
        for oy in range(ho):
            for ox in range(wo):
                for group in range(groups):
                    for tap in range(kh * kw):
                        at = group * kh * kw + tap
                        y = oy * stride - padding + tap // kw + float(offset[m, 2 * at, oy, ox])
                        x_ = ox * stride - padding + tap % kw + float(offset[m, 2 * at + 1, oy, ox])
                        sample = torch.zeros(per_group)
                        for row in (math.floor(y), math.floor(y) + 1):
                            for col in (math.floor(x_), math.floor(x_) + 1):
                                if 0 <= row < h and 0 <= col < w:
                                    share = (1 - abs(y - row)) * (1 - abs(x_ - col))
                                    sample += share * x[m, group * per_group : (group + 1) * per_group, row, col]
                        taps = weight[:, group * per_group : (group + 1) * per_group, tap // kw, tap % kw]
                        out[m, :, oy, ox] += taps @ sample * mask[m, at, oy, ox]
    return out


def example(stride: int = 1, groups: int = 1) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(0)
    ho, wo = (5 + 2 - 3) // stride + 1, (6 + 2 - 3) // stride + 1
    x, weight = torch.randn(2, 4, 5, 6, generator=g), torch.randn(3, 4, 3, 3, generator=g)
    offset = torch.randn(2, groups * 18, ho, wo, generator=g) * 2
    return x, offset, torch.rand(2, groups * 9, ho, wo, generator=g), weight


@pytest.mark.parametrize("sampling", SAMPLINGS)
@pytest.mark.parametrize("stride, groups", [(1, 1), (2, 1), (1, 2)])
def test_equals_a_loop_over_pixels_and_taps(sampling, stride, groups) -> None:
    x, offset, mask, weight = example(stride, groups)
    with sampling_as(sampling):
        got = modulated_deform_conv2d(x, offset, mask, weight, stride, 1)
    torch.testing.assert_close(got, by_loops(x, offset, mask, weight, stride, 1), rtol=1e-4, atol=1e-4)


def test_starts_as_a_convolution_at_half_strength() -> None:
    conv = DeformConv2d(4, 3)
    x = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(conv(x), 0.5 * F.conv2d(x, conv.weight, padding=1), rtol=1e-4, atol=1e-5)


def test_images_taken_in_groups_give_the_same(monkeypatch) -> None:
    x, offset, mask, weight = example()
    whole = modulated_deform_conv2d(x, offset, mask, weight)
    monkeypatch.setattr(deformable_conv, "COLUMN_LIMIT", 1)
    torch.testing.assert_close(modulated_deform_conv2d(x, offset, mask, weight), whole, rtol=1e-6, atol=1e-6)


def test_gradients_of_both_samplings_agree() -> None:
    grads = []
    for sampling in SAMPLINGS:
        inputs = [t.clone().requires_grad_() for t in example()]
        with sampling_as(sampling):
            modulated_deform_conv2d(*inputs).square().sum().backward()
        grads.append([t.grad for t in inputs])
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_learning_keeps_no_columns_and_has_the_gradients_of_columns_that_are_kept() -> None:
    torch.manual_seed(0)
    layer, x = DeformConv2d(8, 8), torch.randn(2, 8, 10, 12)
    torch.nn.init.normal_(layer.conv_offset.weight, std=0.3)
    parameters = list(layer.parameters())

    def run(forward) -> tuple[torch.Tensor, list[torch.Tensor], int]:
        kept: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            out = forward(x)
            return out, list(torch.autograd.grad(out.square().sum(), parameters)), max(kept)

    def directly(x: torch.Tensor) -> torch.Tensor:
        field = layer.conv_offset(x)
        return modulated_deform_conv2d(x, field[:, :18], field[:, 18:].sigmoid(), layer.weight)

    (out, grads, kept), (want, want_grads, columns) = run(layer), run(directly)
    assert torch.equal(out, want) and all(map(torch.equal, grads, want_grads))
    assert columns == 9 * x.numel() and kept < columns // 2
    compiled, *_ = run(torch.compile(layer, backend="aot_eager"))
    torch.testing.assert_close(compiled, want)
