"""Paints solid shapes into a camera image, far to near, and measures how much of each labelled one is seen.

Order comes from separating planes between footprints, not from distances: a long bus beside a small car is ordered
right. Every shape is convex parts, so no depth buffer is needed.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np

from uniad.data.synthetic.look import Look
from uniad.data.synthetic.mesh import Mesh, Part
from uniad.data.synthetic.sensors import HEIGHT, WIDTH

NEAR_M = 0.3
FAR_M = 170.0
SHIFT = 4  # fractional bits of polygon corners
SEEN_SCALE = 2  # visibility is measured at half resolution


class Item(NamedTuple):
    """A shape that stands in the world."""

    mesh: Mesh
    verts: np.ndarray  # [V, 3] world
    normals: np.ndarray  # [F, 3] of the faces, world
    offsets: np.ndarray  # [F] normal . x on the face's plane
    xy: np.ndarray  # [2]
    yaw: float
    colors: np.ndarray  # [F, 3] lit, blue green red
    corners: np.ndarray  # [4, 2] footprint, counter-clockwise
    label: int  # 0 for props, else the actor's number from 1


class View(NamedTuple):
    """A camera at an instant."""

    k: np.ndarray  # [3, 3]
    cam_from_global: np.ndarray  # [4, 4]

    @property
    def position(self) -> np.ndarray:
        rotation = self.cam_from_global[:3, :3]
        return -rotation.T @ self.cam_from_global[:3, 3]


def make_item(mesh: Mesh, pose: tuple[float, float, float], look: Look, label: int = 0) -> Item:
    """Places a shape at (x, y, yaw) and lights it."""
    x, y, yaw = pose
    c, s = np.cos(yaw), np.sin(yaw)
    turn = np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])  # row vectors
    verts = mesh.verts @ turn + [x, y, 0.0]
    normals = mesh.normals @ turn
    colors = look.shade(normals, mesh.colors, mesh.glow)[:, ::-1]
    (x0, y0, _), (x1, y1, _) = mesh.low, mesh.high
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) @ turn[:2, :2] + [x, y]
    offsets = mesh.offsets + normals[:, :2] @ [x, y]
    return Item(mesh, verts, normals, offsets, np.array([x, y]), yaw, colors, corners, label)


class Stage:
    """All items of an instant, with what every camera needs of them."""

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self.xy = np.array([item.xy for item in items]).reshape(-1, 2)
        self.radius = np.array([item.mesh.radius for item in items])
        self.low = np.array([item.mesh.low[2] for item in items])
        self.high = np.array([item.mesh.high[2] for item in items])
        self.corners = np.array([item.corners for item in items]).reshape(-1, 4, 2)

    def in_view(self, view: View) -> np.ndarray:
        """Numbers of the items that may show."""
        rotation, translation = view.cam_from_global[:3, :3], view.cam_from_global[:3, 3]
        middle = np.concatenate([self.xy, (self.low + self.high)[:, None] / 2], axis=1)
        radius = np.hypot(self.radius, (self.high - self.low) / 2)
        x, _, z = (middle @ rotation.T + translation).T
        focal = view.k[0, 0]
        shown = (z > NEAR_M - radius) & (z < FAR_M + radius)
        for side, edge in ((-x, view.k[0, 2]), (x, WIDTH - view.k[0, 2])):
            shown &= (side * focal - z * edge) / np.hypot(focal, edge) < radius
        shown &= (self.high - self.low) * focal > 2.5 * np.maximum(z, 1.0)  # below 2.5 pixels nothing is left
        return np.flatnonzero(shown)

    def order(self, shown: np.ndarray, view: View) -> list[int]:
        """The shown items, back to front."""
        n = len(shown)
        corners, eye = self.corners[shown], view.position
        edge = np.roll(corners, -1, axis=1) - corners
        normal = np.stack([edge[..., 1], -edge[..., 0]], axis=-1)
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        offset = (normal * corners).sum(-1)  # [n, 4]
        height = np.einsum("aed,bcd->aebc", normal, corners) - offset[:, :, None, None]
        beyond = height.min(-1) > -0.02  # [a, edge, b]: b lies outside this edge of a
        eye_out = (normal @ eye[:2] - offset) > 0
        after = (beyond & ~eye_out[:, :, None]).any(1)  # a hides b
        after |= (beyond & eye_out[:, :, None]).any(1).T  # b hides a
        low, high = self.low[shown], self.high[shown]
        above = low[:, None] >= high[None] - 1e-6  # a lies above b
        split = (low[:, None] + high[None]) / 2
        after |= above & (eye[2] > split)
        after |= (above & (eye[2] <= split)).T
        unknown = ~(after | after.T)
        distance = np.linalg.norm(corners - eye[:2], axis=-1).min(1)
        after |= unknown & (distance[:, None] < distance[None])
        # Both ways means that neither hides the other; so does no common image column.
        after &= ~after.T & self._overlap(corners, view)
        waits = after.sum(1)
        done = np.zeros(n, bool)
        sequence = []
        for _ in range(n):
            free = np.flatnonzero((waits == 0) & ~done)
            if len(free) == 0:
                free = np.flatnonzero(~done)  # a ring of overlaps: begin with the farthest
            pick = int(free[np.argmax(distance[free])])
            done[pick] = True
            waits -= after[:, pick]
            sequence.append(int(shown[pick]))
        return sequence

    def _overlap(self, corners: np.ndarray, view: View) -> np.ndarray:
        """Whether two footprints share image columns: [n, n]."""
        rotation, translation = view.cam_from_global[:3, :3], view.cam_from_global[:3, 3]
        flat = np.concatenate([corners, np.full((*corners.shape[:2], 1), view.position[2])], axis=-1)
        x, _, z = np.moveaxis(flat @ rotation.T + translation, -1, 0)
        column = x / np.maximum(z, 1e-3)
        left = np.where((z > NEAR_M).all(1), column.min(1), -1e9)
        right = np.where((z > NEAR_M).all(1), column.max(1), 1e9)
        return (left[:, None] <= right[None]) & (left[None] <= right[:, None])


def part_order(mesh: Mesh, eye_3: np.ndarray) -> list[int]:
    """Parts back to front for an eye in the shape's frame."""
    if len(mesh.parts) == 1:
        return [0]
    below, above, axis, at = mesh.splits.T
    front = np.where(eye_3[axis.astype(int)] > at, above, below).astype(int)
    return np.argsort(np.bincount(front, minlength=len(mesh.parts)), kind="stable").tolist()


