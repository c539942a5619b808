"""Losses of stage 0: class and box of every decoder layer, matched anew in each (DETR, Carion et al. 2020)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from uniad.config.spec import TrackLossSpec
from uniad.interface.types import FREE_ID, DetOutput
from uniad.losses.common import masked_sum, sigmoid_focal_loss
from uniad.losses.matcher import FrameTargets, match_frame
from uniad.losses.track import take


def detection_losses(
    det: DetOutput, gt: FrameTargets, code_weights: Tensor, spec: TrackLossSpec, reduce_mean: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Weighted scalars under BEVFormer's names: ``loss_cls``, ``loss_bbox`` of the last layer, ``d{i}.`` before those of layer i.

    Sums over the batch are divided by the objects found in it, averaged over processes by ``reduce_mean``. code_weights: [10].
    """
    rows = det.cls.shape[1:3]
    nobody = torch.full(rows, FREE_ID, dtype=torch.int64, device=det.cls.device)
    everyone = torch.ones(rows, dtype=torch.bool, device=det.cls.device)
    match = match_frame(det, nobody, torch.zeros(rows, device=det.cls.device), everyone, gt, spec)
    logits, boxes = det.cls.float(), det.boxes.float()
    labels_LBR = torch.where(match.gt_of_row >= 0, take(gt.labels, match.gt_of_row), logits.shape[-1])
    cls_L = sigmoid_focal_loss(logits, labels_LBR, gamma=spec.focal_gamma, alpha=spec.focal_alpha).sum((1, 2, 3))
    error = (take(boxes, match.row_of_gt) - gt.boxes).abs() * code_weights
    box_L = masked_sum(error, (match.row_of_gt >= 0)[..., None], (1, 2, 3))
    count_L = reduce_mean((match.row_of_gt >= 0).sum((1, 2)).float()).clamp(min=1.0)
    losses: dict[str, Tensor] = {}
    last = len(cls_L) - 1
    for layer in (last, *range(last)):
        prefix = "" if layer == last else f"d{layer}."
        losses[f"{prefix}loss_cls"] = spec.weight_cls * cls_L[layer] / count_L[layer]
        losses[f"{prefix}loss_bbox"] = spec.weight_box * box_L[layer] / count_L[layer]
    return losses
