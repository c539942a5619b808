"""Multi-scale deformable attention (Deformable DETR): each query reads a few points of each feature level."""

import torch
from torch.autograd.function import Function, once_differentiable

from . import _C
from .precision import in_full_precision


class _DeformableAttention(Function):
    @staticmethod
    def forward(ctx, value, spatial_shapes, level_starts, locations, weights):
        ctx.save_for_backward(value, spatial_shapes, level_starts, locations, weights)
        return _C.attention_forward(value, spatial_shapes, level_starts, locations, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        grad_value, grad_locations, grad_weights = _C.attention_backward(*ctx.saved_tensors, grad_out.contiguous())
        return grad_value, None, None, grad_locations, grad_weights


def deformable_attention(value, spatial_shapes, locations, weights):
    """Weighted sum of bilinear samples, with zeros outside a level.

    Where `locations` and `weights` have more levels than there are features, what mmcv's CUDA kernel computes is computed: it
    goes by the number of features, so a query reads its points from a flat buffer that strides by fewer. The map head of
    UniAD-base is built for four levels, is fed one, and was trained so.

    Args:
        value (Tensor): [B, S, M, D] features of all levels, level after level, rows of pixels after rows; M heads.
        spatial_shapes (Tensor): [L, 2] int64 height and width of each level; S is the sum of their products.
        locations (Tensor): [B, Q, M, L', P, 2] points as x, y in [0, 1] over the level; L' >= L.
        weights (Tensor): [B, Q, M, L', P].

    Returns:
        Tensor: [B, Q, M * D], of the type of `value`.
    """
    levels = spatial_shapes.shape[0]
    batch, queries, heads, given, points = weights.shape
    if given < levels:
        raise ValueError(f"deformable_attention: {levels} feature levels, but locations for {given}")
    if given > levels:
        shape = (batch, queries, heads, levels, points)
        used = weights.numel() // given * levels
        locations = locations.reshape(-1, 2)[:used].reshape(*shape, 2)
        weights = weights.reshape(-1)[:used].reshape(shape)
    spatial_shapes = spatial_shapes.to(device=value.device, dtype=torch.int64).contiguous()
    areas = spatial_shapes.prod(1)
    level_starts = areas.cumsum(0) - areas

    def run(value, locations, weights):
        return _DeformableAttention.apply(value, spatial_shapes, level_starts, locations, weights)

    return in_full_precision(run, value.device.type, value, locations, weights)
