"""From map queries to a map: the M best elements, their masks, and one merged mask per class.

Merging is greedy: elements are painted in the order of their score, and one that lies more than ``overlap_threshold_things``
inside what is already painted is dropped whole. That is sequential by nature. ``merge_lanes`` computes the same as a fixed
point of a few parallel rounds, so that it fits into a static graph; ``merge_masks`` is the sequential rule itself, on the host.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from uniad.postprocess.map_paint import MASK_THRESHOLD


class Selection(NamedTuple):
    """The M best (query, class) pairs of an image by class score; a query may appear once per class."""

    score: Tensor  # [B, M] descending
    label: Tensor  # [B, M] int32
    index: Tensor  # [B, M] int32, row of the query


def best_pairs(cls_BRC: Tensor, top_k: int) -> Selection:
    """The ``top_k`` best of all query-class pairs. cls: [B, R, C] logits."""
    num_classes = cls_BRC.shape[-1]
    score, pair = cls_BRC.sigmoid().flatten(1).topk(top_k, dim=1)
    pair = pair.to(torch.int32)
    return Selection(score, pair % num_classes, torch.div(pair, num_classes, rounding_mode="floor"))


def mask_quality(mask_BMhw: Tensor) -> Tensor:
    """Mean value over the cells of each mask, [B, M]. The area counts one cell too many, as in upstream."""
    inside = (mask_BMhw > MASK_THRESHOLD).to(mask_BMhw.dtype)
    return (mask_BMhw * inside).sum((2, 3)) / (inside.sum((2, 3)) + 1)


class Lanes(NamedTuple):
    lanes: Tensor  # [B, C, h, w] float32, 0 or 1
    accepted: Tensor  # [B, M] bool, painted
    settled: Tensor  # [B] bool, the result is exactly that of the sequential rule


def merge_lanes(
    mask_BMhw: Tensor, label_BM: Tensor, kept_BM: Tensor, num_classes: int, overlap_threshold: float, rounds: int
) -> Lanes:
    """Merged binary mask per class of elements sorted by descending score.

    Which elements are painted depends, for each, on those painted before it. Start from "all that are kept" and apply the
    rule to all at once, again and again: after n rounds the first n elements are decided for good, and in practice a few
    rounds decide all. The rule has exactly one fixed point, so a round that changes nothing proves the result (``settled``).

    Cells painted by class 0 stay open to later elements (upstream: its label, 0, is also the mark of an empty cell), hence
    only higher classes block.
    """
    count = mask_BMhw.shape[1]
    inside = (mask_BMhw > MASK_THRESHOLD).to(mask_BMhw.dtype).flatten(2)  # [B, M, S]
    area = inside.sum(-1)
    kept = kept_BM & (area > 0)
    # Rank of an element, largest first; the largest rank at a cell tells who painted it first.
    rank = torch.arange(count, 0, -1, device=mask_BMhw.device, dtype=mask_BMhw.dtype)
    blocks = (label_BM > 0).to(mask_BMhw.dtype) * rank  # [B, M]
    accepted = before = kept
    for _ in range(rounds):
        before = accepted
        painter = (inside * (blocks * accepted)[..., None]).amax(1, keepdim=True)  # [B, 1, S] rank, 0 where nobody
        covered = (inside * (painter > rank[:, None])).sum(-1)
        accepted = kept & (covered <= overlap_threshold * area)
    per_class = torch.stack(
        [(inside * (rank * (accepted & (label_BM == c)))[..., None]).amax(1) for c in range(num_classes)], dim=1
    )
    painter = per_class[:, 1:].amax(1, keepdim=True)
    lanes = (per_class > 0) & (per_class >= painter)
    settled = (accepted == before).all(1)
    return Lanes(lanes.to(torch.float32).unflatten(-1, tuple(mask_BMhw.shape[2:])), accepted, settled)
