"""Occupancy losses: masks of the agents and the rough masks that steer the attention, against the labels (UniAD section 3.3).

Only agents that take part count, and only frames that exist, in samples whose past frames exist too. Everything is a masked sum
over a fixed capacity: finite and differentiable with no agent and no frame.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from uniad.config.spec import OccSpec
from uniad.interface.types import ID_OF_255, Targets
from uniad.models.occ import OccRaw


class OccTargets(NamedTuple):
    """What each agent's mask is compared with; F' = now and the future steps."""

    mask: Tensor  # [B, A, F', h, w] bool, cells of the agent's object
    counts: Tensor  # [B, A, F'] bool, masks that are compared at all
    agents: Tensor  # [B, A] bool, agents that a mean is taken over, supervised or not


def occ_losses(
    raw: OccRaw, matched_gt: Tensor, targets: Targets, spec: OccSpec,
    reduce_mean: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> dict[str, Tensor]:  # fmt: skip
    """Weighted scalars ``occ.*`` of a batch, under upstream's names.

    raw: what ``OccHead.predict`` returned, with masks; matched_gt: [B, A] int64, each agent's object in the last frame, -1 none.
    reduce_mean averages a tensor over processes; it is called once, with the samples' numbers of agents [B]. A batch's loss is
    the mean of what its samples give alone.
    """
    if raw.mask_logits is None:
        raise ValueError("losses are of what the head predicts in training, with its masks")
    gt = occ_targets(matched_gt, raw.valid, targets, spec)
    count = reduce_mean(gt.agents.sum(1).float()).clamp(min=1)
    out = {}
    for name, logits, weight in (("", raw.logits, 1.0), ("aux_", raw.mask_logits, spec.weight_aux)):
        # Empty slots hold anything; taking them out first keeps them out of the gradient too.
        logits = logits.float().masked_fill(~gt.counts[..., None, None], 0.0)
        out[f"occ.loss_{name}dice"] = weight * spec.weight_dice * _dice(logits, gt, count, spec.dice_eps)
        out[f"occ.loss_{name}mask"] = weight * spec.weight_mask * _hardest(logits, gt, spec)
    return out


def occ_targets(matched_gt: Tensor, valid: Tensor, targets: Targets, spec: OccSpec) -> OccTargets:
    """matched_gt [B, A] int64, valid [B, A] bool; see ``OccTargets``."""
    steps, past, truth = spec.n_future + 1, spec.receptive_field, targets.stage2
    assert truth is not None
    instance = truth.instance[:, None, :steps]  # [B, 1, F', h, w]
    exists = truth.occ_img_is_valid[:, : past + spec.n_future].bool()
    frame = exists[:, past - 1 :] & exists[:, :past].all(1, keepdim=True)  # [B, F']
    frame = frame & ~(instance == spec.ignore_index).flatten(1).all(1)[:, None]
    id_BA = targets.ids[:, -1].gather(1, matched_gt.clamp(min=0))
    known = valid & (matched_gt >= 0) & (id_BA >= 0)
    id_BA = id_BA.masked_fill(id_BA == spec.ignore_index, ID_OF_255)
    return OccTargets(instance == id_BA[:, :, None, None, None], known[:, :, None] & frame[:, None], valid)


def _dice(logits: Tensor, gt: OccTargets, count: Tensor, eps: float) -> Tensor:
    """1 - soft Dice overlap over all frames together, summed over agents and divided by ``count`` [B]."""
    counts = gt.counts[..., None, None]
    prob = logits.sigmoid() * counts
    mask = (gt.mask & counts).to(prob.dtype)
    overlap = (prob * mask).flatten(2).sum(-1)
    size = prob.flatten(2).sum(-1) + mask.flatten(2).sum(-1)
    return ((1 - (2 * overlap + eps) / (size + eps)).sum(1) / count).mean()


def _hardest(logits: Tensor, gt: OccTargets, spec: OccSpec) -> Tensor:
    """Cross entropy of the worst cells of every mask, later frames less, as a mean over cells, frames and agents.

    Masks that are not compared count as zeros in the mean, as in upstream.
    """
    wrong = F.binary_cross_entropy_with_logits(logits, gt.mask.to(logits.dtype), reduction="none") * gt.counts[..., None, None]
    steps, cells = wrong.shape[2], wrong[0, 0, 0].numel()
    worst = wrong.flatten(3).topk(int(spec.top_k_ratio * cells), dim=-1, sorted=False).values.mean(-1)  # [B, A, F']
    discount = spec.future_discount ** torch.arange(steps, dtype=worst.dtype, device=worst.device)
    agents = gt.agents.sum(1).clamp(min=1)
    return ((worst * discount).sum((1, 2)) / (agents * steps)).mean()
