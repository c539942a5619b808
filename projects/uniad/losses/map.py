"""Map losses: class and box of every decoder layer, masks of things and stuff of every mask layer (UniAD section 3.1).

Only queries that answer for a map element get a mask in training, one slot an element. Everything is a masked sum over a
fixed capacity, divided by a count averaged over processes: finite and differentiable with no element at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from uniad.config.spec import MapLossSpec
from uniad.interface.types import Targets
from uniad.losses.common import binary_focal_loss, dice_loss, giou_loss, masked_sum
from uniad.losses.map_matcher import MapTargets, map_targets, match_masks, match_queries, xyxy_from_cxcywh
from uniad.models.map import LearntMasks, MapQueries
from uniad.models.track import take_rows

# Upstream's mask decoder weighs its class losses twice.
STUFF_CLS_FACTOR = 2.0
GIOU_EPS = 1e-6
# Masks are compared on a grid twice as fine as the BEV.
MASK_UPSAMPLING = 2


class MapMatch(NamedTuple):
    """Which query answers for which map element."""

    gt: MapTargets
    query_of_gt: Tensor  # [L * B, G] int64, layer by layer; -1 none

    @property
    def chosen(self) -> Tensor:
        """[B, K = G] the last layer's queries, which get a mask: slot k is element k's query; -1 none."""
        return self.query_of_gt[-len(self.gt.valid) :]


def match_map(queries: MapQueries, targets: Targets, canvas: Tensor, spec: MapLossSpec) -> MapMatch:
    """Matches the queries of every decoder layer. canvas: [4] (w, h, w, h) in pixels."""
    gt = map_targets(targets, canvas, spec.num_things)
    cls, boxes = queries.cls.float().flatten(0, 1), queries.boxes.float().flatten(0, 1)
    return MapMatch(gt, match_queries(cls, boxes, gt, canvas, spec))


def map_losses(
    queries: MapQueries,
    match: MapMatch,
    masks: LearntMasks,
    canvas: Tensor,
    spec: MapLossSpec,
    reduce_mean: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> dict[str, Tensor]:
    """Weighted scalars ``map.*`` of a batch, under upstream's names.

    queries: of the map head for the clip's last frame; masks: what its mask heads made of ``match.chosen`` (any query where that
    is -1). reduce_mean averages a tensor over processes; it is called once, with the counts that everything is divided by.
    Things and stuff weigh by their share of all elements.
    """
    gt, query_of_gt, chosen_BK = match.gt, match.query_of_gt, match.chosen
    num_layers, batch = queries.cls.shape[:2]
    cls, boxes = queries.cls.float(), queries.boxes.float()
    counts = torch.stack([(chosen_BK >= 0).sum(), torch.full_like(chosen_BK[0, 0], batch * spec.num_stuff)])
    num_things, num_stuff = reduce_mean(counts.float()).clamp(min=1).unbind()
    things_ratio = num_things / (num_things + num_stuff)
    stuff_ratio = num_stuff / (num_things + num_stuff)

    per_layer = _detection_losses(cls, boxes, query_of_gt, gt, canvas, num_things, spec)
    things = _thing_losses(queries, masks, chosen_BK, gt, canvas, num_things, spec)
    stuff = _stuff_losses(masks, gt, num_stuff, spec)

    losses = {f"map.{name}": value[-1] * things_ratio for name, value in per_layer.items()}
    losses["map.loss_mask_things"] = things.pop("mask") * things_ratio
    losses["map.loss_mask_stuff"] = stuff.pop("mask") * stuff_ratio
    losses |= {f"map.{name}": value * things_ratio for name, value in things.items()}
    losses |= {f"map.{name}": value * stuff_ratio for name, value in stuff.items()}
    for layer in range(num_layers - 1):
        losses |= {f"map.d{layer}.{name}": value[layer] * things_ratio for name, value in per_layer.items()}
    return losses


def _detection_losses(
    cls_LBRC: Tensor, boxes_LBR4: Tensor, query_NG: Tensor, gt: MapTargets, canvas: Tensor, num_things: Tensor,
    spec: MapLossSpec,
) -> dict[str, Tensor]:  # fmt: skip
    """Class, box and overlap losses, [L] each."""
    num_layers, batch, num_query, num_classes = cls_LBRC.shape
    matched = query_NG >= 0
    query = query_NG.clamp(min=0)
    # One-hot targets of all queries: each matched pair is one cell of [R, C]; unmatched rows write to a cell that is dropped.
    nowhere = num_query * num_classes
    cell = torch.where(matched, query * num_classes + gt.labels.repeat(num_layers, 1), nowhere)
    target = cls_LBRC.new_zeros(num_layers * batch, nowhere + 1).scatter_(1, cell, 1.0)[:, :nowhere]
    focal = binary_focal_loss(
        cls_LBRC.flatten(0, 1).flatten(1), target, gamma=spec.focal_gamma, alpha=spec.focal_alpha
    )
    predicted = take_rows(boxes_LBR4.flatten(0, 1), query)
    wanted = gt.boxes.repeat(num_layers, 1, 1)
    overlap = giou_loss(xyxy_from_cxcywh(predicted) * canvas, xyxy_from_cxcywh(wanted) * canvas, eps=GIOU_EPS)
    distance = masked_sum((predicted - wanted).abs(), matched[..., None], (1, 2))

    def over_batch(value_N: Tensor) -> Tensor:
        return value_N.unflatten(0, (num_layers, batch)).sum(1) / num_things

    return {
        "loss_cls": spec.weight_cls * over_batch(focal.sum(1)),
        "loss_bbox": spec.weight_box * over_batch(distance),
        "loss_iou": spec.weight_iou * over_batch(masked_sum(overlap, matched, 1)),
    }


def _thing_losses(
    queries: MapQueries, masks: LearntMasks, chosen_BK: Tensor, gt: MapTargets, canvas: Tensor, num_things: Tensor,
    spec: MapLossSpec,
) -> dict[str, Tensor]:  # fmt: skip
    """Mask losses of the chosen queries: "mask" of the last layer and "d{i}.loss_mask_things_f" of the ones before.

    Upstream's mask decoder also predicts a class and a box, and multiplies their losses by zero. They are kept: their
    weights get a gradient of zero, not none, so an optimizer that decays weights treats them alike in both stacks.
    """
    slot_valid, rows = chosen_BK >= 0, chosen_BK.clamp(min=0)
    *before, last = masks.things
    slot_of_gt = match_masks(
        take_rows(queries.cls[-1].float(), rows), take_rows(queries.boxes[-1].float(), rows), last.detach(),
        slot_valid, gt, canvas, spec,
    )  # fmt: skip
    gt_of_slot = _inverse(slot_of_gt)
    fine = _upsample(take_rows(gt.masks, gt_of_slot.clamp(min=0)), last)

    def mask_loss(mask_BKhw: Tensor) -> Tensor:
        loss = dice_loss(_upsample(mask_BKhw, last).flatten(2), fine.flatten(2))
        return spec.weight_mask * masked_sum(loss, gt_of_slot >= 0, (0, 1)) / num_things

    losses = {"mask": mask_loss(last)}
    for layer, (mask, unused_cls, unused_box) in enumerate(zip(before, masks.thing_cls, masks.thing_boxes)):
        losses[f"d{layer}.loss_mask_things_f"] = mask_loss(mask)
        losses[f"d{layer}.loss_iou_f"] = losses[f"d{layer}.loss_bbox_f"] = unused_box.float().sum() * 0
        losses[f"d{layer}.loss_cls_f"] = unused_cls.float().sum() * 0
    return losses


def _stuff_losses(masks: LearntMasks, gt: MapTargets, num_stuff: Tensor, spec: MapLossSpec) -> dict[str, Tensor]:
    """Mask loss of the drivable area, and mask and class losses of the mask layers before the last."""
    *before, last = masks.stuff
    # A model without areas keeps the weights of their heads, which then get a gradient of zero, not none, as in upstream.
    fine = _upsample(gt.drivable, last) if spec.num_stuff else last

    def mask_loss(mask_B1hw: Tensor) -> Tensor:
        if not spec.num_stuff:
            return mask_B1hw.sum()
        loss = dice_loss(_upsample(mask_B1hw, last).flatten(2), fine.flatten(2))
        return spec.weight_mask * loss.sum() / num_stuff

    losses = {"mask": mask_loss(last)}
    for layer, (mask, cls) in enumerate(zip(before, masks.stuff_cls)):
        losses[f"d{layer}.loss_mask_stuff_f"] = mask_loss(mask)
        logits = cls.float()  # [B, 1, 1]: is the area there? It always is.
        focal = binary_focal_loss(logits, torch.ones_like(logits), gamma=spec.focal_gamma, alpha=spec.focal_alpha)
        losses[f"d{layer}.loss_cls_stuff_f"] = STUFF_CLS_FACTOR * spec.weight_cls * focal.sum() / num_stuff
    return losses


def _inverse(slot_BG: Tensor) -> Tensor:
    """Element of each slot from slot of each element, [B, K = G]; -1 where there is none."""
    batch, capacity = slot_BG.shape
    element = torch.arange(capacity, device=slot_BG.device).expand(batch, -1)
    inverse = torch.full((batch, capacity + 1), -1, dtype=torch.int64, device=slot_BG.device)
    return inverse.scatter_(1, torch.where(slot_BG >= 0, slot_BG, capacity), element)[:, :capacity]


def _upsample(mask_BKhw: Tensor, like: Tensor) -> Tensor:
    """Masks on the grid that they are compared on; like: [..., h, w] on the BEV's cells."""
    size = (MASK_UPSAMPLING * like.shape[-2], MASK_UPSAMPLING * like.shape[-1])
    return F.interpolate(mask_BKhw, size=size, mode="bilinear", align_corners=False)
