"""A step's rows as result lists, for tests that hold tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from uniad.config.spec import TrackSpec
from uniad.interface.types import TrackOutput
from uniad.postprocess.tracks import decode


def decode_tracks(track: TrackOutput, b: int, spec: TrackSpec) -> dict[str, Tensor]:
    """Reported tracks of sample ``b``, by the keys of ``uniad.postprocess.tracks.decode``."""
    return _decoded(track, b, track.active, spec)


def decode_detections(track: TrackOutput, b: int, spec: TrackSpec) -> dict[str, Tensor]:
    """Detections of sample ``b``, tracked or not."""
    return _decoded(track, b, track.valid, spec)


def _decoded(track: TrackOutput, b: int, chosen: Tensor, spec: TrackSpec) -> dict[str, Tensor]:
    rows = {name: getattr(track, name)[b].detach().numpy() for name in ("boxes", "score", "label", "obj_id")}
    return {key: torch.from_numpy(value) for key, value in decode(rows, chosen[b].numpy(), spec).items()}
