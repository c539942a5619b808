"""The lanes of a replayed frame on the host: as the graph merged them, or merged anew where it says that it could not settle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Mapping  # noqa: UP035  Python 3.8 cannot index the newer one

import numpy as np

from uniad.postprocess.map_paint import merge_masks

if TYPE_CHECKING:
    from uniad.interface.contract import MapMerge

Outputs = Mapping[str, np.ndarray]


def merged_anew(outputs: Outputs, merge: MapMerge) -> np.ndarray:
    """map_lanes [1, C, h, w] float32 by the sequential rule, from the elements of a frame's outputs."""
    elements = (outputs[name][0] for name in ("map_mask", "map_score", "map_label"))
    rule = merge.num_classes, merge.quality_threshold, merge.overlap_threshold
    return merge_masks(*elements, *rule).lanes[None].astype(np.float32)


def finish_lanes(outputs: Outputs, merge: MapMerge) -> dict[str, np.ndarray]:
    """The outputs with final lanes. ``map_settled`` stays what the graph put out."""
    if outputs["map_settled"].all():
        return dict(outputs)
    return {**outputs, "map_lanes": merged_anew(outputs, merge)}
