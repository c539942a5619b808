"""The scene from above: map, ground truth and predictions in the lidar frame. Forward is up, left is left."""

from __future__ import annotations

import cv2
import numpy as np

from uniad.viz.camera import box_corners
from uniad.viz.palette import CLASS_COLOURS, DRIVABLE, EGO, GROUND, GROUND_TRUTH, MAP_COLOURS, TEXT

EGO_LENGTH_M, EGO_WIDTH_M = 4.08, 1.73


class BirdsEye:
    """A square canvas over the lidar frame's ``pc_range``."""

    def __init__(self, size: int, pc_range: tuple[float, ...]) -> None:
        self.size, self.range = size, pc_range
        self.image = np.empty((size, size, 3), np.uint8)
        self.image[:] = GROUND

    def pixels(self, xy: np.ndarray) -> np.ndarray:
        """[..., 2] metres, lidar frame -> [..., 2] integer pixels (column, row)."""
        x0, y0, _, x1, y1, _ = self.range
        column = (xy[..., 0] - x0) / (x1 - x0) * self.size
        row = (y1 - xy[..., 1]) / (y1 - y0) * self.size
        return np.stack([column, row], -1).round().astype(int)

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
                cv2.putText(self.image, str(int(ids[i])), place, cv2.FONT_HERSHEY_SIMPLEX, 0.38, colour, 1, cv2.LINE_AA)

    def draw_ground_truth(self, boxes: np.ndarray) -> None:
        """[n, 9] annotated boxes as white outlines."""
        for corners in box_corners(boxes)[:, :4, :2] if len(boxes) else []:
            cv2.polylines(self.image, [self.pixels(corners)], True, GROUND_TRUTH, 1, cv2.LINE_AA)

    def draw_ego(self) -> None:
        half = np.array([EGO_WIDTH_M, EGO_LENGTH_M]) / 2
        corners = np.array([[-1, -1], [-1, 1], [0, 1.5], [1, 1], [1, -1]]) * half
        cv2.fillPoly(self.image, [self.pixels(corners)], EGO, cv2.LINE_AA)

    def title(self, text: str) -> None:
        cv2.putText(self.image, text, (10, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.55, TEXT, 1, cv2.LINE_AA)