def clip_near(polygon_n3: np.ndarray) -> np.ndarray:
    """The piece of a polygon in camera axes that lies in front of the near plane: [m, 3], m may be 0."""
    z = polygon_n3[:, 2] - NEAR_M
    kept = []
    for i in range(len(z)):
        j = (i + 1) % len(z)
        if z[i] >= 0:
            kept.append(polygon_n3[i])
        if (z[i] >= 0) != (z[j] >= 0):
            kept.append(polygon_n3[i] + (polygon_n3[j] - polygon_n3[i]) * (z[i] / (z[i] - z[j])))
    return np.array(kept).reshape(-1, 3)


def pixels(points_n3: np.ndarray, k_33: np.ndarray) -> np.ndarray:
    """Image coordinates [n, 2] of points in camera axes, all in front."""
    return points_n3[:, :2] / points_n3[:, 2:] * [k_33[0, 0], k_33[1, 1]] + k_33[:2, 2]


class Painted(NamedTuple):
    """What a camera saw of each labelled item."""

    label: int
    alone: int  # pixels it covers by itself (of the half-size image)
    seen: int  # pixels of those that nothing hides


class _Flat:
    """The shown items of a stage, end to end, seen through one camera. Row k is item ``shown[k]``."""

    def __init__(self, stage: Stage, shown: np.ndarray, view: View, look: Look) -> None:
        rotation, translation = view.cam_from_global[:3, :3], view.cam_from_global[:3, 3]
        eye = view.position
        items = [stage.items[i] for i in shown]
        self.vert_starts = np.cumsum([0] + [len(item.verts) for item in items])
        self.face_starts = np.cumsum([0] + [len(item.offsets) for item in items])
        self.points = np.concatenate([item.verts for item in items]) @ rotation.T + translation  # camera axes
        depth = self.points[:, 2]
        first = self.vert_starts[:-1]
        nearest, self.farthest = np.minimum.reduceat(depth, first), np.maximum.reduceat(depth, first)
        self.whole = (nearest >= NEAR_M).tolist()  # in front of the near plane, so that no clipping is needed
        self.flat = self.points[:, :2] / np.maximum(depth, NEAR_M)[:, None] * [view.k[0, 0], view.k[1, 1]] + view.k[:2, 2]
        self.low, self.high = np.minimum.reduceat(self.flat, first), np.maximum.reduceat(self.flat, first)
        self.fixed = np.rint(self.flat * (1 << SHIFT)).astype(np.int32)
        normals, offsets = (np.concatenate([getattr(item, name) for item in items]) for name in ("normals", "offsets"))
        self.facing = normals @ eye > offsets + 1e-6
        distance = np.hypot(*(stage.xy[shown] - eye[:2]).T)
        keep = np.repeat(np.exp(-distance / look.haze_m), np.diff(self.face_starts))[:, None]
        self.colors = np.concatenate([item.colors for item in items]) * keep + look.horizon[::-1] * (1 - keep)

    def outside(self, k: int) -> bool:
        """Whether row k surely leaves no pixel."""
        if self.farthest[k] < NEAR_M:
            return True
        (x0, y0), (x1, y1) = self.low[k], self.high[k]
        return self.whole[k] and bool(x1 < 0 or x0 > WIDTH or y1 < 0 or y0 > HEIGHT)


