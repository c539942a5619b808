"""The sequential rule by which map elements make one map, on the host, in plain numpy: a device without PyTorch has it, too."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# A cell belongs to a mask above this value. Mask values come out of a ReLU, not of a sigmoid, but dice trains them to 0 and 1.
MASK_THRESHOLD = 0.5


class Panoptic(NamedTuple):
    """Result of the sequential rule for one image."""

    lanes: np.ndarray  # [C, h, w] uint8
    lane_score: np.ndarray  # [C, h, w] float32, mask value of the element painted last
    label: np.ndarray  # [h, w] int16, class of a cell; 0 also where nothing is
    instance: np.ndarray  # [h, w] int16, from 1 in the order of painting; 0 where nothing is
    accepted: np.ndarray  # [M] bool


def merge_masks(
    mask_Mhw: np.ndarray,
    score_M: np.ndarray,
    label_M: np.ndarray,
    num_classes: int = 3,
    quality_threshold: float = 0.1,
    overlap_threshold: float = 0.4,
) -> Panoptic:
    """The sequential merge on the host, for one image.

    mask: [M, h, w] values; score: [M] descending; label: [M]. Besides the lanes it gives what only a person or a panoptic
    metric wants: instance ids and the score of every cell.
    """
    grid = mask_Mhw.shape[1:]
    lanes, lane_score = np.zeros((num_classes, *grid), np.uint8), np.zeros((num_classes, *grid), np.float32)
    label, instance = np.zeros(grid, np.int16), np.zeros(grid, np.int16)
    accepted = np.zeros(len(mask_Mhw), bool)
    for i, values in enumerate(mask_Mhw):
        inside = values > MASK_THRESHOLD
        area, covered = int(inside.sum()), int((inside & (label > 0)).sum())
        if score_M[i] < quality_threshold or area == 0 or covered / area > overlap_threshold:
            continue
        accepted[i] = True
        paint = inside & (label == 0)
        label[paint] = label_M[i]
        instance[paint] = accepted.sum()
        lanes[label_M[i]][paint] = 1
        lane_score[label_M[i]][paint] = values[paint]
    return Panoptic(lanes, lane_score, label, instance, accepted)
