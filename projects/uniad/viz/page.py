"""One picture of one frame: six cameras, the model's view from above beside the annotated one, and a legend."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from uniad.viz.birdseye import BirdsEye
from uniad.viz.camera import draw_boxes
from uniad.viz.palette import CLASS_COLOURS, GROUND, GROUND_TRUTH, MAP_COLOURS, TEXT

# Position of each camera of the documented order on the 2 x 3 wall, as one would look around.
WALL = {"CAM_FRONT_LEFT": (0, 0), "CAM_FRONT": (0, 1), "CAM_FRONT_RIGHT": (0, 2),
        "CAM_BACK_LEFT": (1, 0), "CAM_BACK": (1, 1), "CAM_BACK_RIGHT": (1, 2)}  # fmt: skip
CAMERA_W, CAMERA_H = 640, 360
VIEW = 720


@dataclass
class Content:
    """What a picture shows. Boxes are box9 in the lidar frame; masks have row 0 behind the car."""

    images: dict[str, np.ndarray]  # camera -> [900, 1600, 3] RGB
    lidar2img: dict[str, np.ndarray]  # camera -> [4, 4], pixels of those images
    boxes: np.ndarray
    labels: np.ndarray
    ids: np.ndarray
    drivable: np.ndarray
    lanes: np.ndarray  # [3, h, w]
    gt_boxes: np.ndarray
    gt_labels: np.ndarray
    gt_drivable: np.ndarray
    gt_lanes: np.ndarray
    caption: str


def render(content: Content, class_names: tuple[str, ...], pc_range: tuple[float, ...]) -> np.ndarray:
    """[H, W, 3] RGB."""
    wall = np.empty((2 * CAMERA_H, 3 * CAMERA_W, 3), np.uint8)
    for name, (row, column) in WALL.items():
        full = content.images[name]
        tile = cv2.resize(full, (CAMERA_W, CAMERA_H), interpolation=cv2.INTER_AREA)
        scale = np.diag([CAMERA_W / full.shape[1], CAMERA_H / full.shape[0], 1.0, 1.0])
        draw_boxes(tile, content.boxes, content.labels, content.ids, scale @ content.lidar2img[name], class_names)
        cv2.putText(tile, name.removeprefix("CAM_").replace("_", " ").lower(), (10, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.6,
                    TEXT, 2, cv2.LINE_AA)  # fmt: skip
        wall[row * CAMERA_H : (row + 1) * CAMERA_H, column * CAMERA_W : (column + 1) * CAMERA_W] = tile

    predicted, annotated = BirdsEye(VIEW, pc_range), BirdsEye(VIEW, pc_range)
    predicted.draw_map(content.drivable, content.lanes)
    predicted.draw_ground_truth(content.gt_boxes)
    predicted.draw_boxes(content.boxes, content.labels, class_names, content.ids)
    annotated.draw_map(content.gt_drivable, content.gt_lanes)
    annotated.draw_boxes(content.gt_boxes, content.gt_labels, class_names)
    for view, title in ((predicted, "predicted (white: annotated)"), (annotated, "annotated")):
        view.draw_ego()
        view.title(title)
    legend = _legend(wall.shape[1] - 2 * VIEW, content.caption)
    return np.concatenate([wall, np.concatenate([predicted.image, annotated.image, legend], 1)], 0)


def _legend(width: int, caption: str) -> np.ndarray:
    panel = np.empty((VIEW, width, 3), np.uint8)
    panel[:] = GROUND
    y = 40
    for line in caption.splitlines():
        cv2.putText(panel, line, (24, y), cv2.FONT_HERSHEY_SIMPLEX, 0.55, TEXT, 1, cv2.LINE_AA)
        y += 26
    y += 20
    entries = [(n.replace("_", " "), c) for n, c in CLASS_COLOURS.items()]
    entries += [(f"map: {n}", c) for n, c in MAP_COLOURS.items()] + [("annotated box", GROUND_TRUTH)]
    for name, colour in entries:
        cv2.rectangle(panel, (24, y - 12), (52, y + 2), colour, -1)
        cv2.putText(panel, name, (64, y), cv2.FONT_HERSHEY_SIMPLEX, 0.5, TEXT, 1, cv2.LINE_AA)
        y += 28
    return panel
