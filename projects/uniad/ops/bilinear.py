"""Bilinear sampling of row-major feature rows with gathers only: no GridSample, no data-dependent shape.

Outside the map the value is zero. A border of one zero pixel makes that true without a mask: a coordinate further out than one
pixel is moved onto the border, where every neighbour with a non-zero weight is zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def pad_rows(rows_MSD: Tensor, hw: tuple[int, int]) -> Tensor:
    """[M, h*w, D] -> [M, (h+2)*(w+2), D] with a border of zeros."""
    h, w = hw
    return F.pad(rows_MSD.unflatten(1, (h, w)), (0, 0, 1, 1, 1, 1)).flatten(1, 2)


def corners(x: Tensor, y: Tensor, hw: tuple[int, int]) -> list[tuple[Tensor, Tensor]]:
    """The four neighbours of every point: (row index in the padded map, bilinear weight).

    x, y: any shape, float32 pixels, where 0 is the centre of the first pixel. Indices are int32: maps are far below 2**31 rows
    and TensorRT computes no 64-bit integers.
    """
    h, w = hw
    x, y = x.clamp(-1.0, float(w)), y.clamp(-1.0, float(h))
    # x == w must not start a cell of its own: its left neighbour is w - 1 with weight 0 and its right one the border.
    x0, y0 = x.floor().clamp(max=float(w - 1)), y.floor().clamp(max=float(h - 1))
    fx, fy = x - x0, y - y0
    index = ((y0 + 1.0) * float(w + 2) + (x0 + 1.0)).to(torch.int32)  # exact in float32 below 2**24 pixels
    gx, gy = 1.0 - fx, 1.0 - fy
    return [(index, gx * gy), (index + 1, fx * gy), (index + (w + 2), gx * fy), (index + (w + 3), fx * fy)]
