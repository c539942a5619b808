"""Occupancy metrics: IoU and video panoptic quality (VPQ; Kim et al. 2020, as in FIERY, Hu et al. 2021), near and far.

IoU asks which cells vehicles cover; VPQ also which vehicle covers them, and that it stays the same one over time. A sample is
judged only if all frames of its labels exist. Pure array functions and sums; nothing here touches a file or a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from uniad.geometry.grid import BevGrid, Bounds
from uniad.interface.types import Targets

NEAR_SHARE = 0.3  # of the grid: 30 m of 100 m, 8 m of 25 m


@dataclass(frozen=True)
class Area:
    """A part of the grid around the car, and what it is called: metres along x by metres along y."""

    name: str
    rows: slice
    columns: slice


def areas(xbound: Bounds, ybound: Bounds) -> tuple[Area, Area]:
    """The near part and the whole of a grid given as (from, to, step) in metres.

    Near is three tenths of the grid in whole metres, then in as many cells as leave equal margins: upstream's 30x30 and
    100x100 for full, 8x8 and 25x25 for tiny.
    """
    grid = BevGrid.from_bounds(xbound, ybound)
    sides = [_near(*pair) for pair in ((grid.columns, grid.cell_x), (grid.rows, grid.cell_y))]
    whole = [(slice(0, n), n * cell) for n, cell in ((grid.columns, grid.cell_x), (grid.rows, grid.cell_y))]
    near, far = (Area(f"{w:g}x{h:g}", rows, columns) for (columns, w), (rows, h) in (sides, whole))
    return near, far


def _near(cells: int, step: float) -> tuple[slice, float]:
    """The middle cells of one axis and their extent in metres."""
    wanted = round(NEAR_SHARE * cells * step) / step
    odd = cells % 2
    count = min(max(2 * round((wanted - odd) / 2) + odd, 2 - odd), cells)
    first = (cells - count) // 2
    return slice(first, first + count), count * step


def consecutive(ids: ArrayLike) -> NDArray[np.int64]:
    """The ids that occur, renumbered 1, 2, ... in rising order; 0 stays the background."""
    ids = np.asarray(ids)
    found, index = np.unique(ids, return_inverse=True)
    return np.where(found != 0, np.cumsum(found != 0), 0)[index].reshape(ids.shape)


def cell_counts(pred: ArrayLike, gt: ArrayLike) -> NDArray[np.int64]:
    """True positives, false positives and false negatives [2 classes, 3] of masks of equal shape; non-zero is a vehicle."""
    pred, gt = np.asarray(pred) != 0, np.asarray(gt) != 0
    if pred.shape != gt.shape:
        raise ValueError(f"prediction is {list(pred.shape)}, ground truth {list(gt.shape)}")
    out = []
    for p, g in ((~pred, ~gt), (pred, gt)):
        both = int((p & g).sum())
        out.append((both, int(p.sum()) - both, int(g.sum()) - both))
    return np.array(out, np.int64)


def panoptic_sums(pred_ids: ArrayLike, gt_ids: ArrayLike) -> NDArray[np.float64]:
    """IoU of matched segments, true positives, false positives, false negatives [2 classes, 4] of one sample.

    pred_ids, gt_ids: [F, h, w], 0 background, else an id that stays with its vehicle. Segments match where their IoU exceeds
    one half. A vehicle that is matched to another prediction than when it was last matched is missed, and that prediction false.
    The background is a segment of its own, which can only match.
    """
    pred, gt = consecutive(pred_ids), consecutive(gt_ids)
    if pred.shape != gt.shape:
        raise ValueError(f"prediction is {list(pred.shape)}, ground truth {list(gt.shape)}")
    sums = np.zeros((2, 4))
    num_pred, num_gt = int(pred.max()) + 1, int(gt.max()) + 1
    last_match: dict[int, int] = {}
    for p, g in zip(pred, gt):
        both = np.bincount((g * num_pred + p).ravel(), minlength=num_gt * num_pred).reshape(num_gt, num_pred)
        of_gt, of_pred = both.sum(1), both.sum(0)
        union = of_gt[:, None] + of_pred - both
        iou = both / np.maximum(union, 1)
        match = iou > 0.5
        match[0, 1:] = match[1:, 0] = False  # a vehicle is not background
        for target, guess in zip(*np.nonzero(match)):
            kind = int(guess > 0)
            if kind and last_match.get(target, guess) != guess:
                sums[kind] += (0, 0, 1, 1)
            else:
                sums[kind] += (iou[target, guess], 1, 0, 0)
            last_match[target] = guess
        sums[1, 2] += ((of_pred > 0) & ~match.any(0))[1:].sum()
        sums[1, 3] += ((of_gt > 0) & ~match.any(1))[1:].sum()
    return sums


class OccupancyMetric:
    """Adds up samples; ``merge`` joins the sums of several processes, in any order."""

    def __init__(self, xbound: Bounds, ybound: Bounds) -> None:
        self.areas = areas(xbound, ybound)
        self.shape = BevGrid.from_bounds(xbound, ybound).shape
        self.cells = np.zeros((len(self.areas), 2, 3), np.int64)  # by area and class, as cell_counts
        self.panoptic = np.zeros((len(self.areas), 2, 4))  # by area and class, as panoptic_sums
        self.samples = np.zeros(2, np.int64)  # judged, left out

    def update(
        self, seg: ArrayLike, ids: ArrayLike, gt_seg: ArrayLike, gt_instance: ArrayLike, valid: bool = True
    ) -> None:
        """One sample, each [F, h, w] with the same F.

        seg: 1 where a vehicle is predicted; ids: 0 or the number of the vehicle that claims the cell, the same in every frame;
        gt_seg, gt_instance: labels. valid: all labelled frames exist, pasts included; otherwise the sample is left out.
        """
        self.samples[0 if valid else 1] += 1
        if not valid:
            return
        seg, ids, gt_seg, gt_ids = (np.asarray(x) for x in (seg, ids, gt_seg, gt_instance))
        for name, value in (("seg", seg), ("ids", ids), ("gt_seg", gt_seg), ("gt_instance", gt_ids)):
            if value.shape != (len(seg), *self.shape):
                raise ValueError(f"{name} is {list(value.shape)}, expected {[len(seg), *self.shape]}")
        for i, area in enumerate(self.areas):
            part = (slice(None), area.rows, area.columns)
            self.cells[i] += cell_counts(seg[part], gt_seg[part])
            self.panoptic[i] += panoptic_sums(ids[part], gt_ids[part])

    def update_sample(self, seg: NDArray, ids: NDArray, targets: Targets, receptive_field: int = 3) -> None:
        """One frame's seg and ids as for ``update``, and its labels, a batch of one.

        receptive_field: frames whose existence counts, up to and with now.
        """
        steps, truth = len(seg), targets.stage2
        assert truth is not None
        valid = bool(truth.occ_img_is_valid[0, : receptive_field + steps - 1].bool().all())
        self.update(seg, ids, truth.segmentation[0, :steps], truth.instance[0, :steps], valid)

    def merge(self, other: OccupancyMetric) -> None:
        self.cells += other.cells
        self.panoptic += other.panoptic
        self.samples += other.samples

    def scores(self, area: int) -> dict[str, NDArray[np.float64]]:
        """``iou``, ``pq``, ``sq``, ``rq`` and ``denominator`` [2 classes] of one area; NaN where a class never occurs."""
        tp, fp, fn = self.cells[area].T.astype(np.float64)
        total, matched, extra, missed = self.panoptic[area].T
        denominator = matched + extra / 2 + missed / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            quality = np.where(denominator > 0, total / np.maximum(matched, 1), np.nan)
            return {
                "iou": tp / (tp + fp + fn), "pq": total / denominator, "sq": quality, "rq": matched / denominator,
                "denominator": denominator,
            }  # fmt: skip

    def compute(self) -> dict[str, float]:
        """``occ_{iou,pq,sq,rq}_{area}`` of vehicles, shares of one; ``occ_samples`` and ``occ_left_out`` count samples."""
        out = {}
        for i, area in enumerate(self.areas):
            scores = self.scores(i)
            out |= {f"occ_{name}_{area.name}": float(scores[name][1]) for name in ("iou", "pq", "sq", "rq")}
        judged, left_out = self.samples
        return {**out, "occ_samples": int(judged), "occ_left_out": int(left_out)}
