"""Losses that several heads share, as pure functions of tensors: nothing is reduced over a set here, callers mask and sum.

A set has a fixed capacity, so a mean over "the matched ones" is a masked sum over a count, never a selection.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from uniad.geometry.boxes import rect_area


def masked_sum(value: Tensor, mask: Tensor, dims: int | tuple[int, ...]) -> Tensor:
    """Sum of value over dims where mask holds. Masked entries give no gradient, not even if they are not finite."""
    return torch.where(mask, value, torch.zeros((), dtype=value.dtype, device=value.device)).sum(dims)


def sigmoid_focal_loss(logits: Tensor, labels: Tensor, *, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Focal loss of independent classes (Lin et al. 2017).

    logits [..., C]; labels [...] int64 with C for background. Returns [..., C], one value for each class.
    """
    # A comparison, not one_hot: that would read the largest label back from the device.
    target = (labels[..., None] == torch.arange(logits.shape[-1], device=logits.device)).to(logits.dtype)
    return binary_focal_loss(logits, target, gamma=gamma, alpha=alpha)


def binary_focal_loss(logits: Tensor, target: Tensor, *, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Focal loss of logits against targets in 0..1 of the same shape, elementwise."""
    probability = logits.sigmoid()
    wrong = probability * (1 - target) + (1 - probability) * target
    weight = (alpha * target + (1 - alpha) * (1 - target)) * wrong.pow(gamma)
    return weight * F.binary_cross_entropy_with_logits(logits, target, reduction="none")


def focal_cost(logits: Tensor, labels: Tensor, *, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """What it costs to give a query the class of an object: its focal loss as that class less that as background.

    logits [..., R, C], labels [..., G] int64 with the same leading axes -> [..., G, R]. Labels outside 0..C-1 are
    clamped: rows of padding, which the caller masks.
    """
    tiny = 1e-12  # keeps the logarithm finite; far below float32's resolution near 1
    probability = logits.sigmoid()
    as_object = -(probability + tiny).log() * alpha * (1 - probability).pow(gamma)
    as_background = -(1 - probability + tiny).log() * (1 - alpha) * probability.pow(gamma)
    cost_CR = (as_object - as_background).transpose(-1, -2)
    labels = labels.clamp(0, logits.shape[-1] - 1)
    return cost_CR.gather(-2, labels[..., None].expand(*labels.shape, logits.shape[-2]))


def l1_cost(predicted: Tensor, target: Tensor) -> Tensor:
    """Sum of absolute differences between every target and every prediction: [..., R, D], [..., G, D] -> [..., G, R]."""
    # One plane after the other: a GPU's cdist takes five times as long for vectors this short
    planes = ((t[..., :, None] - p[..., None, :]).abs_() for t, p in zip(target.unbind(-1), predicted.unbind(-1), strict=True))
    cost_GR = next(planes)
    for plane in planes:
        cost_GR += plane
    return cost_GR


def generalised_iou(a: Tensor, b: Tensor, *, eps: float = 1e-6) -> Tensor:
    """IoU of rectangles [..., 4] (x0 y0 x1 y1) less the part of their hull that neither covers (Rezatofighi et al. 2019).

    Broadcasts to [...]; for all pairs pass ``a[..., :, None, :]`` and ``b[..., None, :, :]``.
    """
    side = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    overlap = side[..., 0] * side[..., 1]  # prod's backward pass would read back whether there is a zero
    union = (rect_area(a) + rect_area(b) - overlap).clamp(min=eps)
    hull = torch.cat([torch.minimum(a[..., :2], b[..., :2]), torch.maximum(a[..., 2:], b[..., 2:])], -1)
    hull_area = rect_area(hull).clamp(min=eps)
    return overlap / union - (hull_area - union) / hull_area


def giou_loss(predicted: Tensor, target: Tensor, *, eps: float = 1e-7) -> Tensor:
    """1 - generalised IoU of matching boxes [..., 4] (x0 y0 x1 y1) -> [...]."""
    return 1 - generalised_iou(predicted, target, eps=eps)


def dice_loss(predicted: Tensor, target: Tensor, *, eps: float = 1e-6) -> Tensor:
    """1 - soft Dice overlap of masks [..., P] flattened over pixels -> [...]. Squares in the denominator (V-Net).

    ``predicted`` is used as it is: apply a sigmoid before where logits are meant.
    """
    target = target.to(predicted.dtype)
    overlap = (predicted * target).sum(-1)
    size = predicted.square().sum(-1) + target.square().sum(-1) + 2 * eps
    return 1 - 2 * overlap / size
