"""Grid mask: the lattice is upstream's, and the draws decide all of it."""

import numpy as np
import pytest
import torch

from uniad.models.grid_mask import apply_grid_mask, grid_masks


def literal_mask(height, width, spacing, down, across):
    """Bars painted one by one on the larger canvas, then cut out."""
    tall, wide = int(1.5 * height), int(1.5 * width)
    bar = min(max(int(spacing * 0.5 + 0.5), 1), spacing - 1)
    kept = np.zeros((tall, wide), bool)
    for i in range(tall // spacing):
        kept[spacing * i + down : spacing * i + down + bar] = True
    for i in range(wide // spacing):
        kept[:, spacing * i + across : spacing * i + across + bar] = True
    top, left = (tall - height) // 2, (wide - width) // 2
    return kept[top : top + height, left : left + width]


@pytest.mark.parametrize("height,width", [(32, 48), (33, 57)])
def test_every_lattice_is_the_one_painted_by_hand(height, width):
    rng = np.random.default_rng(0)
    draws, expected = [], []
    for spacing in range(2, height):
        down, across = rng.integers(spacing, size=2)
        middle = 0.5  # of the interval that is rounded down to the number wanted
        draws.append([0.0, (spacing - 2 + middle) / (height - 2), (down + middle) / spacing, (across + middle) / spacing])
        expected.append(literal_mask(height, width, spacing, down, across))
    masks = grid_masks(torch.tensor(draws), height, width)
    assert (masks.numpy() == np.stack(expected)).all()


def test_three_images_in_ten_stay_whole():
    draws = torch.rand(4000, 4, generator=torch.Generator().manual_seed(0))
    whole = grid_masks(draws, 16, 16).all(-1).all(-1)
    assert whole.float().mean().item() == pytest.approx(0.3, abs=0.03)


def test_cameras_share_a_mask_and_frames_do_not():
    img, draws = torch.ones(6, 2, 3, 20, 24), torch.rand(6, 4, generator=torch.Generator().manual_seed(3))
    masked = apply_grid_mask(img, draws)
    assert torch.equal(masked[:, 0], masked[:, 1])
    assert len({frame.numpy().tobytes() for frame in masked[:, 0]}) > 1
    assert set(masked.unique().tolist()) == {0.0, 1.0}
