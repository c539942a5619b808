"""UniAD v2's boxes and what its network regresses, read into ours."""

from __future__ import annotations

import math

import torch

from helpers.v2 import box9_of_v2
from uniad.geometry.boxes import box10_of_v2, corners, decode_boxes, encode_boxes


def boxes_of_v2(count: int = 200) -> torch.Tensor:
    """(x, y, z, l, w, h, heading, vx, vy) [count, 9] in float64, heading from -pi to pi."""
    g = torch.Generator().manual_seed(0)
    uniform = torch.rand(count, 9, generator=g, dtype=torch.float64)
    low = torch.tensor([-50, -50, -3, 0.5, 0.3, 0.5, -math.pi, -10, -10])
    high = torch.tensor([50, 50, 1, 12, 3, 4, math.pi, 10, 10])
    return low + uniform * (high - low)


def test_the_code_of_v2_is_that_of_the_same_box():
    theirs = boxes_of_v2()
    x, y, z, l, w, h, heading, vx, vy = theirs.unbind(-1)
    code = torch.stack((x, y, l.log(), w.log(), z, h.log(), heading.sin(), heading.cos(), vx, vy), -1)
    torch.testing.assert_close(box10_of_v2(code), encode_boxes(box9_of_v2(theirs)), atol=1e-12, rtol=0)
    ours, wanted = decode_boxes(box10_of_v2(code)), box9_of_v2(theirs)
    turned = (ours - wanted)[:, 6] / (2 * math.pi)
    torch.testing.assert_close(turned, turned.round(), atol=1e-12, rtol=0)
    keep = [0, 1, 2, 3, 4, 5, 7, 8]
    torch.testing.assert_close(ours[:, keep], wanted[:, keep], atol=1e-12, rtol=1e-12)


def test_reading_the_code_is_exact_and_its_own_inverse():
    code = torch.randn(100, 10, generator=torch.Generator().manual_seed(1))
    assert torch.equal(box10_of_v2(box10_of_v2(code)), code)
    torch.testing.assert_close(box9_of_v2(box9_of_v2(boxes_of_v2())), boxes_of_v2(), atol=1e-12, rtol=0)


def test_a_box_keeps_its_place_on_the_road():
    """v2's length lies along its heading; ours along y before the clockwise turn by yaw."""
    theirs = boxes_of_v2(50)
    _, _, _, l, w, _, heading, _, _ = theirs.unbind(-1)
    along = torch.stack((heading.cos(), heading.sin()), -1) * l[:, None] / 2
    across = torch.stack((-heading.sin(), heading.cos()), -1) * w[:, None] / 2
    want = torch.stack([theirs[:, :2] + a * along + b * across for a in (-1, 1) for b in (-1, 1)], 1)
    found = corners(box9_of_v2(theirs))[..., (0, 3, 4, 7), :2]
    apart = torch.cdist(want, found).min(-1).values
    assert apart.max() < 1e-9
