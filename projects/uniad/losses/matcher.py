"""Which detection row answers for which object, frame by frame along a clip (MOTR, Zeng et al. 2022; UniAD section 3.1).

A row that carries an object's id from an earlier frame keeps that object for as long as it is there; while it is absent the
row keeps its id and is taught to say "nothing". Objects that nobody carries are shared out among the rows that are free, once
for each decoder layer, at least total cost. Only the last layer's outcome is carried on.

Nothing here has a gradient, a data-dependent shape, or a value that visits the host.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from uniad.config.spec import UPSTREAM, TrackLossSpec
from uniad.geometry.boxes import decode_boxes, encode_boxes, nearest_bev_iou
from uniad.interface.types import FREE_ID, DetOutput, Targets
from uniad.losses.common import focal_cost, l1_cost
from uniad.ops.assignment import FORBIDDEN, linear_assignment

MATCHED_DIMS = 8  # velocity takes no part in the matching
FAR_M = 4.0  # where the overlap by distance ends, so that half of it lies at the 2 m within which nuScenes counts a true positive


class FrameTargets(NamedTuple):
    """Ground truth of one frame. Rows that are not valid hold zeros."""

    boxes: Tensor  # [B, G, 10] box10
    labels: Tensor  # [B, G] int64
    ids: Tensor  # [B, G] int64
    valid: Tensor  # [B, G] bool
    past_traj: Tensor  # [B, G, P+F, 2]
    past_traj_mask: Tensor  # [B, G, P+F, 2]
    sdc_box: Tensor  # [B, 10] box10
    sdc_label: Tensor  # [B] int64


class Match(NamedTuple):
    """Who answers for what. Layers differ only in the objects that are new."""

    gt_of_row: Tensor  # [L, B, R] int64, object index; -1 for background, also for a row whose object is absent
    row_of_gt: Tensor  # [L, B, G] int64, the inverse; -1 for padding
    answering: Tensor  # [B] int64, rows with an object, absent ones counted
    present: Tensor  # [B] int64, rows with an object that is there
    obj_id: Tensor  # [B, R] after the last layer; fresh rows have taken the id of their object
    iou: Tensor  # [B, R] overlap with the object, see ``overlaps``, last layer; stale where there is none


def frame_targets(targets: Targets, t: int) -> FrameTargets:
    """Ground truth of frame t of a clip, boxes in the code that the network regresses."""
    valid = targets.valid[:, t]
    zero_boxes = torch.zeros((), dtype=targets.boxes.dtype, device=targets.boxes.device)
    boxes = torch.where(valid[..., None], encode_boxes(targets.boxes[:, t]), zero_boxes)
    return FrameTargets(
        boxes=boxes,
        labels=targets.labels[:, t],
        ids=torch.where(valid, targets.ids[:, t], FREE_ID),
        valid=valid,
        past_traj=targets.past_traj[:, t].float(),
        past_traj_mask=targets.past_traj_mask[:, t].float(),
        sdc_box=encode_boxes(targets.sdc_box[:, t]),
        sdc_label=targets.sdc_label[:, t],
    )


@torch.no_grad()
def match_frame(
    det: DetOutput, obj_id: Tensor, iou: Tensor, row_valid: Tensor, gt: FrameTargets, spec: TrackLossSpec
) -> Match:
    """Matches one frame, all decoder layers at once.

    obj_id [B, R] int32 or int64 (FREE_ID, EGO_ID, or the object that the row carries), iou [B, R] of the frame before,
    row_valid [B, R] bool (False for an empty slot).
    """
    num_layers, num_samples, num_rows = det.cls.shape[:3]
    num_gt = gt.ids.shape[1]

    # Rows that carry an object that is here.
    carries = row_valid & (obj_id >= 0)
    same_BRG = carries[..., None] & gt.valid[:, None] & (obj_id[..., None] == gt.ids[:, None])
    index_G = torch.arange(num_gt, device=obj_id.device)
    nobody = torch.full_like(obj_id, FREE_ID, dtype=torch.int64)
    carried_gt_BR = torch.where(same_BRG, index_G, FREE_ID).amax(-1) if num_gt else nobody
    index_R = torch.arange(num_rows, device=obj_id.device)
    carrier_BG = torch.where(same_BRG, index_R[:, None], FREE_ID).amax(1)

    # Objects that nobody carries go to free rows, layer by layer.
    untracked_BG = gt.valid & (carrier_BG < 0)
    free_BR = row_valid & (obj_id == FREE_ID)
    cost_LBGR = pair_cost(det, gt, spec).masked_fill(~free_BR[:, None], FORBIDDEN)
    new_row = linear_assignment(
        cost_LBGR.flatten(0, 1), untracked_BG.expand(num_layers, -1, -1).flatten(0, 1)
    ).unflatten(0, (num_layers, num_samples))
    # With fewer free rows than objects some object is left over; it must not take a row that is closed.
    open_row = free_BR.expand(num_layers, -1, -1).gather(2, new_row.clamp(min=0))
    new_row = torch.where(open_row, new_row, FREE_ID)
    nowhere = num_rows  # one column more than there are rows, dropped again
    new_gt = torch.full((num_layers, num_samples, num_rows + 1), FREE_ID, dtype=torch.int64, device=obj_id.device)
    new_gt.scatter_(2, torch.where(new_row < 0, nowhere, new_row), index_G.expand_as(new_row))

    gt_of_row = torch.where(carries, carried_gt_BR, new_gt[..., :num_rows])
    row_of_gt = torch.where(carrier_BG >= 0, carrier_BG, new_row)
    present = (row_of_gt[-1] >= 0).sum(-1)
    absent = (carries & (carried_gt_BR < 0)).sum(-1)
    after, iou_after = _select_carried(det.boxes[-1], obj_id, iou, gt_of_row[-1], untracked_BG, gt, spec)
    return Match(gt_of_row, row_of_gt, present + absent, present, after, iou_after)


def pair_cost(det: DetOutput, gt: FrameTargets, spec: TrackLossSpec) -> Tensor:
    """Cost [L, B, G, R] of giving a row an object: class and box. Rows of padding hold numbers without meaning."""
    num_layers = det.cls.shape[0]
    labels = gt.labels.expand(num_layers, -1, -1)
    boxes = gt.boxes[..., :MATCHED_DIMS].expand(num_layers, -1, -1, -1)
    cost_cls = focal_cost(det.cls.float(), labels, gamma=spec.focal_gamma, alpha=spec.focal_alpha)
    return cost_cls * spec.cost_cls + l1_cost(det.boxes[..., :MATCHED_DIMS].float(), boxes) * spec.cost_box


def _select_carried(
    boxes: Tensor, obj_id: Tensor, iou: Tensor, gt_of_row: Tensor, untracked: Tensor, gt: FrameTargets, spec: TrackLossSpec
) -> tuple[Tensor, Tensor]:
    """Ids and overlaps [B, R] that the next frame starts from. A row whose object is absent keeps its last overlap.

    Upstream measures overlaps only in a frame that has an untracked object; published weights were trained so.
    """
    matched = gt_of_row >= 0
    if not gt.ids.shape[1]:
        return obj_id, iou
    safe = gt_of_row.clamp(min=0)
    after = torch.where(matched, gt.ids.gather(1, safe).to(obj_id.dtype), obj_id)
    gt_boxes = gt.boxes.gather(1, safe[..., None].expand(-1, -1, gt.boxes.shape[-1]))
    measured = matched & untracked.any(-1, keepdim=True) if spec.stale_overlap == UPSTREAM else matched
    return after, torch.where(measured, overlaps(boxes.float(), gt_boxes, spec), iou)


def overlaps(boxes: Tensor, gt_boxes: Tensor, spec: TrackLossSpec) -> Tensor:
    """How well boxes [..., 10] lie on their objects [..., 10], 0 to 1.

    A pedestrian 0.3 m off its place has an IoU of 0.3, so by ``iou`` few small or distant objects ever live on to a clip's next
    frame, and carried queries learn of the large and near ones alone. ``distance`` treats all sizes alike.
    """
    if spec.overlap == "iou":
        return nearest_bev_iou(decode_boxes(boxes), decode_boxes(gt_boxes))
    return (1.0 - (boxes[..., :2] - gt_boxes[..., :2]).norm(dim=-1) / FAR_M).clamp(min=0.0)
