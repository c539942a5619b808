"""The scene from above: map, ground truth and predictions in the lidar frame. Forward is up, left is left."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from uniad.config.spec import NUSCENES_WORDS
from uniad.geometry.nuscenes import EGO_SIZE
from uniad.interface.command import ALL_COMMANDS
from uniad.viz.camera import box_corners
from uniad.viz.palette import DRIVABLE, EGO, FAINT, GROUND, GROUND_TRUTH, PLAN, TEXT, class_colour, map_colour, occupied
from uniad.viz.text import Labels, extent

SUB = 4  # fractional bits of the coordinates that lines are drawn with
TITLE_SIZE, ID_SIZE = 0.75, 0.5
# Arrow of each driving command, x to the right and y up
ARROWS = {
    "right": (1, 0),
    "left": (-1, 0),
    "straight": (0, 1),
    "lane follow": (0, 1),
    "change lane left": (-0.7, 0.7),
    "change lane right": (0.7, 0.7),
}
Range = tuple[float, ...]  # x0, y0, z0, x1, y1, z1 in metres, lidar frame


class BirdsEye:
    """A square canvas over the lidar frame's ``pc_range``."""

    def __init__(self, size: int, pc_range: Range) -> None:
        self.size, self.range = size, pc_range
        self.image = np.empty((size, size, 3), np.uint8)
        self.image[:] = GROUND
        self.words = Labels(self.image)

    def pixels(self, xy: np.ndarray) -> np.ndarray:
        """[..., 2] metres, lidar frame -> [..., 2] integer pixels (column, row)."""
        return self._places(xy).round().astype(int)

    def _places(self, xy: np.ndarray) -> np.ndarray:
        x0, y0, _, x1, y1, _ = self.range
        column = (xy[..., 0] - x0) / (x1 - x0) * self.size
        row = (y1 - xy[..., 1]) / (y1 - y0) * self.size
        return np.stack([column, row], -1)

    def draw_map(
        self, drivable: np.ndarray, lanes: np.ndarray, covers: Range | None = None,
        things: Sequence[str] = NUSCENES_WORDS.map_things,
    ) -> None:  # fmt: skip
        """drivable [h, w] and lanes [C, h, w], row 0 behind the car: any value above 0.5 is painted. covers: the range that they
        cover, where that is not the canvas's; things: what the C lanes are.
        """
        for mask, colour in ((drivable, DRIVABLE), *zip(lanes, map(map_colour, things), strict=True)):
            self.image[self._grown(mask, covers, cv2.INTER_LINEAR) > 0.5] = colour

    def _grown(self, mask: np.ndarray, covers: Range | None, interpolation: int) -> np.ndarray:
        """A grid [h, w] with row 0 behind the car as the canvas's pixels, float32; 0 where it ends."""
        flipped = mask[::-1].astype(np.float32)
        if covers is None or covers == self.range:
            return cv2.resize(flipped, (self.size, self.size), interpolation=interpolation)
        x0, y0, _, x1, y1, _ = self.range
        a0, b0, _, a1, b1, _ = covers
        height, width = mask.shape
        across, along = (x1 - x0) / (a1 - a0) * width / self.size, (y1 - y0) / (b1 - b0) * height / self.size
        # canvas pixel -> cell; a pixel's centre lies half of it in
        move = np.array([[across, 0, (x0 - a0) / (a1 - a0) * width + across / 2 - 0.5],
                         [0, along, (b1 - y1) / (b1 - b0) * height + along / 2 - 0.5]])  # fmt: skip
        return cv2.warpAffine(flipped, move, (self.size, self.size), flags=interpolation | cv2.WARP_INVERSE_MAP)

    def draw_boxes(
        self, boxes: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], ids: np.ndarray | None = None
    ) -> None:
        """[n, 9] predicted boxes, filled, with a line to the front and, where there is room, the id beside them."""
        polygons = [self.pixels(corners) for corners in (box_corners(boxes)[:, :4, :2] if len(boxes) else [])]
        for polygon, label in zip(polygons, labels):
            cv2.fillPoly(self.image, [polygon], class_colour(class_names[int(label)]), cv2.LINE_AA)
            cv2.polylines(self.image, [polygon], True, GROUND, 1, cv2.LINE_AA)
            front, centre = polygon[:2].mean(0).astype(int), polygon.mean(0).astype(int)
            cv2.line(self.image, tuple(centre.tolist()), tuple(front.tolist()), GROUND, 1, cv2.LINE_AA)
        for which, polygon in zip(ids if ids is not None else (), polygons):
            if which >= 0:
                (left, top), (right, bottom) = polygon.min(0), polygon.max(0)
                self.words.put_beside(str(int(which)), (int(left), int(top), int(right), int(bottom)), ID_SIZE)

    def outline_boxes(self, boxes: np.ndarray, colour: tuple[int, int, int] = GROUND_TRUTH, width: int = 1) -> None:
        """[n, 9] boxes as outlines: white, those of the annotations."""
        for corners in box_corners(boxes)[:, :4, :2] if len(boxes) else []:
            cv2.polylines(self.image, [self.pixels(corners)], True, colour, width, cv2.LINE_AA)

    def draw_path(self, path: np.ndarray, colour: tuple[int, int, int], width: int = 1, opacity: float = 1.0) -> None:
        """[n, 2] metres as a line, with a dot where it ends."""
        if len(path) < 2:
            return
        layer = self.image if opacity >= 1 else self.image.copy()
        points = self._line(layer, path, colour, width)
        cv2.circle(layer, tuple(points[-1].tolist()), (width + 1) * 2**SUB, colour, -1, cv2.LINE_AA, SUB)
        if layer is not self.image:
            cv2.addWeighted(layer, opacity, self.image, 1 - opacity, 0, self.image)

    def draw_line(self, path: np.ndarray, colour: tuple[int, int, int], width: int) -> None:
        """[n, 2] metres as a line alone."""
        self._line(self.image, path, colour, width)

    def _line(self, layer: np.ndarray, path: np.ndarray, colour: tuple[int, int, int], width: int) -> np.ndarray:
        """Draws a path; its points in 2**-SUB pixels."""
        points = (self._places(np.asarray(path, float)) * 2**SUB).round().astype(np.int32)
        cv2.polylines(layer, [points], False, colour, width, cv2.LINE_AA, SUB)
        return points

    def draw_plan(self, path: np.ndarray, colour: tuple[int, int, int] = PLAN) -> None:
        """[n, 2] metres from the ego car on: a line with a dot each half second."""
        whole = np.concatenate([np.zeros((1, 2)), path])
        self.draw_path(whole, colour, 3)
        for point in self.pixels(path):
            cv2.circle(self.image, tuple(point.tolist()), 4, colour, -1, cv2.LINE_AA)
            cv2.circle(self.image, tuple(point.tolist()), 4, GROUND, 1, cv2.LINE_AA)

    def draw_occupancy(self, frames: np.ndarray) -> None:
        """[F', h, w], now first, row 0 behind the car: cells occupied at any time, in the colour of the earliest."""
        for step in reversed(range(len(frames))):
            self.paint_cells(frames[step] != 0, occupied(step, len(frames)))

    def paint_cells(self, mask: np.ndarray, colour: tuple[int, int, int], covers: Range | None = None) -> None:
        """Cells [h, w], each filled as the square that it is."""
        self.image[self._grown(mask, covers, cv2.INTER_NEAREST) != 0] = colour

    def draw_command(self, command: int, words: str) -> None:
        """The driving command, a number of ``ALL_COMMANDS``, as an arrow in the upper right corner, with its words beside it."""
        x, y = ARROWS[ALL_COMMANDS[command]]
        middle, reach = (self.size - 34, 34), 18
        ends = [(round(middle[0] + sign * reach * x), round(middle[1] - sign * reach * y)) for sign in (-1, 1)]
        for colour, width in ((GROUND, 9), (PLAN, 5)):
            cv2.arrowedLine(self.image, *ends, colour, width, cv2.LINE_AA, tipLength=0.45)
        left = self.size - 66 - extent(words, TITLE_SIZE, 2)[0]
        self.words.taken.append((self.size - 62, 4, self.size, 64))
        self.words.put(words, [(left, 24)], TITLE_SIZE, TEXT, 2)

    def draw_ego(self) -> None:
        half = np.array(EGO_SIZE[:2]) / 2
        corners = np.array([[-1, -1], [-1, 1], [0, 1.5], [1, 1], [1, -1]]) * half
        cv2.fillPoly(self.image, [self.pixels(corners)], EGO, cv2.LINE_AA)
        cv2.polylines(self.image, [self.pixels(corners)], True, GROUND, 1, cv2.LINE_AA)

    def title(self, text: str, size: float = TITLE_SIZE) -> None:
        """In the upper left corner. Said before the ids, which then keep off it."""
        self.words.put(text, [(12, 12)], size, TEXT, 2)

    def draw_scale(self) -> None:
        """A bar in the lower left corner: a round number of metres."""
        metres = self.range[3] - self.range[0]
        length = next((m for m in (100, 50, 20, 10, 5, 2, 1) if m <= metres / 4), 1)
        end = 16 + round(length / metres * self.size), self.size - 16
        for colour, width in ((GROUND, 7), (FAINT, 3)):
            cv2.line(self.image, (16, end[1]), end, colour, width, cv2.LINE_AA)
        height = extent("0", ID_SIZE)[1]
        self.words.taken.append((12, end[1] - 6, end[0] + 4, self.size))
        self.words.put(f"{length} m", [(16, end[1] - height - 10)], ID_SIZE, FAINT)
