"""Boxes drawn into camera images."""

from __future__ import annotations

import cv2
import numpy as np

from uniad.viz.palette import CLASS_COLOURS

NEAR_M = 0.3  # edges are cut at this depth, so that a box beside the camera does not wrap around it
_EDGES = [(0, 1), (1, 2), (2, 3), (3, 0), (4, 5), (5, 6), (6, 7), (7, 4), (0, 4), (1, 5), (2, 6), (3, 7)]


def box_corners(boxes: np.ndarray) -> np.ndarray:
    """[n, 9] box9 -> [n, 8, 3] corners, lidar frame: 0 to 3 the bottom face, 4 to 7 the top; 0-1 (4-5) is the front edge."""
    boxes = np.asarray(boxes, np.float64)
    heading = -boxes[:, 6] - np.pi / 2  # counter-clockwise from x, the direction of travel
    forward = np.stack([np.cos(heading), np.sin(heading)], -1)
    left = np.stack([-forward[:, 1], forward[:, 0]], -1)
    half_l, half_w = boxes[:, 4:5] / 2, boxes[:, 3:4] / 2
    face = [forward * half_l + left * half_w, forward * half_l - left * half_w,
            -forward * half_l - left * half_w, -forward * half_l + left * half_w]  # fmt: skip
    flat = boxes[:, None, :2] + np.stack(face, 1)
    bottom = np.concatenate([flat, np.broadcast_to(boxes[:, None, 2:3], (*flat.shape[:2], 1))], -1)
    top = bottom + np.array([0.0, 0.0, 1.0]) * boxes[:, None, 5:6]
    return np.concatenate([bottom, top], 1)


def draw_boxes(
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, ids: np.ndarray, lidar2img: np.ndarray, class_names: tuple[str, ...]
) -> None:
    """Draw into ``image`` [H, W, 3] RGB in place. boxes: [n, 9] lidar frame; lidar2img: [4, 4] to this image's pixels."""
    if len(boxes) == 0:
        return
    corners = box_corners(boxes)
    points = np.concatenate([corners, np.ones((*corners.shape[:2], 1))], -1) @ lidar2img.T
    order = np.argsort(-points[..., 2].mean(1))  # far ones first, near ones over them
    thickness = max(1, round(image.shape[1] / 500))
    for i in order:
        if (points[i, :, 2] < NEAR_M).all():
            continue
        colour = CLASS_COLOURS[class_names[int(labels[i])]]
        for a, b in _EDGES:
            segment = _clip(points[i, a], points[i, b])
            if segment is not None:
                cv2.line(image, *segment, colour, thickness, cv2.LINE_AA)
        front = [_clip(points[i, a], points[i, b]) for a, b in ((0, 5), (1, 4))]  # a cross marks the front
        for segment in front:
            if segment is not None:
                cv2.line(image, *segment, colour, 1, cv2.LINE_AA)
        if ids[i] >= 0 and (points[i, :, 2] > NEAR_M).all():
            pixels = points[i, :, :2] / points[i, :, 2:3]
            x, y = pixels[:, 0].mean(), pixels[:, 1].min() - 4
            if 0 <= x < image.shape[1] and 0 <= y < image.shape[0]:
                cv2.putText(image, str(int(ids[i])), (int(x), int(y)), cv2.FONT_HERSHEY_SIMPLEX,
                            image.shape[1] / 1600, colour, thickness, cv2.LINE_AA)  # fmt: skip


def _clip(a: np.ndarray, b: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Homogeneous end points -> pixels, cut at the near plane; None when the edge lies behind it."""
    if a[2] < NEAR_M and b[2] < NEAR_M:
        return None
    if a[2] < NEAR_M or b[2] < NEAR_M:
        t = (NEAR_M - a[2]) / (b[2] - a[2])
        cut = a + t * (b - a)
        a, b = (cut, b) if a[2] < NEAR_M else (a, cut)
    limit = 1e5
    p, q = (tuple(int(v) for v in np.clip(c[:2] / c[2], -limit, limit)) for c in (a, b))
    return p, q


def draw_path(
    image: np.ndarray, path: np.ndarray, lidar2img: np.ndarray, colour: tuple[int, int, int], width: int = 1, opacity: float = 1.0
) -> None:
    """A line through [n, 3] points of the lidar frame, drawn into ``image`` in place."""
    points = np.concatenate([path, np.ones((len(path), 1))], 1) @ lidar2img.T
    layer = image if opacity >= 1 else image.copy()
    for a, b in zip(points, points[1:]):
        segment = _clip(a, b)
        if segment is not None:
            cv2.line(layer, *segment, colour, width, cv2.LINE_AA)
    if layer is not image:
        cv2.addWeighted(layer, opacity, image, 1 - opacity, 0, image)


def draw_ribbon(
    image: np.ndarray, path: np.ndarray, half_width: float, lidar2img: np.ndarray, colour: tuple[int, int, int],
    opacity: float = 0.5,
) -> None:  # fmt: skip
    """A strip of the ground, ``half_width`` metres to each side of [n, 3] points: where the car would drive."""
    ahead = np.gradient(path[:, :2], axis=0)
    length = np.linalg.norm(ahead, axis=1, keepdims=True)
    side = np.stack([-ahead[:, 1], ahead[:, 0]], 1) / np.maximum(length, 1e-6) * half_width
    edges = [np.concatenate([path[:, :2] + s * side, path[:, 2:], np.ones((len(path), 1))], 1) @ lidar2img.T for s in (-1, 1)]
    layer = image.copy()
    for i in range(len(path) - 1):
        corners = np.stack([edges[0][i], edges[0][i + 1], edges[1][i + 1], edges[1][i]])
        if (corners[:, 2] > NEAR_M).all():
            pixels = (corners[:, :2] / corners[:, 2:3]).clip(-1e4, 1e4)
            cv2.fillPoly(layer, [pixels.round().astype(np.int32)], colour, cv2.LINE_AA)
    cv2.addWeighted(layer, opacity, image, 1 - opacity, 0, image)
