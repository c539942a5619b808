"""``uniad.postprocess.tracks`` for tensors: a step's rows as result lists, on the host."""

from __future__ import annotations

import torch
from torch import Tensor

from uniad.config.spec import TrackSpec
from uniad.interface.types import TrackOutput
from uniad.postprocess import tracks as decode


def decode_tracks(track: TrackOutput, b: int, spec: TrackSpec) -> dict[str, Tensor]:
    """Reported tracks of sample ``b``, best first: at most ``max_num`` by score, then those inside ``post_center_range``.

    Keys as in ``uniad.postprocess.tracks.decode``; bbox_index counts the active tracks in row order.
    """
    return _tensors(decode.decode(_rows(track, b), track.active[b].cpu().numpy(), spec))


def decode_detections(track: TrackOutput, b: int, spec: TrackSpec) -> dict[str, Tensor]:
    """Detections of sample ``b``, tracked or not, best first: at most ``max_num`` by score, then those in range.

    Keys as in ``decode_tracks``; bbox_index counts the valid rows.
    """
    return _tensors(decode.decode(_rows(track, b), track.valid[b].cpu().numpy(), spec))


def _rows(track: TrackOutput, b: int) -> dict:
    return {name: getattr(track, name)[b].detach().cpu().numpy() for name in ("boxes", "score", "label", "obj_id")}


def _tensors(decoded: dict) -> dict[str, Tensor]:
    return {key: torch.from_numpy(value) for key, value in decoded.items()}
