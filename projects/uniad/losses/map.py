"""Map losses: class and box of every decoder layer, masks of things and stuff of every mask layer (UniAD section 3.1).

Only queries that answer for a map element get a mask in training, one slot an element. Everything is a masked sum over a
fixed capacity, divided by a count averaged over processes: finite and differentiable with no element at all.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from uniad.config.spec import MapLossSpec
from uniad.interface.types import Targets
from uniad.losses.common import binary_focal_loss, dice_loss, giou_loss, masked_sum
from uniad.losses.map_matcher import MapTargets, map_targets, match_masks, match_queries, xyxy_from_cxcywh
from uniad.models.map import MapHead, MapQueries
from uniad.models.track import take_rows

# Upstream's mask decoder weighs its class losses twice.
STUFF_CLS_FACTOR = 2.0
GIOU_EPS = 1e-6
# Masks are compared on a grid twice as fine as the BEV.
MASK_UPSAMPLING = 2


def map_losses(
    head: MapHead,
    queries: MapQueries,
    targets: Targets,
    spec: MapLossSpec,
    reduce_mean: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> dict[str, Tensor]:
    """Weighted scalars ``map.*`` of a batch, under upstream's names.

    queries: what ``head.queries(bev)`` returned for the clip's last frame. reduce_mean averages a tensor over processes; it
    is called once, with the counts that everything is divided by. Things and stuff weigh by their share of all elements.
    """
    canvas = head.canvas_size
    gt = map_targets(targets, canvas, spec.num_things)
    num_layers, batch = queries.cls.shape[:2]
    cls, boxes = queries.cls.float(), queries.boxes.float()
    query_of_gt = match_queries(cls.flatten(0, 1), boxes.flatten(0, 1), gt, canvas, spec)  # [L*B, G]

    chosen_BK = query_of_gt[-batch:]  # the last layer's queries get a mask; slot k is element k's query
    counts = torch.stack([(chosen_BK >= 0).sum(), torch.full_like(chosen_BK[0, 0], batch * spec.num_stuff)])
    num_things, num_stuff = reduce_mean(counts.float()).clamp(min=1).unbind()
    things_ratio = num_things / (num_things + num_stuff)
    stuff_ratio = num_stuff / (num_things + num_stuff)

    per_layer = _detection_losses(cls, boxes, query_of_gt, gt, canvas, num_things, spec)
    things = _thing_losses(head, queries, chosen_BK, gt, canvas, num_things, spec)
    stuff = _stuff_losses(head, queries, gt, num_stuff, spec)

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
    head: MapHead, queries: MapQueries, chosen_BK: Tensor, gt: MapTargets, canvas: Tensor, num_things: Tensor,
    spec: MapLossSpec,
) -> dict[str, Tensor]:  # fmt: skip
    """Mask losses of the chosen queries: "mask" of the last layer and "d{i}.loss_mask_things_f" of the ones before.

    Upstream's mask decoder also predicts a class and a box, and multiplies their losses by zero. They are kept: their
    weights get a gradient of zero, not none, so an optimizer that decays weights treats them alike in both stacks.
    """
    bev_hw = head.spec.bev_hw
    slot_valid, rows = chosen_BK >= 0, chosen_BK.clamp(min=0)
    masks = head.thing_masks(queries.memory, take_rows(queries.query, rows), all_layers=True)
    slot_masks = _unflatten(masks.mask, bev_hw)
    slot_of_gt = match_masks(
        take_rows(queries.cls[-1].float(), rows), take_rows(queries.boxes[-1].float(), rows), slot_masks.detach(),
        slot_valid, gt, canvas, spec,
    )  # fmt: skip
    gt_of_slot = _inverse(slot_of_gt)
    fine = _upsample(take_rows(gt.masks, gt_of_slot.clamp(min=0)), bev_hw)

    def mask_loss(mask_BKS: Tensor) -> Tensor:
        loss = dice_loss(_upsample(_unflatten(mask_BKS, bev_hw), bev_hw).flatten(2), fine.flatten(2))
        return spec.weight_mask * masked_sum(loss, gt_of_slot >= 0, (0, 1)) / num_things

    losses = {"mask": mask_loss(masks.mask)}
    for layer, (mask, query) in enumerate(zip(masks.layer_masks, masks.layer_queries)):
        losses[f"d{layer}.loss_mask_things_f"] = mask_loss(mask)
        unused_box = head.reg_branches2[layer](query).float().sum() * 0
        losses[f"d{layer}.loss_iou_f"] = unused_box
        losses[f"d{layer}.loss_bbox_f"] = unused_box
        losses[f"d{layer}.loss_cls_f"] = head.cls_thing_branches[layer](query).float().sum() * 0
    return losses


def _stuff_losses(
    head: MapHead, queries: MapQueries, gt: MapTargets, num_stuff: Tensor, spec: MapLossSpec
) -> dict[str, Tensor]:
    """Mask loss of the drivable area, and mask and class losses of the mask layers before the last."""
    bev_hw = head.spec.bev_hw
    masks = head.stuff_masks(queries.memory, all_layers=True)
    fine = _upsample(gt.drivable, bev_hw)

    def mask_loss(mask_B1S: Tensor) -> Tensor:
        loss = dice_loss(_upsample(_unflatten(mask_B1S, bev_hw), bev_hw).flatten(2), fine.flatten(2))
        return spec.weight_mask * loss.sum() / num_stuff

    losses = {"mask": mask_loss(masks.mask)}
    for layer, (mask, query) in enumerate(zip(masks.layer_masks, masks.layer_queries)):
        losses[f"d{layer}.loss_mask_stuff_f"] = mask_loss(mask)
        logits = head.cls_stuff_branches[layer](query).float()  # [B, 1, 1]: is the area there? It always is.
        focal = binary_focal_loss(logits, torch.ones_like(logits), gamma=spec.focal_gamma, alpha=spec.focal_alpha)
        losses[f"d{layer}.loss_cls_stuff_f"] = STUFF_CLS_FACTOR * spec.weight_cls * focal.sum() / num_stuff
    return losses


def _inverse(slot_BG: Tensor) -> Tensor:
    """Element of each slot from slot of each element, [B, K = G]; -1 where there is none."""
    batch, capacity = slot_BG.shape
    element = torch.arange(capacity, device=slot_BG.device).expand(batch, -1)
    inverse = torch.full((batch, capacity + 1), -1, dtype=torch.int64, device=slot_BG.device)
    return inverse.scatter_(1, torch.where(slot_BG >= 0, slot_BG, capacity), element)[:, :capacity]


def _unflatten(mask_BKS: Tensor, bev_hw: tuple[int, int]) -> Tensor:
    return mask_BKS.float().unflatten(-1, bev_hw)


def _upsample(mask_BKhw: Tensor, bev_hw: tuple[int, int]) -> Tensor:
    """Masks on the grid that they are compared on."""
    size = (MASK_UPSAMPLING * bev_hw[0], MASK_UPSAMPLING * bev_hw[1])
    return F.interpolate(mask_BKhw, size=size, mode="bilinear", align_corners=False)
