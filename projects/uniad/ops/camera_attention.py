"""Deformable attention of BEV cells on the cameras that see them, with static shapes.

A cell is seen by one or two of six cameras. Attending everywhere and masking would do about four times the work, and picking the
hits by index has a data-dependent shape. So each camera gets a fixed number of slots, filled with the cells that it sees in
ascending order; what is left over reads cell 0 and is never read back. Offsets and weights depend on the cell only, so they are
computed once per cell and taken along.

Letters: Z point of a pillar, K slot of a camera; the others as in deformable_attention.
"""

from __future__ import annotations

import torch
from torch import Tensor

from uniad.ops.deformable_attention import SpatialShapes, deformable_attention, gpu_kernels, level_sizes
from uniad.ops.sampling import exporting


def camera_attention(
    value_BNVHD: Tensor,
    spatial_shapes: SpatialShapes,
    ref_BNSZ2: Tensor,
    hit_BNS: Tensor,
    offset_BSHLP2: Tensor,
    weight_BSHLP: Tensor,
    grid_hw: tuple[int, int],
    slots: int,
) -> Tensor:
    """Mean over the cameras that see a cell of what the cell reads there; zero where none does.

    value_BNVHD: [B, N, V, heads, D] features of each camera; ref_BNSZ2: where the points of a cell's pillar fall, as fractions of
    (width, height); hit_BNS: bool; offset_BSHLP2: pixels of each level, P = P/Z points around each of the Z references, Z
    running fastest; weight_BSHLP: sums to 1 over L and P. ``slots``: cells that one camera may see; further ones are dropped
    (``slots >= h * w`` cannot drop, nor can the GPU kernel, which needs no slots). Returns [B, S, heads * D].
    """
    kernels = gpu_kernels(value_BNVHD, len(spatial_shapes))
    if kernels is not None:
        return kernels.attend_cameras(value_BNVHD, spatial_shapes, ref_BNSZ2, hit_BNS, offset_BSHLP2, weight_BSHLP)
    b, n, s = hit_BNS.shape
    points = weight_BSHLP.shape[4]
    seen = hit_BNS.float().sum(1).clamp(min=1.0).unsqueeze(-1)  # [B, S, 1]
    if slots >= s:
        rank, ref = None, ref_BNSZ2.flatten(0, 1)
        offset = offset_BSHLP2.repeat_interleave(n, 0)
        weight = weight_BSHLP.repeat_interleave(n, 0)
    else:
        rank, cell = _fill_slots(hit_BNS, grid_hw, slots)  # [B, N, S], [B, N, K]
        in_batch = cell + _steps(b, s, cell.device).view(b, 1, 1)
        in_camera = cell.flatten(0, 1) + _steps(b * n, s, cell.device).view(b * n, 1)
        ref = _rows(ref_BNSZ2.flatten(0, 2), in_camera)
        offset = _rows(offset_BSHLP2.flatten(0, 1), in_batch.flatten(0, 1))
        weight = _rows(weight_BSHLP.flatten(0, 1), in_batch.flatten(0, 1))
    size = level_sizes(spatial_shapes, ref.device)
    z = ref.shape[2]
    offset = (offset / size[:, None, :]).unflatten(4, (points // z, z))
    loc = (ref[:, :, None, None, None] + offset).flatten(4, 5)  # [B*N, K, H, L, P, 2]
    out = deformable_attention(value_BNVHD.flatten(0, 1), spatial_shapes, loc, weight)  # [B*N, K, H*D]
    out = out.unflatten(0, (b, n))
    total: Tensor | None = None
    for camera in range(n):  # one camera at a time: six gathered BEVs at once would be the largest tensor of the model
        part, hit = out[:, camera], hit_BNS[:, camera]
        if rank is not None:
            index = rank[:, camera].clamp(max=slots - 1) + _steps(b, slots, part.device).view(b, 1)
            part, hit = _rows(part.flatten(0, 1), index), hit & (rank[:, camera] < slots)
        part = torch.where(hit.unsqueeze(-1), part, torch.zeros_like(part))
        total = part if total is None else total + part
    assert total is not None  # a rig has a camera
    return total / seen.to(total.dtype)


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """table [M, ...], index [X, Y] -> [X, Y, ...]; one Gather in a graph."""
    return table.index_select(0, index.flatten()).unflatten(0, index.shape)


def _steps(count: int, step: int, device: torch.device) -> Tensor:
    return torch.arange(count, dtype=torch.int32, device=device) * step


def _fill_slots(hit_BNS: Tensor, grid_hw: tuple[int, int], slots: int) -> tuple[Tensor, Tensor]:
    """For every cell its slot in each camera (meaningful where hit), for every slot its cell (in range where empty).

    Row-wise in two steps: slot k lies in the row before which k hits or fewer were counted, then in the column likewise. That is
    compare, sum and gather of integers: no scatter, no sort, exact in a half-precision engine.
    """
    h, w = grid_hw
    b, n, _ = hit_BNS.shape
    hits = hit_BNS.unflatten(-1, (h, w)).to(torch.int32)
    in_row = _running_count(hits)  # [B, N, h, w], inclusive
    per_row = in_row[..., -1]
    rows_done = _running_count(per_row)  # [B, N, h], inclusive
    before = rows_done - per_row
    rank = (before.unsqueeze(-1) + in_row - 1).flatten(-2).clamp(min=0)
    k = torch.arange(slots, dtype=torch.int32, device=hit_BNS.device)
    row = (rows_done.unsqueeze(-2) <= k[:, None]).to(torch.int32).sum(-1, dtype=torch.int32).clamp(max=h - 1)
    table = row.flatten(0, 1) + _steps(b * n, h, row.device).view(b * n, 1)
    counts = _rows(in_row.flatten(0, 2), table).unflatten(0, (b, n))  # [B, N, K, w]
    rest = k - _rows(before.flatten(), table).unflatten(0, (b, n))
    col = (counts <= rest.unsqueeze(-1)).to(torch.int32).sum(-1, dtype=torch.int32).clamp(max=w - 1)
    return rank, row * w + col


def _running_count(x: Tensor) -> Tensor:
    """Inclusive sum along the last axis, int32."""
    if not exporting():
        return x.cumsum(-1, dtype=torch.int32)
    # TensorRT runs CumSum as a loop over the axis; doubling needs log2(length) additions.
    length, shift = x.shape[-1], 1
    while shift < length:
        x = x + torch.cat([torch.zeros_like(x[..., :shift]), x[..., :-shift]], -1)
        shift *= 2
    return x
