"""Reading a step's rows on the host: the result lists of upstream, in its order. Plain numpy.

This is where shapes become data-dependent, so nothing here is part of the step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from uniad.config.spec import TrackSpec


def in_center_range(boxes: NDArray, spec: TrackSpec) -> NDArray[np.bool_]:
    """boxes: [..., 9] -> [...] bool, centre inside ``post_center_range``."""
    low, high = np.split(np.asarray(spec.post_center_range, np.float32), 2)
    return ((boxes[..., :3] >= low) & (boxes[..., :3] <= high)).all(-1)


def decode(rows: Mapping[str, NDArray], chosen: NDArray, spec: TrackSpec) -> dict[str, Any]:
    """Of the rows that are ``chosen`` [R] the best ``max_num`` by score, best first, and of those the ones in range.

    rows: boxes [R, 9], score, label and obj_id [R] of one sample. Returns boxes_3d [n, 9] box9, scores and track_scores [n] (the
    same: the largest class probability), labels [n], track_ids [n], bbox_index [m] into the chosen rows and mask [m], both before
    the range test, rows [n] (detection row of each).
    """
    numbers = np.flatnonzero(chosen)
    index = np.argsort(-rows["score"][numbers], kind="stable")[: spec.max_num]
    mask = in_center_range(rows["boxes"][numbers[index]], spec)
    return gather(rows, numbers[index][mask]) | {"bbox_index": index, "mask": mask}


def gather(rows: Mapping[str, NDArray], numbers: NDArray) -> dict[str, Any]:
    """The rows of these numbers, under the names of ``decode``."""
    score = rows["score"][numbers]
    return {
        "boxes_3d": rows["boxes"][numbers],
        "scores": score,
        "labels": rows["label"][numbers].astype(np.int64),
        "track_ids": rows["obj_id"][numbers].astype(np.int64),
        "track_scores": score,
        "rows": numbers,
    }
