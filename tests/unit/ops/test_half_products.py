"""Products of halves on a CPU: rounded once, to the half that the operands have; everything else is left alone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from uniad.ops.half_products import HalfProducts


@pytest.mark.parametrize("half", [torch.float16, torch.bfloat16])
def test_a_product_is_the_float_one_rounded_once(half: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    x, w, b = (torch.randn(*shape, generator=rng).to(half) for shape in ((3, 300), (5, 300), (5,)))
    image, kernel = torch.randn(1, 2, 6, 7, generator=rng).to(half), torch.randn(4, 2, 3, 3, generator=rng).to(half)
    with HalfProducts():
        found = F.linear(x, w, b), x @ w.T, F.conv2d(image, kernel), torch.bmm(x[None], w.T[None])
    want = (F.linear(x.float(), w.float(), b.float()), x.float() @ w.float().T, F.conv2d(image.float(), kernel.float()),
            torch.bmm(x[None].float(), w.T[None].float()))  # fmt: skip
    for got, exact in zip(found, want, strict=True):
        assert got.dtype == half and torch.equal(got, exact.to(half))


def test_floats_and_what_is_no_product_are_left_alone() -> None:
    x = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    with HalfProducts():
        assert torch.equal(x @ x, x.mm(x)) and (x @ x).dtype == torch.float32
        assert (x.half() + x.half()).dtype == torch.float16


def test_under_autocast_the_step_of_a_layer_is_in_halves() -> None:
    layer, x = torch.nn.Linear(8, 8), torch.randn(2, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), torch.autocast("cpu", torch.float16), HalfProducts():
        got = layer(x)
    assert got.dtype == torch.float16
    exact = F.linear(x.half().float(), layer.weight.detach().half().float(), layer.bias.detach().half().float())
    assert torch.equal(got, exact.half())
