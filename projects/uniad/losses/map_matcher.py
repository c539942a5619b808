"""Which map query answers for which map element (Panoptic SegFormer, Li et al. 2022; Carion et al. 2020).

Two matchings. The first, by class and box, is made for every decoder layer and picks the queries that are worth a mask. The
second hands the chosen queries out once more, now that their masks are known. Both are batched: fixed capacity, a validity
mask, no value that visits the host.

Upstream's filter was meant to keep up to three queries an element; it leaves its loop after the first, so one query an
element is what published weights were trained with.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from uniad.config.spec import MapLossSpec
from uniad.interface.types import Targets
from uniad.losses.common import focal_cost, generalised_iou, l1_cost
from uniad.models.precision import full_precision
from uniad.ops.assignment import FORBIDDEN, linear_assignment

# Upstream's mask matcher doubles the class weight that it is configured with.
MASK_MATCHER_CLS_FACTOR = 2.0
DICE_COST_EPS = 1e-3


class MapTargets(NamedTuple):
    """Map elements of a batch. Slots that are not valid hold label 0 and numbers without meaning."""

    labels: Tensor  # [B, G] int64, things 0..C-1
    boxes: Tensor  # [B, G, 4] cx cy w h as fractions of the canvas
    masks: Tensor  # [B, G, h, w] float
    valid: Tensor  # [B, G] bool
    drivable: Tensor  # [B, 1, h, w] float, the only stuff class; every image has one


def canvas_size(canvas_hw: tuple[int, int]) -> Tensor:
    """[4] (w, h, w, h), by which a box as fractions of the canvas becomes pixels."""
    height, width = canvas_hw
    return torch.tensor([width, height, width, height], dtype=torch.float32)


def map_targets(targets: Targets, canvas: Tensor, num_things: int) -> MapTargets:
    """The part of a clip's ground truth that the map head learns from. canvas: [4] (w, h, w, h) in pixels."""
    corners = targets.lane_boxes.float() / canvas
    return MapTargets(
        labels=targets.lane_labels.clamp(0, num_things - 1).long(),
        boxes=cxcywh_from_xyxy(corners),
        masks=targets.lane_masks.float(),
        valid=targets.lane_valid,
        drivable=targets.drivable.float()[:, None],
    )


def cxcywh_from_xyxy(box: Tensor) -> Tensor:
    """Boxes [..., 4] x0 y0 x1 y1 -> cx cy w h."""
    return torch.cat([(box[..., :2] + box[..., 2:]) / 2, box[..., 2:] - box[..., :2]], dim=-1)


def xyxy_from_cxcywh(box: Tensor) -> Tensor:
    """Boxes [..., 4] cx cy w h -> x0 y0 x1 y1."""
    return torch.cat([box[..., :2] - box[..., 2:] / 2, box[..., :2] + box[..., 2:] / 2], dim=-1)


@torch.no_grad()
def match_queries(cls_NRC: Tensor, boxes_NR4: Tensor, gt: MapTargets, canvas: Tensor, spec: MapLossSpec) -> Tensor:
    """The query of each element by class and box, [N, G] int64, -1 where there is none.

    cls: logits, boxes: cx cy w h as fractions; N = layers * B, layer by layer. canvas: [4] (w, h, w, h) in pixels.
    """
    layers = cls_NRC.shape[0] // gt.labels.shape[0]
    valid = gt.valid.repeat(layers, 1)
    labels, gt_boxes = gt.labels.repeat(layers, 1), gt.boxes.repeat(layers, 1, 1)
    with full_precision(cls_NRC):
        cost = box_cost(cls_NRC, boxes_NR4, labels, gt_boxes, canvas, spec)
    return _assign(cost, valid)


@torch.no_grad()
def match_masks(
    cls_BKC: Tensor, boxes_BK4: Tensor, mask_BKhw: Tensor, slot_valid_BK: Tensor, gt: MapTargets, canvas: Tensor,
    spec: MapLossSpec,
) -> Tensor:  # fmt: skip
    """The slot of each element among K chosen queries, by class, box and mask: [B, G] int64, -1 where there is none."""
    target = gt.masks
    if target.shape[-2:] != mask_BKhw.shape[-2:]:
        target = F.interpolate(target, size=mask_BKhw.shape[-2:], mode="bilinear", align_corners=False)
    with full_precision(cls_BKC):
        cost = box_cost(cls_BKC, boxes_BK4, gt.labels, gt.boxes, canvas, spec, MASK_MATCHER_CLS_FACTOR)
        cost = cost + spec.cost_mask * dice_cost(mask_BKhw.flatten(2), target.flatten(2))
    return _assign(cost.masked_fill(~slot_valid_BK[:, None], FORBIDDEN), gt.valid)


def box_cost(
    cls: Tensor, boxes: Tensor, labels: Tensor, gt_boxes: Tensor, canvas: Tensor, spec: MapLossSpec, cls_factor: float = 1.0
) -> Tensor:
    """Cost [N, G, R] by class, box corners and overlap. cls: [N, R, C]; boxes, gt_boxes: cx cy w h as fractions."""
    overlap = generalised_iou(
        (xyxy_from_cxcywh(boxes) * canvas)[:, None], (xyxy_from_cxcywh(gt_boxes) * canvas)[:, :, None]
    )
    focal = focal_cost(cls, labels, gamma=spec.focal_gamma, alpha=spec.focal_alpha)
    return cls_factor * spec.cost_cls * focal + spec.cost_box * l1_cost(boxes, gt_boxes) - spec.cost_iou * overlap


def dice_cost(mask_BKP: Tensor, target_BGP: Tensor) -> Tensor:
    """1 - soft Dice overlap of every target with every mask, [B, G, K]; squares in the denominator."""
    overlap = target_BGP @ mask_BKP.transpose(1, 2)
    size = target_BGP.square().sum(-1)[:, :, None] + mask_BKP.square().sum(-1)[:, None] + 2 * DICE_COST_EPS
    return 1 - 2 * overlap / size


def _assign(cost_NGR: Tensor, valid_NG: Tensor) -> Tensor:
    """Least-cost column of each row; with more rows than (permitted) columns the costliest rows go without, -1."""
    rows, columns = cost_NGR.shape[1:]
    if rows > columns:
        cost_NGR = F.pad(cost_NGR, (0, rows - columns), value=FORBIDDEN)
    column = linear_assignment(cost_NGR, valid_NG)
    taken_cost = cost_NGR.gather(2, column.clamp(min=0)[..., None]).squeeze(-1)
    return torch.where(taken_cost < FORBIDDEN, column, -1)
