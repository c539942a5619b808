"""Map segmentation metric: intersection over union per layer, summed over the data set before dividing.

A cell is predicted to be *lanes* where any of divider, crossing and contour is; the ground truth of each layer is the union
of its instances. Pure array functions; nothing here touches a file or a model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from uniad.config.spec import NUSCENES_WORDS, Vocabulary

CLASSES = NUSCENES_WORDS.map_things  # label 0, 1, 2
LAYERS = ("drivable", "lanes", *CLASSES)
EPS = 1e-13  # keeps an empty layer at 0 instead of 0 / 0


def intersection_and_union(pred: ArrayLike, gt: ArrayLike) -> tuple[int, int]:
    """Cells in both masks, and in either. pred, gt: same shape, anything non-zero counts."""
    pred, gt = np.asarray(pred) != 0, np.asarray(gt) != 0
    if pred.shape != gt.shape:
        raise ValueError(f"predicted mask is {list(pred.shape)}, ground truth {list(gt.shape)}")
    return int((pred & gt).sum()), int((pred | gt).sum())


def iou(pred: ArrayLike, gt: ArrayLike) -> float:
    """Intersection over union of two masks; 0 where both are empty."""
    intersection, union = intersection_and_union(pred, gt)
    return intersection / (union + EPS)


def frame_layers(
    lanes: ArrayLike, drivable: ArrayLike, gt_masks: ArrayLike, gt_labels: ArrayLike, gt_drivable: ArrayLike,
    classes: Sequence[str] = CLASSES,
) -> dict[str, tuple[int, int]]:
    """Intersection and union of every layer of one frame.

    lanes: [C, h, w] merged prediction per class; drivable: [h, w]; gt_masks: [G, h, w] instances; gt_labels: [G];
    gt_drivable: [h, w]. Labels of no class (padding) are ignored.
    """
    lanes, gt_masks, gt_labels = np.asarray(lanes) != 0, np.asarray(gt_masks) != 0, np.asarray(gt_labels)
    gt = np.stack([gt_masks[gt_labels == c].any(0) for c in range(len(classes))])
    counts = {
        "drivable": intersection_and_union(drivable, gt_drivable),
        "lanes": intersection_and_union(lanes.any(0), gt.any(0)),
    }
    counts.update({name: intersection_and_union(lanes[c], gt[c]) for c, name in enumerate(classes)})
    return counts


class MapIoU:
    """Adds up frames; ``merge`` joins the counts of several processes, in any order."""

    def __init__(self, words: Vocabulary = NUSCENES_WORDS) -> None:
        """words: of the data set, whose map classes are the layers."""
        self.classes = tuple(name.replace(" ", "_") for name in words.map_things)
        self.layers = (*words.map_stuff, "lanes", *self.classes)
        self.counts = np.zeros((len(self.layers), 2), np.int64)  # intersection, union

    def update(
        self, lanes: ArrayLike, drivable: ArrayLike, gt_masks: ArrayLike, gt_labels: ArrayLike, gt_drivable: ArrayLike
    ) -> None:
        """One frame; arguments as in ``frame_layers``."""
        frame = frame_layers(lanes, drivable, gt_masks, gt_labels, gt_drivable, self.classes)
        self.counts += np.array([frame[layer] for layer in self.layers])

    def merge(self, other: MapIoU) -> None:
        """Counts of no frame take the classes of the other's."""
        if self.layers != other.layers and not self.counts.any():
            self.classes, self.layers, self.counts = other.classes, other.layers, np.zeros_like(other.counts)
        if self.layers == other.layers:
            self.counts += other.counts
        elif other.counts.any():
            raise ValueError(f"map layers {other.layers} cannot be added to {self.layers}")

    def compute(self) -> dict[str, float]:
        """``{layer}_iou`` of the whole set; NaN for a layer that neither prediction nor ground truth ever shows."""
        return {
            f"{layer}_iou": float(intersection / union) if union else float("nan")
            for layer, (intersection, union) in zip(self.layers, self.counts)
        }
