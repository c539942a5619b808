"""Nearest-neighbour rotation of a BEV about a point, equal cell by cell to torchvision's ``rotate`` (0.13).

A different order of operations moves coordinates that lie between two cells to the other one, so the grid is computed in
torchvision's order: rotation about the point relative to the map's middle, normalised coordinates, back to pixels, round half
to even.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rotate_bev(bev_BSD: Tensor, angle_deg: Tensor, hw: tuple[int, int], center: tuple[float, float]) -> Tensor:
    """Rotate each BEV by its own angle; cells that come from outside are zero.

    bev_BSD: [B, h*w, D], row-major; angle_deg: [B], positive turns the picture (row 0 on top) counter-clockwise;
    center: (x, y) of the fixed point in cells, measured from the corner of the map; it may lie outside (upstream's tiny
    model turns its 50x50 BEV about (100, 100)). Returns [B, h*w, D].
    """
    (h, w), device = hw, bev_BSD.device
    # Arguments in radians of the inverse map: where an output cell comes from
    angle = torch.deg2rad(-angle_deg.float())
    cos, sin = angle.cos()[:, None], angle.sin()[:, None]
    cx, cy = center[0] - w * 0.5, center[1] - h * 0.5
    tx = cos * -cx + sin * -cy + cx
    ty = -sin * -cx + cos * -cy + cy
    xs = (torch.arange(w, dtype=torch.float32, device=device) - (w * 0.5 - 0.5)).repeat(h)[None]
    ys = (torch.arange(h, dtype=torch.float32, device=device) - (h * 0.5 - 0.5)).repeat_interleave(w)[None]
    sx, sy = 0.5 * w, 0.5 * h
    gx = xs * (cos / sx) + ys * (sin / sx) + tx / sx
    gy = xs * (-sin / sy) + ys * (cos / sy) + ty / sy
    col = (((gx + 1.0) * w - 1.0) * 0.5).round()
    row = (((gy + 1.0) * h - 1.0) * 0.5).round()
    inside = (col >= 0) & (col < w) & (row >= 0) & (row < h)
    cell = (row.clamp(0, h - 1) * w + col.clamp(0, w - 1)).to(torch.int32)
    batch = torch.arange(bev_BSD.shape[0], dtype=torch.int32, device=device)[:, None] * (h * w)
    taken = bev_BSD.flatten(0, 1).index_select(0, (cell + batch).flatten()).view_as(bev_BSD)
    return torch.where(inside[..., None], taken, torch.zeros_like(taken))
