"""Boxes drawn into camera images."""

from __future__ import annotations

import cv2
import numpy as np

from uniad.viz.palette import GROUND, class_colour
from uniad.viz.text import Labels

NEAR_M = 0.3  # edges are cut at this depth, so that a box beside the camera does not wrap around it
ID_SIZE = 0.55
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
    image: np.ndarray, boxes: np.ndarray, labels: np.ndarray, ids: np.ndarray, lidar2img: np.ndarray,
    class_names: tuple[str, ...], words: Labels | None = None, colour: tuple[int, int, int] | None = None,
) -> None:
    """Draw into ``image`` [H, W, 3] RGB in place. boxes: [n, 9] lidar frame; lidar2img: [4, 4] to this image's pixels.

    words: where ids find their places; without it none are written. colour: one for all boxes instead of their classes'.
    """  # fmt: skip
    if len(boxes) == 0:
        return
    corners = box_corners(boxes)
    points = np.concatenate([corners, np.ones((*corners.shape[:2], 1))], -1) @ lidar2img.T
    order = np.argsort(-points[..., 2].mean(1))  # far ones first, near ones over them
    thickness = max(1, round(image.shape[1] / 400))
    for i in order:
        if (points[i, :, 2] < NEAR_M).all():
            continue
        paint = colour or class_colour(class_names[int(labels[i])])
        if (points[i, :, 2] > NEAR_M).all():  # the front is filled: which way it looks
            front = (points[i, [0, 1, 5, 4], :2] / points[i, [0, 1, 5, 4], 2:3]).clip(-1e4, 1e4).round().astype(np.int32)
            _blend(image, front, paint, 0.35)
        segments = [segment for a, b in _EDGES if (segment := _clip(points[i, a], points[i, b])) is not None]
        for line, width in ((GROUND, thickness + 2), (paint, thickness)):  # a dark rim, so that a box shows on any paint
            for segment in segments:
                cv2.line(image, *segment, line, width, cv2.LINE_AA)
    if words is None:
        return
    for i in order[::-1]:  # near ones have the first choice of a place
        if ids[i] >= 0 and (points[i, :, 2] > NEAR_M).all():
            pixels = points[i, :, :2] / points[i, :, 2:3]
            (left, top), (right, bottom) = pixels.min(0), pixels.max(0)
            if 0 <= (left + right) / 2 < image.shape[1] and 0 <= (top + bottom) / 2 < image.shape[0]:
                paint = colour or class_colour(class_names[int(labels[i])])
                words.put_beside(str(int(ids[i])), (int(left), int(top), int(right), int(bottom)), ID_SIZE, paint)


def _blend(image: np.ndarray, polygon: np.ndarray, colour: tuple[int, int, int], opacity: float) -> None:
    """Fill a polygon in place; only what lies around it is copied."""
    (left, top), (right, bottom) = polygon.min(0).clip(0), polygon.max(0) + 1
    part = image[top : max(bottom, 0), left : max(right, 0)]
    if part.size:
        layer = part.copy()
        cv2.fillPoly(layer, [polygon - (left, top)], colour, cv2.LINE_AA)
        cv2.addWeighted(layer, opacity, part, 1 - opacity, 0, part)


def _clip(a: np.ndarray, b: np.ndarray) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Homogeneous end points -> pixels, cut at the near plane; None when the edge lies behind it."""
    if a[2] < NEAR_M and b[2] < NEAR_M:
        return None
    if a[2] < NEAR_M or b[2] < NEAR_M:
        t = (NEAR_M - a[2]) / (b[2] - a[2])
        cut = a + t * (b - a)
        a, b = (cut, b) if a[2] < NEAR_M else (a, cut)
    limit = 1e5
    (x0, y0), (x1, y1) = ([int(v) for v in np.clip(c[:2] / c[2], -limit, limit)] for c in (a, b))
    return (x0, y0), (x1, y1)


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
