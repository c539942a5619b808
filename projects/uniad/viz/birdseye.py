"""The scene from above: map, ground truth and predictions in the lidar frame. Forward is up, left is left."""

from __future__ import annotations

import cv2
import numpy as np

from uniad.viz.camera import box_corners
from uniad.viz.palette import CLASS_COLOURS, DRIVABLE, EGO, FAINT, GROUND, GROUND_TRUTH, MAP_COLOURS, PLAN, TEXT, occupied

EGO_LENGTH_M, EGO_WIDTH_M = 4.08, 1.73
FONT = cv2.FONT_HERSHEY_SIMPLEX
SUB = 4  # fractional bits of the coordinates that lines are drawn with
# Arrow of each driving command, x to the right and y up: 0 right, 1 left, 2 straight
ARROWS = ((1, 0), (-1, 0), (0, 1))


def write(image: np.ndarray, text: str, place: tuple[int, int], size: float, colour: tuple[int, int, int]) -> None:
    """Text that reads on whatever lies below it; place: left end of the base line, pixels."""
    cv2.putText(image, text, place, FONT, size, GROUND, 3, cv2.LINE_AA)
    cv2.putText(image, text, place, FONT, size, colour, 1, cv2.LINE_AA)


class BirdsEye:
    """A square canvas over the lidar frame's ``pc_range``."""

    def __init__(self, size: int, pc_range: tuple[float, ...]) -> None:
        self.size, self.range = size, pc_range
        self.image = np.empty((size, size, 3), np.uint8)
        self.image[:] = GROUND

    def pixels(self, xy: np.ndarray) -> np.ndarray:
        """[..., 2] metres, lidar frame -> [..., 2] integer pixels (column, row)."""
        return self._places(xy).round().astype(int)

    def _places(self, xy: np.ndarray) -> np.ndarray:
        x0, y0, _, x1, y1, _ = self.range
        column = (xy[..., 0] - x0) / (x1 - x0) * self.size
        row = (y1 - xy[..., 1]) / (y1 - y0) * self.size
        return np.stack([column, row], -1)

    def draw_map(self, drivable: np.ndarray, lanes: np.ndarray) -> None:
        """drivable [h, w] and lanes [3, h, w], row 0 behind the car: any value above 0.5 is painted."""
        self._paint(drivable, DRIVABLE)
        for mask, colour in zip(lanes, MAP_COLOURS.values()):
            self._paint(mask, colour)

    def _paint(self, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
        grown = cv2.resize(mask[::-1].astype(np.float32), (self.size, self.size), interpolation=cv2.INTER_LINEAR)
        self.image[grown > 0.5] = colour

    def draw_boxes(
        self, boxes: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...], ids: np.ndarray | None = None
    ) -> None:
        """[n, 9] predicted boxes, filled, with a line to the front and the id beside them."""
        for i, corners in enumerate(box_corners(boxes)[:, :4, :2] if len(boxes) else []):
            colour = CLASS_COLOURS[class_names[int(labels[i])]]
            polygon = self.pixels(corners)
            overlay = self.image.copy()
            cv2.fillPoly(overlay, [polygon], colour, cv2.LINE_AA)
            cv2.addWeighted(overlay, 0.6, self.image, 0.4, 0, self.image)
            cv2.polylines(self.image, [polygon], True, colour, 1, cv2.LINE_AA)
            front, centre = self.pixels(corners[:2].mean(0)), self.pixels(corners.mean(0))
            cv2.line(self.image, tuple(centre.tolist()), tuple(front.tolist()), TEXT, 1, cv2.LINE_AA)
            if ids is not None and ids[i] >= 0:
                place = (int(polygon[:, 0].max()) + 2, int(polygon[:, 1].min()))
                write(self.image, str(int(ids[i])), place, 0.38, TEXT)

    def draw_ground_truth(self, boxes: np.ndarray) -> None:
        """[n, 9] annotated boxes as white outlines."""
        for corners in box_corners(boxes)[:, :4, :2] if len(boxes) else []:
            cv2.polylines(self.image, [self.pixels(corners)], True, GROUND_TRUTH, 1, cv2.LINE_AA)

    def draw_path(self, path: np.ndarray, colour: tuple[int, int, int], width: int = 1, opacity: float = 1.0) -> None:
        """[n, 2] metres as a line, with a dot where it ends."""
        if len(path) < 2:
            return
        layer = self.image if opacity >= 1 else self.image.copy()
        points = (self._places(np.asarray(path, float)) * 2**SUB).round().astype(np.int32)
        cv2.polylines(layer, [points], False, colour, width, cv2.LINE_AA, SUB)
        cv2.circle(layer, tuple(points[-1].tolist()), (width + 1) * 2**SUB, colour, -1, cv2.LINE_AA, SUB)
        if layer is not self.image:
            cv2.addWeighted(layer, opacity, self.image, 1 - opacity, 0, self.image)

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
            grown = cv2.resize(
                (frames[step][::-1] != 0).astype(np.uint8), (self.size, self.size), interpolation=cv2.INTER_NEAREST
            )
            self.image[grown != 0] = occupied(step, len(frames))

    def outline_occupancy(self, frames: np.ndarray) -> None:
        """As ``draw_occupancy``, but the borders only: now in white, the last frame faint."""
        for frame, colour in ((frames[-1], FAINT), (frames[0], GROUND_TRUTH)):
            grown = cv2.resize(
                (frame[::-1] != 0).astype(np.uint8), (self.size, self.size), interpolation=cv2.INTER_NEAREST
            )
            borders, _ = cv2.findContours(grown, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            cv2.drawContours(self.image, borders, -1, colour, 1, cv2.LINE_AA)

    def draw_command(self, command: int, name: str) -> None:
        """The driving command as an arrow and a word, in the upper right corner."""
        x, y = ARROWS[command]
        middle, reach = (self.size - 34, 38), 16
        ends = [(middle[0] + sign * reach * x, middle[1] - sign * reach * y) for sign in (-1, 1)]
        cv2.arrowedLine(self.image, *ends, PLAN, 4, cv2.LINE_AA, tipLength=0.45)
        width = cv2.getTextSize(name, FONT, 0.5, 1)[0][0]
        write(self.image, name, (self.size - width - 10, 76), 0.5, PLAN)

    def draw_ego(self) -> None:
        half = np.array([EGO_WIDTH_M, EGO_LENGTH_M]) / 2
        corners = np.array([[-1, -1], [-1, 1], [0, 1.5], [1, 1], [1, -1]]) * half
        cv2.fillPoly(self.image, [self.pixels(corners)], EGO, cv2.LINE_AA)

    def title(self, text: str) -> None:
        write(self.image, text, (10, 22), 0.55, TEXT)
