"""Occupancy labels: where vehicles are and will be, as instance ids on a bird's-eye-view grid."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from uniad.config.spec import NUSCENES_WORDS
from uniad.geometry.boxes import footprints
from uniad.geometry.grid import BevGrid
from uniad.interface.types import ID_OF_255, IGNORE


def vehicle_labels(class_names: Sequence[str], vehicles: Sequence[str] = NUSCENES_WORDS.vehicles) -> NDArray[np.int64]:
    """Class numbers that count as vehicles: those of ``vehicles``, a vocabulary's."""
    return np.array([number for number, name in enumerate(class_names) if name in vehicles], dtype=np.int64)


def draw_instances(
    grid: BevGrid, boxes: NDArray[np.float32], ids: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Footprints of boxes [n, >=7] in the grid's frame -> segmentation (0, 1) and instance ids, both [rows, columns].

    Later boxes paint over earlier ones.
    """
    segmentation = np.zeros(grid.shape, dtype=np.int32)
    instance = np.zeros(grid.shape, dtype=np.int32)
    if len(boxes):
        # Copied: numpy calls one row of a reversed array contiguous although its stride is negative, torch refuses it
        footprint = footprints(torch.from_numpy(boxes.copy())).numpy()
        for polygon, number in zip(grid.cell_of(footprint), ids):
            cv2.fillPoly(segmentation, [polygon], 1)
            cv2.fillPoly(instance, [polygon], ID_OF_255 if number == IGNORE else int(number))
    return segmentation.astype(np.int64), instance.astype(np.int64)


def occupancy_labels(
    grid: BevGrid,
    boxes: Sequence[NDArray[np.float32] | None],
    labels: Sequence[NDArray[np.int64] | None],
    ids: Sequence[NDArray[np.int64] | None],
    vehicles: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Segmentation and instance labels [F, rows, columns] of F frames whose boxes are all in one frame of reference.

    A frame that does not exist (None, beyond the scene's end) is IGNORE everywhere.
    """
    frames = []
    for boxes_f, labels_f, ids_f in zip(boxes, labels, ids):
        if boxes_f is None or labels_f is None or ids_f is None:
            blank = np.full(grid.shape, IGNORE, dtype=np.int64)
            frames.append((blank, blank))
            continue
        keep = np.isin(labels_f, vehicles)
        frames.append(draw_instances(grid, boxes_f[keep], ids_f[keep]))
    segmentation, instance = zip(*frames)
    return np.stack(segmentation), np.stack(instance)
