"""Grid mask: training images keep a random lattice of bars and lose the squares between them (Chen et al. 2020).

Upstream's setting: bars both ways, half as wide as their spacing, no rotation, 7 images in 10. All cameras of a frame share
one mask. The caller draws the random numbers, on the device, so a run can be repeated and no value visits the host.
"""

from __future__ import annotations

import torch
from torch import Tensor

PROBABILITY = 0.7
BAR_RATIO = 0.5  # width of a bar over spacing
CANVAS = 1.5  # the lattice is drawn on a canvas this much larger and cut out of its middle
DRAWS = 4  # random numbers that one mask takes


def grid_masks(draws: Tensor, height: int, width: int) -> Tensor:
    """Masks [K, height, width] bool, True where a pixel is kept, from draws [K, 4] uniform in [0, 1).

    The draws decide: whether to mask at all; the spacing, 2 to height - 1 pixels; the lattice's offset down and across.
    """
    unmasked, spacing, down, across = draws.unbind(-1)
    spacing = 2 + (spacing * (height - 2)).floor()
    rows = _bars(height, spacing, (down * spacing).floor())
    columns = _bars(width, spacing, (across * spacing).floor())
    kept = rows[:, :, None] | columns[:, None, :]
    return kept | (unmasked > PROBABILITY)[:, None, None]


def apply_grid_mask(img: Tensor, draws: Tensor) -> Tensor:
    """img [K, N, 3, H, W], K frames of N cameras -> the same with squares of each frame set to 0, the mean colour.

    draws [K, 4] uniform in [0, 1), see ``grid_masks``.
    """
    return img * grid_masks(draws, *img.shape[-2:])[:, None, None].to(img.dtype)


def _bars(length: int, spacing: Tensor, offset: Tensor) -> Tensor:
    """Which of ``length`` pixels [K, length] lie on a bar, for spacing and offset [K] in whole pixels."""
    canvas = int(CANVAS * length)
    pixel = torch.arange(length, device=spacing.device, dtype=spacing.dtype) + (canvas - length) // 2
    spacing = spacing[:, None]
    since_first = pixel - offset[:, None]
    bar = (since_first / spacing).floor()
    width = (spacing * BAR_RATIO + 0.5).floor().clamp(min=1).minimum(spacing - 1)
    # Bars that start beyond the last whole spacing of the canvas are not drawn.
    return (bar >= 0) & (bar < (canvas / spacing).floor()) & (since_first - bar * spacing < width)