def paint(image: np.ndarray, stage: Stage, view: View, look: Look, measure: bool = True) -> list[Painted]:
    """Draws all items into the image [H, W, 3] BGR. Returns what is seen of labelled items (empty without measure)."""
    shown = stage.in_view(view)
    if len(shown) == 0:
        return []
    flat = _Flat(stage, shown, view, look)
    row = {int(number): k for k, number in enumerate(shown)}
    eye = view.position
    seen = np.zeros((HEIGHT // SEEN_SCALE, WIDTH // SEEN_SCALE), np.int32)
    scratch = np.zeros(seen.shape, np.uint8)
    alone: dict[int, int] = {}
    for number in stage.order(shown, view):
        k = row[number]
        if flat.outside(k):
            continue
        item, whole = stage.items[number], flat.whole[k]
        span = slice(flat.vert_starts[k], flat.vert_starts[k + 1])
        points, corners, fixed = flat.points[span], flat.flat[span], flat.fixed[span]
        tall = float(flat.high[k, 1] - flat.low[k, 1]) if whole else 1e9
        c, s = np.cos(item.yaw), np.sin(item.yaw)
        dx, dy = eye[0] - item.xy[0], eye[1] - item.xy[1]
        order = part_order(item.mesh, np.array([c * dx + s * dy, -s * dx + c * dy, eye[2]]))
        faces = slice(flat.face_starts[k], flat.face_starts[k + 1])
        facing, colors = flat.facing[faces].tolist(), flat.colors[faces].tolist()
        for p in order:
            part = item.mesh.parts[p]
            for f, face in enumerate(part.faces, part.first_face):
                if not facing[f] or tall < face.least_px:
                    continue
                if not whole:
                    _fill_clipped(image, points, face.index, colors[f], view.k)
                elif len(face.index) == 1:
                    cv2.fillConvexPoly(image, fixed[face.index[0]], colors[f], cv2.LINE_8, SHIFT)
                else:
                    cv2.fillPoly(image, list(fixed[face.index]), colors[f], cv2.LINE_8, SHIFT)
        # Props matter for visibility only in front of something labelled.
        if measure and (item.label or alone):
            hulls = [_hull(part, points, corners if whole else None, view.k) for part in item.mesh.parts]
            hulls = [hull for hull in hulls if hull is not None]
            for hull in hulls:
                cv2.fillConvexPoly(seen, hull, item.label, cv2.LINE_8, SHIFT)
            if item.label and hulls:
                alone[item.label] = _area(scratch, hulls)
    if not alone:
        return []
    counts = np.bincount(seen.ravel(), minlength=max(alone) + 1)
    return [Painted(label, area, int(counts[label])) for label, area in alone.items() if area > 0]


def _fill_clipped(image: np.ndarray, points: np.ndarray, index: np.ndarray, color, k_33: np.ndarray) -> None:
    for corners in index:
        piece = clip_near(points[corners])
        if len(piece) >= 3:
            cv2.fillConvexPoly(image, np.round(pixels(piece, k_33) * (1 << SHIFT)).astype(np.int32), color, cv2.LINE_8, SHIFT)


def _hull(part: Part, points: np.ndarray, flat: np.ndarray | None, k_33: np.ndarray) -> np.ndarray | None:
    """Outline of a part in the half-size image, fixed point; None where nothing of it is in front."""
    if flat is not None:
        corners = flat[part.first : part.last]
    else:
        faces = [clip_near(points[face.index[0]]) for face in part.faces[: part.outlines]]
        faces = [face for face in faces if len(face)]
        if not faces:
            return None
        corners = pixels(np.concatenate(faces), k_33)
    fixed = np.round(corners * ((1 << SHIFT) / SEEN_SCALE)).astype(np.int32)
    return cv2.convexHull(fixed)


def _area(scratch: np.ndarray, hulls: list[np.ndarray]) -> int:
    """Pixels under the union of the hulls; scratch is all zero before and after."""
    points = np.concatenate(hulls)[:, 0] >> SHIFT
    (x0, y0), (x1, y1) = np.maximum(points.min(axis=0) - 1, 0), np.maximum(points.max(axis=0) + 3, 0)
    window = scratch[y0:y1, x0:x1]
    if window.size == 0:
        return 0
    for hull in hulls:
        cv2.fillConvexPoly(scratch, hull, 1, cv2.LINE_8, SHIFT)
    area = cv2.countNonZero(window)
    window[:] = 0
    return area
