"""Planning metrics: distance to the driver's path (L2) and collision rates, in both published definitions.

At step t the ego car *collides* where occupied cells of the ground truth meet the point of its planned centre (``obj_col``) or
its footprint (``obj_box_col``), unless the driver's own path already does there. Upstream looks up cells, half a cell off and
with a footprint that never turns; on cells of 2 m that footprint covers none. ``fixed`` intersects the boxes themselves.
UniAD reports the value *at* 1, 2 and 3 s; ST-P3 and VAD report the mean over all steps *up to* that time, which is smaller.
Only sums are kept, so processes may add theirs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import shapely
import torch
from numpy.typing import ArrayLike, NDArray

from uniad.config.spec import UPSTREAM, CompatChoice
from uniad.geometry.boxes import footprints
from uniad.geometry.nuscenes import EGO_LENGTH, EGO_WIDTH, STEP_S

EGO_AHEAD = 0.5  # metres that the footprint's middle lies ahead of the lidar
STANDING_M = 0.1  # a step shorter than this does not tell where the car looks
HORIZONS_S = (1, 2, 3)
METRICS = ("L2", "obj_col", "obj_box_col")

Bound = tuple[float, float, float]


class PlanningMetric:
    """Adds up samples; ``merge`` joins the sums of several processes, in any order.

    grid: (xbound, ybound) of the segmentation as (from, to, step) in metres. compat: ``UPSTREAM`` divides every step by the
    number of samples, so that a step without ground truth counts as no error, and leaves collisions out where the path given for
    such a step, whatever it holds, collides; ``fixed`` scores and counts steps that have ground truth, and finds collisions with
    the annotated boxes where it is given them.
    """

    def __init__(
        self,
        grid: tuple[Bound, Bound],
        steps: int = 6,
        compat: CompatChoice = UPSTREAM,
    ) -> None:
        self.grid, self.compat = grid, compat
        self.sums = np.zeros((len(METRICS), steps))
        self.counts = np.zeros(steps)
        self.samples = 0

    def update(
        self,
        traj: ArrayLike,
        gt_traj: ArrayLike,
        gt_mask: ArrayLike,
        segmentation: ArrayLike,
        boxes: Sequence[NDArray[np.float32]] | None = None,
        driver: NDArray[np.bool_] | None = None,
    ) -> None:
        """One sample.

        traj, gt_traj: [F, >=2] metres, lidar frame, steps of 0.5 s from 0.5 s on; gt_mask: [F] or [F, 2], non-zero where the
        driver's path is known; segmentation: [F, h, w] of the same steps (not of the present), non-zero where occupied or
        unknown; boxes: of each of these steps, [n, >=7] box9 in the lidar frame of now, which ``fixed`` takes instead;
        driver: what ``driver_hits`` says of the same ground truth, where several plans are held against it.
        """
        traj, gt = (np.asarray(x, np.float32)[:, :2] for x in (traj, gt_traj))
        mask = np.asarray(gt_mask, np.float32)
        mask = np.broadcast_to(mask[:, None], gt.shape) if mask.ndim == 1 else mask
        occupied = np.asarray(segmentation)
        steps, (rows, cols) = self.sums.shape[1], self.cells
        if traj.shape != (steps, 2) or gt.shape != traj.shape or occupied.shape != (steps, rows, cols):
            raise ValueError(
                f"planning metric of {steps} steps on {rows} x {cols} cells was given a path {list(traj.shape)}, "
                f"a ground truth {list(gt.shape)} and a segmentation {list(occupied.shape)}"
            )
        known = (mask != 0).any(1)
        # where, because an unknown step may hold anything
        self.sums[0] += np.sqrt((np.where(mask != 0, traj - gt, 0) ** 2 * mask).sum(1))
        clean = ~(self.driver_hits(gt, occupied, boxes) if driver is None else driver)
        counted = clean & known if self.compat == "fixed" else clean
        if self.compat == "fixed" and boxes is not None:
            self.sums[1:] += box_hits(traj, boxes) & counted
        else:
            self.sums[1] += np.where(counted, self.point_value(traj, occupied), 0)
            self.sums[2] += counted & self.footprint_hits(traj, occupied)
        self.counts += known if self.compat == "fixed" else 1
        self.samples += 1

    def driver_hits(
        self, gt_traj: ArrayLike, segmentation: ArrayLike, boxes: Sequence[NDArray[np.float32]] | None = None
    ) -> NDArray[np.bool_]:
        """At which steps [F] the driver's own path meets something, which no plan is blamed for. Arguments as for ``update``."""
        # Upstream looks where the ground truth stands at every step, known or not; no number ends in the first cell there.
        finite = np.nan_to_num(np.asarray(gt_traj, np.float32)[:, :2], nan=-1e6, posinf=-1e6, neginf=-1e6)
        if self.compat == "fixed" and boxes is not None:
            return box_hits(finite, boxes)[1]
        return self.footprint_hits(finite, np.asarray(segmentation))

    def merge(self, other: PlanningMetric) -> None:
        self.sums += other.sums
        self.counts += other.counts
        self.samples += other.samples

    def per_step(self) -> dict[str, NDArray[np.float64]]:
        """Each of ``METRICS`` by step: L2 in metres, collisions as a rate. NaN where nothing was counted."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return dict(zip(METRICS, self.sums / self.counts))

    def compute(self) -> dict[str, float]:
        """``{metric}_{t}s``: the value at t = 1, 2, 3 s (UniAD); ``{metric}_avg_{t}s``: the mean up to it (ST-P3, VAD)."""
        found: dict[str, float] = {}
        for name, values in self.per_step().items():
            for t in HORIZONS_S:
                last = round(t / STEP_S)
                if last <= len(values):
                    found[f"{name}_{t}s"] = float(values[last - 1])
                    found[f"{name}_avg_{t}s"] = float(values[:last].mean())
        return found

    # Cells -----------------------------------------------------------------------------------------------------------------

    @property
    def cells(self) -> tuple[int, int]:
        """Rows (along y) and columns (along x) of the segmentation."""
        (x0, x1, dx), (y0, y1, dy) = self.grid
        return round((y1 - y0) / dy), round((x1 - x0) / dx)

    def point_value(self, traj: NDArray[np.float32], occupied: NDArray) -> NDArray[np.float64]:
        """What the segmentation holds at each step's point; 0 outside of it. Cells are counted from the middle of the first one,
        truncated: half a cell off, as in upstream."""
        (x0, _, dx), (y0, _, dy) = self.grid
        row = ((traj[:, 1] - np.float32(y0 + dy / 2)) / np.float32(dy)).astype(np.int64)
        col = ((traj[:, 0] - np.float32(x0 + dx / 2)) / np.float32(dx)).astype(np.int64)
        inside = (row >= 0) & (row < occupied.shape[1]) & (col >= 0) & (col < occupied.shape[2])
        found = occupied[np.arange(len(traj)), np.where(inside, row, 0), np.where(inside, col, 0)]
        return np.where(inside, found, 0).astype(np.float64)

    def footprint_hits(self, traj: NDArray[np.float32], occupied: NDArray) -> NDArray[np.bool_]:
        """Whether the ego car's footprint, looking along y at every step, meets an occupied cell. [F] bool.

        Cells beyond the border are moved onto it, as in upstream.
        """
        (x0, _, dx), (y0, _, dy) = self.grid
        # Cells whose centre the footprint covers when the car stands at the origin
        rows = _covered(-EGO_LENGTH / 2 + EGO_AHEAD, EGO_LENGTH / 2 + EGO_AHEAD, y0 + dy / 2, dy)
        cols = _covered(-EGO_WIDTH / 2, EGO_WIDTH / 2, x0 + dx / 2, dx)
        row = (traj[:, 1:2] / np.float32(dy) + rows).astype(np.int32).clip(0, occupied.shape[1] - 1)
        col = (traj[:, 0:1] / np.float32(dx) + cols).astype(np.int32).clip(0, occupied.shape[2] - 1)
        step = np.arange(len(traj))[:, None, None]
        return (occupied[step, row[:, :, None], col[:, None, :]] != 0).any((1, 2))


def _covered(low: float, high: float, first_centre: float, size: float) -> NDArray[np.int64]:
    """Indices of the cells whose centre lies between low and high (metres)."""
    return np.arange(np.ceil((low - first_centre) / size), np.floor((high - first_centre) / size) + 1).astype(np.int64)


def box_hits(traj: NDArray[np.float32], boxes: Sequence[NDArray[np.float32]]) -> NDArray[np.bool_]:
    """Whether the car's centre, and its footprint, meet a box at each step: [2, F] bool.

    traj [F, 2] metres; boxes: of each step [n, >=7].
    """
    hits = np.zeros((2, len(traj)), bool)
    for step, (place, corners, found) in enumerate(zip(traj, ego_corners(traj), boxes)):
        if not len(found):
            continue
        others = shapely.polygons(footprints(torch.from_numpy(np.ascontiguousarray(found))).numpy())
        hits[0, step] = shapely.intersects(shapely.points(place), others).any()
        hits[1, step] = shapely.intersects(shapely.polygons(corners), others).any()
    return hits


def ego_corners(traj: ArrayLike) -> NDArray[np.float64]:
    """The ego car's footprint at each step of a path [F, 2] (m, lidar frame): corners [F, 4, 2], one after the other around it.

    The car looks the way it has come; standing, the way it looked before.
    """
    corners, before, forward = [], np.zeros(2), np.array([0.0, 1.0])
    for place in np.asarray(traj).astype(np.float64):
        way = float(np.hypot(*(place - before)))
        forward = (place - before) / way if way > STANDING_M else forward
        before = place
        right, middle = np.array([forward[1], -forward[0]]), place + EGO_AHEAD * forward
        ahead, aside = forward * EGO_LENGTH / 2, right * EGO_WIDTH / 2
        corners.append([middle + ahead + aside, middle + ahead - aside, middle - ahead - aside, middle - ahead + aside])
    return np.array(corners).reshape(-1, 4, 2)


# Constant velocity: what a plan must beat ----------------------------------------------------------------------------------


def ego_velocity(l2g_r: ArrayLike, l2g_t: ArrayLike, prev_l2g_t: ArrayLike, dt_s: float) -> NDArray[np.float64]:
    """Velocity (x right, y forward; m/s) of the lidar between two frames, in the lidar frame of the later one.

    l2g_r [3, 3] as stored (transposed), l2g_t [3]; prev_l2g_t [3] of the frame ``dt_s`` seconds before.
    """
    if not dt_s > 0:
        raise ValueError(f"the frame before must be older, not {dt_s} s")
    moved = np.asarray(l2g_t, np.float64) - np.asarray(prev_l2g_t, np.float64)
    return (moved @ np.linalg.inv(np.asarray(l2g_r, np.float64)))[:2] / dt_s


def ego_velocity_from_can_bus(can_bus: ArrayLike) -> NDArray[np.float64]:
    """Velocity (x right, y forward; m/s) from can_bus [18], which has it x forward, y left: for a scene's first frame."""
    forward, left = np.asarray(can_bus, np.float64)[13:15]
    return np.array([-left, forward])


def constant_velocity_plan(velocity: ArrayLike, steps: int = 6) -> NDArray[np.float32]:
    """Path [steps, 2] in metres of a car that keeps its velocity (m/s, lidar frame), from the origin on."""
    times = np.arange(1, steps + 1) * STEP_S
    return (times[:, None] * np.asarray(velocity, np.float64)[None, :2]).astype(np.float32)
