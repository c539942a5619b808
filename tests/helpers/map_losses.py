"""Losses of a map head, as a training clip has them made."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from uniad.config.spec import MapLossSpec
from uniad.interface.types import Targets
from uniad.losses.map import map_losses, match_map
from uniad.losses.map_matcher import canvas_size
from uniad.models.map import MapHead, MapQueries


def losses_of(
    head: MapHead, queries: MapQueries, targets: Targets, spec: MapLossSpec,
    reduce_mean: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> dict[str, Tensor]:  # fmt: skip
    canvas = canvas_size(head.spec.canvas_hw)
    match = match_map(queries, targets, canvas, spec)
    return map_losses(queries, match, head.learnt_masks(queries, match.chosen.clamp(min=0)), canvas, spec, reduce_mean)
