"""Reading a step's rows on the host: the result lists of the documented implementation, in its order.

This is where shapes become data-dependent, so nothing here is part of the step.
"""

from __future__ import annotations

import torch
from torch import Tensor

from uniad.models.track import EGO_ID
from uniad.spec import TrackSpec
from uniad.types import TrackOutput


def in_center_range(boxes: Tensor, spec: TrackSpec) -> Tensor:
    """boxes: [..., 9] -> [...] bool, centre inside ``post_center_range``."""
    low, high = spec.post_center_range[:3], spec.post_center_range[3:]
    axes = zip(boxes[..., :3].unbind(-1), low, high)
    return torch.stack([(x >= a) & (x <= b) for x, a, b in axes], dim=-1).all(dim=-1)


def decode_tracks(track: TrackOutput, b: int, spec: TrackSpec) -> dict[str, Tensor]:
    """Reported tracks of sample ``b``, best first: at most ``max_num`` by score, then those inside ``post_center_range``.

    boxes_3d [n, 9] box9, scores and track_scores [n] (the same: the largest class probability), labels [n], track_ids [n],
    bbox_index [m] into the active tracks in row order and mask [m], both before the range test, rows [n] (detection row of each).
    """
    return _decode(track, b, track.active[b], spec)


def decode_detections(track: TrackOutput, b: int, spec: TrackSpec) -> dict[str, Tensor]:
    """Detections of sample ``b``, tracked or not, best first: at most ``max_num`` by score, then those in range.

    Keys as in ``decode_tracks``; bbox_index counts the valid rows.
    """
    return _decode(track, b, track.valid[b], spec)


def decode_ego(track: TrackOutput, b: int) -> dict[str, Tensor]:
    """The ego query's own box of sample ``b``, whatever its range: keys as in ``decode_tracks``, n = 1."""
    rows = (track.obj_id[b] == EGO_ID).nonzero()[:, 0]
    return _gather(track, b, rows)


def _decode(track: TrackOutput, b: int, chosen: Tensor, spec: TrackSpec) -> dict[str, Tensor]:
    rows = chosen.nonzero()[:, 0]
    index = track.score[b][rows].topk(min(len(rows), spec.max_num)).indices
    mask = in_center_range(track.boxes[b][rows[index]], spec)
    return _gather(track, b, rows[index][mask]) | {"bbox_index": index, "mask": mask}


def _gather(track: TrackOutput, b: int, rows: Tensor) -> dict[str, Tensor]:
    score = track.score[b][rows]
    return {
        "boxes_3d": track.boxes[b][rows],
        "scores": score,
        "labels": track.label[b][rows].long(),
        "track_ids": track.obj_id[b][rows].long(),
        "track_scores": score,
        "rows": rows,
    }
