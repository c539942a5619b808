"""Two runs of the same frame in one picture: one row of cameras, both views from above, and what differs between them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import cv2
import numpy as np
from scipy.optimize import linear_sum_assignment

from uniad.viz.birdseye import BirdsEye, Range
from uniad.viz.camera import draw_boxes
from uniad.viz.legend import Entry, caption, legend
from uniad.viz.page import CAMERA_W, VIEW, Content, camera_tile, entries_of, occupancy_range, predicted, title_of
from uniad.viz.palette import DRIVABLE, FAINT, FIRST, SECOND, TEXT
from uniad.viz.text import Labels

# As one would look around, from behind on the left
ROW = ("CAM_BACK_LEFT", "CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_RIGHT", "CAM_BACK")
WIDTH = 3 * CAMERA_W
TILE_W, TILE_H = WIDTH // len(ROW), WIDTH // len(ROW) * 9 // 16
LEGEND_H = 190
SAME_M = 2.0  # an object of both runs: of one class, its centres no farther apart


@dataclass(frozen=True)
class Difference:
    """What one run says otherwise than the other. Grids count the cells that differ, of all cells."""

    both: np.ndarray  # [n, 2] rows of the boxes that both have
    first: np.ndarray  # rows that the first has alone
    second: np.ndarray
    shift_m: float  # farthest between the two centres of one object; 0 where there is none
    ids: int  # objects of both with another id
    map_cells: float
    occupied_cells: float | None  # None without occupancy in both
    plan_m: float | None  # mean distance between the plans

    def lines(self) -> list[str]:
        objects = f"{len(self.both)} objects in both, up to {self.shift_m:.2f} m apart, {self.ids} of them with other ids"
        cells = f"map cells {100 * self.map_cells:.1f} %"
        parts = [objects, f"{len(self.first)} only in A", f"{len(self.second)} only in B", cells]
        if self.occupied_cells is not None:
            parts.append(f"occupied cells {100 * self.occupied_cells:.1f} %")
        if self.plan_m is not None:
            parts.append(f"plans {self.plan_m:.2f} m apart")
        return [", ".join(parts)]


def difference(a: Content, b: Content) -> Difference:
    """Objects are matched one to one within a class, so that the centres lie nearest to each other overall."""
    far = 1e3
    cost = np.linalg.norm(a.boxes[:, None, :2].astype(float) - b.boxes[None, :, :2], axis=-1)
    cost[(a.labels[:, None] != b.labels[None]) | (cost > SAME_M)] = far
    rows = np.array([pair for pair in zip(*linear_sum_assignment(cost)) if cost[pair] < far], int).reshape(-1, 2)
    apart = cost[rows[:, 0], rows[:, 1]]
    maps = [np.concatenate([np.asarray(c.drivable)[None] > 0.5, np.asarray(c.lanes) > 0.5]) for c in (a, b)]
    futures = (a.future, b.future)
    both = all(future is not None for future in futures)
    occupied = [future.occupancy != 0 for future in futures] if both else []
    return Difference(
        both=rows,
        first=np.setdiff1d(np.arange(len(a.boxes)), rows[:, 0]),
        second=np.setdiff1d(np.arange(len(b.boxes)), rows[:, 1]),
        shift_m=float(apart.max()) if len(apart) else 0.0,
        ids=int((a.ids[rows[:, 0]] != b.ids[rows[:, 1]]).sum()),
        map_cells=_unlike(*maps),
        occupied_cells=_unlike(*occupied) if both else None,
        plan_m=float(np.linalg.norm(futures[0].plan - futures[1].plan, axis=-1).mean()) if both else None,
    )


def _unlike(a: np.ndarray, b: np.ndarray) -> float:
    """Share of cells that differ; of grids of two sizes the larger one's cells are all unlike."""
    return float((a != b).mean()) if a.shape == b.shape else 1.0


def render_pair(
    a: Content, b: Content, class_names: tuple[str, ...], pc_range: Range, classes: Collection[int] = ()
) -> np.ndarray:
    """[H, W, 3] RGB of two runs, A and B, of one frame. The images are A's; they are the same."""
    apart = difference(a, b)
    views = [predicted(content, class_names, pc_range, f"{name}: model").image for content, name in ((a, "A"), (b, "B"))]
    views.append(_differing(a, b, apart, pc_range).image)
    row = np.concatenate([_tile(a, b, apart, name, class_names) for name in ROW], 1)
    entries = [
        Entry("only A", (FIRST,), "outline"), Entry("only B", (SECOND,), "outline"), Entry("in both", (FAINT,), "outline"),
        Entry("occupied: only A", (_dark(FIRST),)), Entry("occupied: only B", (_dark(SECOND),)),
        *entries_of(a, class_names, classes, b),
    ]  # fmt: skip
    entries = [entry for entry in entries if entry.name and not entry.name.startswith("occupied now")]
    (about_a, *more_a), (about_b, *more_b) = a.caption.splitlines(), b.caption.splitlines()
    lines = [f"A: {about_a}", *more_a, f"B: {about_b}", *more_b, *apart.lines()]
    colours = [FIRST] * (1 + len(more_a)) + [SECOND] * (1 + len(more_b)) + [TEXT]
    return np.concatenate([row, np.concatenate(views, 1), legend(WIDTH, LEGEND_H, entries), caption(WIDTH, lines, colours)], 0)


def _tile(a: Content, b: Content, apart: Difference, name: str, class_names: tuple[str, ...]) -> np.ndarray:
    """A camera with the boxes of both; those of one alone in its colour."""
    tile, projection = camera_tile(a.images[name], a.lidar2img[name], TILE_W, TILE_H)
    words = Labels(tile)
    words.put(title_of(name), [(8, 8)], 0.5, TEXT, 1)
    for content, rows, colour in ((a, apart.both[:, 0], FAINT), (a, apart.first, FIRST), (b, apart.second, SECOND)):
        draw_boxes(tile, content.boxes[rows], content.labels[rows], content.ids[rows], projection, class_names, colour=colour)
    words.draw()
    return tile


def _differing(a: Content, b: Content, apart: Difference, pc_range: Range) -> BirdsEye:
    view = BirdsEye(VIEW, pc_range)
    view.title("difference")
    view.draw_scale()
    view.paint_cells(np.asarray(a.drivable) > 0.5, DRIVABLE)
    first, second = a.future, b.future
    if first and second and first.occupancy.shape == second.occupancy.shape:
        one, two = ((future.occupancy != 0).any(0) for future in (first, second))
        view.paint_cells(one & ~two, _dark(FIRST), occupancy_range(first))
        view.paint_cells(two & ~one, _dark(SECOND), occupancy_range(second))
    view.outline_boxes(a.boxes[apart.both[:, 0]], FAINT)
    for content, rows, colour in ((a, apart.first, FIRST), (b, apart.second, SECOND)):
        view.outline_boxes(content.boxes[rows], colour, 2)
    for i, j in apart.both:  # a line from where A sees an object to where B does
        ends = [tuple(view.pixels(content.boxes[n, :2]).tolist()) for content, n in ((a, i), (b, j))]
        if ends[0] != ends[1]:
            cv2.line(view.image, *ends, SECOND, 2, cv2.LINE_AA)
    view.draw_ego()
    for future, colour in zip((first, second), (FIRST, SECOND)):
        if future:
            view.draw_plan(future.plan, colour)
    view.words.draw()
    return view


def _dark(colour: tuple[int, int, int]) -> tuple[int, int, int]:
    red, green, blue = (int(0.55 * value) for value in colour)
    return red, green, blue
