"""Tracking losses of a clip: class, box and past trajectory of every frame and decoder layer (UniAD section 3.1).

A batch counts as so many processes of one sample: sums are averaged over samples, and so is what they are divided by, over
samples and processes alike. Upstream knows one sample a process; there the two agree.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from uniad.config.spec import TrackLossSpec
from uniad.interface.types import DetOutput
from uniad.losses.common import masked_sum, sigmoid_focal_loss
from uniad.losses.matcher import FrameTargets, Match


class FrameTerms(NamedTuple):
    """What one frame adds to the losses, not yet normalised. Counts include the ego car, which always answers."""

    cls: Tensor  # [L, B] sum over rows and classes
    box: Tensor  # [L, B] sum over objects and box dimensions
    past_traj: Tensor  # [L, B] mean over steps that exist
    cls_count: Tensor  # [B] rows with an object, absent ones counted, and the ego row
    box_count: Tensor  # [B] rows with an object that is there, and the ego row


def frame_terms(
    det: DetOutput, match: Match, row_valid: Tensor, gt: FrameTargets, code_weights: Tensor, ego_row: int, spec: TrackLossSpec
) -> FrameTerms:
    """Loss sums of one frame. row_valid [B, R] bool; code_weights [10]; ego_row is the row of the ego query."""
    logits, boxes = det.cls.float(), det.boxes.float()
    return FrameTerms(
        cls=_class_sum(logits, match.gt_of_row, row_valid, gt, ego_row, spec),
        box=_box_sum(boxes, match.row_of_gt, gt, code_weights, ego_row),
        past_traj=_past_traj_mean(det.past_traj.float(), match.row_of_gt, gt),
        cls_count=match.answering + 1,
        box_count=match.present + 1,
    )


def track_losses(
    terms: list[FrameTerms], spec: TrackLossSpec, reduce_mean: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Weighted scalars ``track.frame_{t}_loss_{cls,bbox,past_trajs}_{layer}``.

    reduce_mean averages a tensor over processes; it is called once, with all counts of the clip.
    """
    counts = torch.stack([torch.stack([f.cls_count, f.box_count]) for f in terms]).float().mean(-1)
    counts_T2 = reduce_mean(counts)
    losses: dict[str, Tensor] = {}
    for t, frame in enumerate(terms):
        cls = spec.weight_cls * frame.cls.mean(-1) / counts_T2[t, 0]
        box = spec.weight_box * frame.box.mean(-1) / counts_T2[t, 1]
        past_traj = spec.weight_past_traj * frame.past_traj.mean(-1)
        for layer in range(len(cls)):
            losses[f"track.frame_{t}_loss_cls_{layer}"] = cls[layer]
            losses[f"track.frame_{t}_loss_bbox_{layer}"] = box[layer]
            losses[f"track.frame_{t}_loss_past_trajs_{layer}"] = past_traj[layer]
    return losses


def _class_sum(
    logits: Tensor, gt_of_row: Tensor, row_valid: Tensor, gt: FrameTargets, ego_row: int, spec: TrackLossSpec
) -> Tensor:
    """[L, B]. The ego row is background like any unmatched row, and counts once more as the ego car's class."""
    background = logits.shape[-1]
    labels_LBR = torch.where(gt_of_row >= 0, take(gt.labels, gt_of_row), background)
    focal = {"gamma": spec.focal_gamma, "alpha": spec.focal_alpha}
    every_row = masked_sum(sigmoid_focal_loss(logits, labels_LBR, **focal), row_valid[..., None], (-2, -1))
    ego = sigmoid_focal_loss(logits[:, :, ego_row], gt.sdc_label.expand(len(logits), -1), **focal)
    return every_row + ego.sum(-1)


def _box_sum(boxes: Tensor, row_of_gt: Tensor, gt: FrameTargets, code_weights: Tensor, ego_row: int) -> Tensor:
    """[L, B]."""
    error = (take(boxes, row_of_gt) - gt.boxes).abs() * code_weights
    ego = (boxes[:, :, ego_row] - gt.sdc_box).abs() * code_weights
    return masked_sum(error, (row_of_gt >= 0)[..., None], (-2, -1)) + ego.sum(-1)


def _past_traj_mean(past_traj: Tensor, row_of_gt: Tensor, gt: FrameTargets) -> Tensor:
    """[L, B]."""
    matched = (row_of_gt >= 0)[..., None, None]
    error = (take(past_traj.flatten(-2), row_of_gt).unflatten(-1, past_traj.shape[-2:]) - gt.past_traj).abs()
    count = masked_sum((gt.past_traj_mask > 0).float(), matched, (-3, -2, -1))
    return masked_sum(error * gt.past_traj_mask, matched, (-3, -2, -1)) / (count + 1e-5)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Rows of values at index [L, B, K]; where that is -1, row 0. values [B, N] or [L, B, N, D]; one axis K replaces N."""
    index = index.clamp(min=0)
    if values.dim() == 2:
        if not values.shape[1]:
            return torch.zeros_like(index)
        return values.expand(len(index), -1, -1).gather(2, index)
    return values.gather(2, index[..., None].expand(*index.shape, values.shape[-1]))
