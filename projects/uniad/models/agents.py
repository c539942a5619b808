"""Which tracks the stage-2 heads reason about: a fixed number of slots, best score first, and the ego car in the last."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from uniad.config.spec import TrackSpec
from uniad.geometry.boxes import decode_boxes
from uniad.interface.types import EGO_ID, FREE_ID, Agents, DetOutput, TrackOutput
from uniad.models.track import take_rows

NO_MATCH = -1


def select_agents(track: TrackOutput, capacity: int, spec: TrackSpec) -> Agents:
    """At test: the tracks reported in this frame, in A = capacity + 1 slots.

    As in upstream, the ``spec.max_num`` best are taken first and those outside ``spec.post_center_range`` left out afterwards.
    """
    return _fill(
        track.active, capacity, spec, boxes=track.boxes, score=track.score, label=track.label, obj_id=track.obj_id,
        query=track.embedding,
    )  # fmt: skip


def select_training_agents(
    det: DetOutput, valid: Tensor, obj_id: Tensor, iou: Tensor, gt_of_row: Tensor, capacity: int, spec: TrackSpec
) -> tuple[Agents, Tensor]:
    """In a training clip's last frame: the tracks that overlap their object well enough, in A = capacity + 1 slots.

    All of the last frame: det; valid [B, R] bool of its rows; obj_id, iou and gt_of_row [B, R] of its match (the last layer's).
    Returns the agents and the object index [B, A] int64 of each; -1 for an empty slot and for the ego car, whose future is
    apart. Boxes carry gradient, as in upstream: where an agent is, is part of what it asks with.
    """
    score, label = det.cls[-1].detach().float().sigmoid().max(-1)
    chosen = valid & (obj_id >= 0) & (gt_of_row >= 0) & (iou >= spec.gt_iou_threshold)
    agents = _fill(
        chosen, capacity, spec, boxes=decode_boxes(det.boxes[-1].float()), score=score, label=label.to(torch.int32),
        obj_id=obj_id.to(torch.int32), query=det.query_feat[-1],
    )  # fmt: skip
    real = agents.valid & (agents.obj_id != EGO_ID)
    return agents, torch.where(real, gt_of_row.gather(1, agents.row), NO_MATCH)


def _fill(
    chosen: Tensor, capacity: int, spec: TrackSpec, *, boxes: Tensor, score: Tensor, label: Tensor, obj_id: Tensor, query: Tensor
) -> Agents:
    best = score.detach().masked_fill(~chosen, -1.0).topk(min(spec.max_num, score.shape[1]), dim=1)
    centre = take_rows(boxes.detach(), best.indices.to(torch.int32))[..., :3]
    low, high = spec.post_center_range[:3], spec.post_center_range[3:]
    near = torch.stack([(c >= lo) & (c <= hi) for c, lo, hi in zip(centre.unbind(-1), low, high)], -1).all(-1)
    fits = near & (best.values >= 0)
    kept = best.values.masked_fill(~fits, -1.0).topk(min(capacity, fits.shape[1]), dim=1)
    row, valid = best.indices.gather(1, kept.indices), kept.values >= 0
    if missing := capacity - row.shape[1]:  # only in toy sizes
        row, valid = pad(row, (0, missing)), pad(valid, (0, missing))
    ego = torch.full_like(row[:, :1], spec.num_query)  # the ego query is the last of the fresh ones
    row = torch.cat([row, ego], 1)
    valid = torch.cat([valid, torch.ones_like(valid[:, :1])], 1)
    index = row.to(torch.int32)
    return Agents(
        query=take_rows(query, index),
        boxes=take_rows(boxes, index),
        label=take_rows(label, index),
        score=take_rows(score, index),
        obj_id=torch.where(valid, take_rows(obj_id, index), FREE_ID),
        valid=valid,
        row=row,
        dropped=fits.sum(1, dtype=torch.int32) - (kept.values >= 0).sum(1, dtype=torch.int32),
    )
