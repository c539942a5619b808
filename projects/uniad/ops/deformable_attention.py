"""Multi-scale deformable attention (Zhu et al. 2021): every query reads a few points of every level of every head.

Axis letters besides those of types.py: P sampling point, V value row (all levels one after the other), H head.
"""

from __future__ import annotations

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from uniad.ops.bilinear import corners, pad_rows
from uniad.ops.kernels import deformable_kernels
from uniad.ops.sampling import exporting, get_sampling, sampling_as, set_sampling

__all__ = ["SpatialShapes", "deformable_attention", "first_level_of_many", "get_sampling", "sampling_as",
           "set_sampling"]

SpatialShapes = tuple[tuple[int, int], ...]  # (height, width) of every level: static, so part of the graph


def level_sizes(spatial_shapes: SpatialShapes, device: torch.device) -> Tensor:
    """(width, height) of every level, [L, 2] float32. Filled on the device: a copy from the host would stall the queue at every
    layer, and a CUDA graph cannot hold one."""
    fill = [torch.full((), float(n), device=device) for h, w in spatial_shapes for n in (w, h)]
    return torch.stack(fill).unflatten(0, (-1, 2))


def deformable_attention(
    value_BVHD: Tensor, spatial_shapes: SpatialShapes, loc_BQHLP2: Tensor, weight_BQHLP: Tensor
) -> Tensor:
    """Weighted sum of bilinear samples; outside a map the value is zero.

    value_BVHD: [B, sum(h*w), heads, D]; loc_BQHLP2: sampling points as fractions of (width, height), 0 and 1 are the outer
    edges; weight_BQHLP: weight of each point. Returns [B, Q, heads * D] in the dtype of the value.
    """
    rows = sum(h * w for h, w in spatial_shapes)
    if value_BVHD.shape[1] != rows or loc_BQHLP2.shape[3] != len(spatial_shapes):
        raise ValueError(
            f"value has {value_BVHD.shape[1]} rows and {loc_BQHLP2.shape[3]} levels are sampled, "
            f"but the levels {spatial_shapes} have {rows} rows"
        )
    chosen = get_sampling()
    if chosen == "plugin" and exporting():
        return _plugin_node(value_BVHD, spatial_shapes, loc_BQHLP2, weight_BQHLP)
    if chosen == "gather":
        return _by_gather(value_BVHD, spatial_shapes, loc_BQHLP2, weight_BQHLP)
    kernels = gpu_kernels(value_BVHD, len(spatial_shapes))
    if kernels is not None:
        return kernels.attend(value_BVHD, spatial_shapes, loc_BQHLP2, weight_BQHLP)
    return _by_grid_sample(value_BVHD, spatial_shapes, loc_BQHLP2, weight_BQHLP)


def gpu_kernels(value: Tensor, levels: int) -> ModuleType | None:
    """The Triton kernels where they can run: on a GPU, no decomposition asked for, nothing being exported."""
    if value.device.type != "cuda" or get_sampling() is not None or exporting():
        return None
    kernels, _ = deformable_kernels()
    return kernels if kernels is not None and kernels.supports(levels, value.shape[-1]) else None


def first_level_of_many(loc_BQHLP2: Tensor, weight_BQHLP: Tensor) -> tuple[Tensor, Tensor]:
    """What upstream's CUDA kernel reads when a module built for L levels is given a single one.

    It takes the number of levels from the spatial shapes and walks the flat buffers with it, so query q and head h get the
    points at flat position (q * heads + h) * P: those of query q // L, whose weights were normalised over all L * P points.
    Published UniAD-base weights were trained with this. Upstream ran one sample at a time; each batch
    element is read on its own here. Returns one-level locations and weights [B, Q, heads, 1, P(, 2)].
    """
    b, q, heads, _, points = weight_BQHLP.shape
    taken = q * heads * points
    loc = loc_BQHLP2.reshape(b, -1)[:, : taken * 2].reshape(b, q, heads, 1, points, 2)
    weight = weight_BQHLP.reshape(b, -1)[:, :taken].reshape(b, q, heads, 1, points)
    return loc, weight


def _by_grid_sample(value: Tensor, spatial_shapes: SpatialShapes, loc: Tensor, weight: Tensor) -> Tensor:
    b, _, heads, dim = value.shape
    queries = loc.shape[1]
    # Coordinates need float32 (bfloat16 has 8 bits for a map of 200 cells); GridSample wants one dtype for both.
    grid = (loc.float() * 2.0 - 1.0).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # [L, B*H, Q, P, 2]
    weight = weight.float().permute(3, 0, 2, 1, 4).flatten(1, 2).unsqueeze(2)  # [L, B*H, 1, Q, P]
    maps = value.float().permute(0, 2, 3, 1).flatten(0, 1)  # [B*H, D, V]
    out: Tensor | None = None
    start = 0
    for level, (h, w) in enumerate(spatial_shapes):
        level_map = maps[..., start : start + h * w].unflatten(-1, (h, w))
        sampled = F.grid_sample(level_map, grid[level], mode="bilinear", padding_mode="zeros", align_corners=False)
        part = (sampled * weight[level]).sum(-1)  # [B*H, D, Q]
        out = part if out is None else out + part
        start += h * w
    assert out is not None  # there is a level
    return out.view(b, heads * dim, queries).transpose(1, 2).to(value.dtype)


def _by_gather(value: Tensor, spatial_shapes: SpatialShapes, loc: Tensor, weight: Tensor) -> Tensor:
    b, _, heads, dim = value.shape
    queries, points = loc.shape[1], loc.shape[4]
    loc = loc.float().permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # [L, B*H, Q, P, 2]
    weight = weight.float().permute(3, 0, 2, 1, 4).flatten(1, 2)  # [L, B*H, Q, P]
    rows = value.transpose(1, 2).flatten(0, 1)  # [B*H, V, D]
    out: Tensor | None = None
    start = 0
    for level, (h, w) in enumerate(spatial_shapes):
        padded = pad_rows(rows[:, start : start + h * w], (h, w))
        step = padded.shape[1]
        base = torch.arange(b * heads, dtype=torch.int32, device=value.device).view(-1, 1, 1) * step
        flat = padded.flatten(0, 1)
        x = loc[level, ..., 0] * float(w) - 0.5
        y = loc[level, ..., 1] * float(h) - 0.5
        for index, factor in corners(x, y, (h, w)):  # one corner after the other: a quarter of the memory
            taken = flat.index_select(0, (index + base).flatten()).view(b * heads, queries, points, dim)
            part = (taken.float() * (factor * weight[level]).unsqueeze(-1)).sum(2)  # [B*H, Q, D]
            out = part if out is None else out + part
        start += h * w
    assert out is not None  # there is a level
    return out.view(b, heads, queries, dim).transpose(1, 2).flatten(2).to(value.dtype)


def _plugin_node(value: Tensor, spatial_shapes: SpatialShapes, loc: Tensor, weight: Tensor) -> Tensor:
    b, _, heads, dim = value.shape
    queries = loc.shape[1]
    shapes = torch.tensor(spatial_shapes, dtype=torch.int32, device=value.device)
    starts, start = [], 0
    for h, w in spatial_shapes:
        starts.append(start)
        start += h * w
    out = torch.onnx.ops.symbolic(
        "trt.plugins::MultiscaleDeformableAttnPlugin_TRT",
        (value, shapes, torch.tensor(starts, dtype=torch.int32, device=value.device), loc, weight),
        dtype=value.dtype,
        shape=(b, queries, heads, dim),
        version=1,
    )
    return out.flatten(2)
