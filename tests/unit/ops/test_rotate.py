"""Turning a BEV: fixed point, direction, what comes from outside, and one angle per batch element."""

from __future__ import annotations

import pytest
import torch

from uniad.ops.rotate import rotate_bev


def picture(h: int = 6, w: int = 6) -> torch.Tensor:
    return torch.arange(1, h * w + 1, dtype=torch.float32).view(1, h * w, 1)


def test_no_turn_changes_nothing_wherever_the_centre_is() -> None:
    bev = picture()
    assert torch.equal(rotate_bev(bev, torch.zeros(1), (6, 6), (100, 100)), bev)


def test_a_quarter_turn_is_counter_clockwise_about_the_middle() -> None:
    turned = rotate_bev(picture(), torch.tensor([90.0]), (6, 6), (3, 3))
    assert torch.equal(turned.view(6, 6), torch.rot90(picture().view(6, 6)))


def test_the_centre_stays_and_what_comes_from_outside_is_zero() -> None:
    turned = rotate_bev(picture(), torch.tensor([180.0]), (6, 6), (1, 1)).view(6, 6)
    assert torch.equal(turned[:2, :2], torch.rot90(picture().view(6, 6)[:2, :2], 2))
    assert turned[2:].eq(0).all() and turned[:, 2:].eq(0).all()


@pytest.mark.parametrize("hw", [(6, 6), (4, 9)])
def test_each_batch_element_has_its_own_angle(hw) -> None:
    bev = torch.cat([picture(*hw), picture(*hw) * 2, picture(*hw) * 3])
    angles = torch.tensor([2.0, -17.0, 350.0])
    both = rotate_bev(bev, angles, hw, (100, 100))
    for i in range(3):
        assert torch.equal(both[i : i + 1], rotate_bev(bev[i : i + 1], angles[i : i + 1], hw, (100, 100)))
