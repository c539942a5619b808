"""The lanes of a replayed frame on the host: as the graph merged them, or merged anew where it says that it could not settle."""

from __future__ import annotations

from typing import Mapping, Protocol  # noqa: UP035  Python 3.8 cannot index the newer one

import numpy as np

from uniad.postprocess.map_paint import merge_masks

Outputs = Mapping[str, np.ndarray]


class MergeRule(Protocol):
    """What ``uniad.interface.contract.MapMerge`` says; a bundle on a Jetson reads it from a card."""

    @property
    def num_classes(self) -> int: ...
    @property
    def quality_threshold(self) -> float: ...
    @property
    def overlap_threshold(self) -> float: ...
    @property
    def mask_threshold(self) -> float: ...


def merged_anew(outputs: Outputs, merge: MergeRule) -> np.ndarray:
    """map_lanes [1, C, h, w] float32 by the sequential rule, from the elements of a frame's outputs."""
    mask, score, label = (outputs[name][0] for name in ("map_mask", "map_score", "map_label"))
    merged = merge_masks(mask, score, label, merge.num_classes, merge.quality_threshold, merge.overlap_threshold)
    return merged.lanes[None].astype(np.float32)


def finish_lanes(outputs: Outputs, merge: MergeRule) -> dict[str, np.ndarray]:
    """The outputs with final lanes. ``map_settled`` stays what the graph put out."""
    if outputs["map_settled"].all():
        return dict(outputs)
    return {**outputs, "map_lanes": merged_anew(outputs, merge)}
