"""Solid shapes made of convex parts: what the cameras paint, the lidar hits and the boxes enclose.

An object's frame is x forward, y left, z up, origin on the ground under its middle. Every shape fills its box exactly:
its extreme points lie on all six sides, so an annotated box can be checked against rendered pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

if TYPE_CHECKING:
    from typing import TypeAlias

Color: TypeAlias = "tuple[float, float, float]"  # red, green, blue, 0..255


class Face(NamedTuple):
    """One plane of one part: its outline, or flat decals on it (windows, lamps). All K polygons have one colour."""

    index: np.ndarray  # [K, n] into the mesh's vertices
    normal: np.ndarray  # [3] outward
    offset: float  # normal . x on the plane
    color: Color
    glow: bool  # lamps and paint that stay bright in shade
    least_px: float  # painted only where the object is at least this tall in the image


class Part(NamedTuple):
    """A convex body. Outline faces come first; decals follow."""

    first: int  # vertices of the body itself: verts[first:last]
    last: int
    faces: list[Face]
    outlines: int  # how many of the faces bound the body
    first_face: int  # number of faces[0] among all faces of the mesh
    normals: np.ndarray  # [outlines, 3] outward; the body is where normals @ x <= offsets
    offsets: np.ndarray  # [outlines]
    low: np.ndarray  # [3] bounding box
    high: np.ndarray


class Mesh(NamedTuple):
    verts: np.ndarray  # [V, 3]
    parts: list[Part]
    normals: np.ndarray  # [F, 3] of all faces, part after part
    offsets: np.ndarray  # [F]
    colors: np.ndarray  # [F, 3]
    glow: np.ndarray  # [F] bool
    splits: np.ndarray  # [S, 4]: part below, part above, axis, position of a plane between the two
    low: np.ndarray  # [3] bounding box of everything
    high: np.ndarray

    @property
    def radius(self) -> float:
        """Of the circle round the origin that holds the footprint."""
        return float(np.linalg.norm(self.verts[:, :2], axis=1).max())


class Builder:
    """Collects parts. Points are given in metres in the object's frame."""

    def __init__(self) -> None:
        self.verts: list[np.ndarray] = []
        self.count = 0
        self.parts: list[Part] = []

    def _append(self, points: np.ndarray) -> int:
        self.verts.append(np.asarray(points, float))
        self.count += len(points)
        return self.count - len(points)

    def solid(self, points: np.ndarray, outlines: list[tuple[list[int], Color]]) -> Builder:
        """A convex body from its corners and faces (corner numbers in order round the face, and a colour)."""
        points = np.asarray(points, float)
        first = self._append(points)
        middle = points.mean(axis=0)
        faces = []
        for corners, color in outlines:
            outline = points[corners]
            (ux, uy, uz), (vx, vy, vz) = (outline[1] - outline[0]).tolist(), (outline[2] - outline[0]).tolist()
            normal = np.array([uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx])
            normal /= np.sqrt(normal @ normal)
            if normal @ (outline[0] - middle) < 0:
                normal = -normal
            faces.append(Face(np.array([corners]) + first, normal, float(normal @ outline[0]), color, False, 0.0))
        normals, offsets = np.array([f.normal for f in faces]), np.array([f.offset for f in faces])
        self.parts.append(
            Part(first, self.count, faces, len(faces), 0, normals, offsets, points.min(axis=0), points.max(axis=0))
        )
        return self

    def box(self, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], color: Color, *,
            top: tuple[tuple[float, float], tuple[float, float]] | None = None,
            roof: Color | None = None) -> Builder:  # fmt: skip
        """A box, or a frustum where ``top`` gives other x and y ranges at its upper end."""
        (tx, ty) = top or (x, y)
        points = [[x[i], y[j], z[0]] for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]
        points += [[tx[i], ty[j], z[1]] for i, j in ((0, 0), (1, 0), (1, 1), (0, 1))]
        sides = [[0, 1, 5, 4], [1, 2, 6, 5], [2, 3, 7, 6], [3, 0, 4, 7]]
        return self.solid(np.array(points), [(s, color) for s in sides] + [([4, 5, 6, 7], roof or color), ([3, 2, 1, 0], color)])

    def column(self, center: tuple[float, float], radii: list[tuple[float, float]], color: Color, sides: int = 6,
               axis: int = 2, stretch: tuple[float, float] = (1.0, 1.0)) -> Builder:  # fmt: skip
        """A body of rotation with flat sides: (position along the axis, radius) from end to end, convex.

        ``axis`` 2 stands upright round (x, y) = center; 1 lies across, round (x, z) = center: a wheel.
        """
        phi = (np.arange(sides) + 0.5) * 2 * np.pi / sides
        reach = 1 / np.cos(np.pi / sides)  # flat sides touch the radius, so that the box is filled
        rings = []
        for at, r in radii:
            u = center[0] + r * reach * stretch[0] * np.cos(phi)
            v = center[1] + r * reach * stretch[1] * np.sin(phi)
            t = np.full(sides, at)
            rings.append(np.stack([u, v, t] if axis == 2 else [u, t, v], axis=1))
        outlines = [(list(range(sides)), color), (list(range((len(radii) - 1) * sides, len(radii) * sides)), color)]
        for k in range(len(radii) - 1):
            for i in range(sides):
                j = (i + 1) % sides
                outlines.append(([k * sides + i, k * sides + j, (k + 1) * sides + j, (k + 1) * sides + i], color))
        return self.solid(np.concatenate(rings), outlines)

    def decal(self, face: int, quads: ArrayLike, color: Color, *, glow: bool = False, least_px: float = 24.0) -> Builder:
        """Flat polygons [K, n, 3] on an outline face of the last part."""
        quads = np.asarray(quads, float)
        if quads.ndim == 2:
            quads = quads[None]
        part = self.parts[-1]
        base = part.faces[face]
        first = self._append(quads.reshape(-1, 3))
        index = first + np.arange(quads.shape[0] * quads.shape[1]).reshape(quads.shape[:2])
        part.faces.append(Face(index, base.normal, base.offset, color, glow, least_px))
        return self

    def build(self) -> Mesh:
        verts = np.concatenate(self.verts)
        starts = np.cumsum([0] + [len(part.faces) for part in self.parts]).tolist()
        self.parts = [part._replace(first_face=start) for part, start in zip(self.parts, starts)]
        faces = [face for part in self.parts for face in part.faces]
        splits = []
        for i, a in enumerate(self.parts):
            for j, b in enumerate(self.parts):
                if i == j:
                    continue
                gap = b.low - a.high
                axis = int(np.argmax(gap))
                if gap[axis] >= -1e-6:
                    splits.append([i, j, axis, (a.high[axis] + b.low[axis]) / 2])
        bodies = np.concatenate([verts[part.first : part.last] for part in self.parts])
        return Mesh(
            verts=verts,
            parts=self.parts,
            normals=np.array([face.normal for face in faces]),
            offsets=np.array([face.offset for face in faces]),
            colors=np.array([face.color for face in faces]),
            glow=np.array([face.glow for face in faces]),
            splits=np.array(splits, float).reshape(-1, 4),
            low=bodies.min(axis=0),
            high=bodies.max(axis=0),
        )


# Faces of a box() in the order that it makes them.
RIGHT, FRONT, LEFT, BACK, TOP, BOTTOM = range(6)


def side_rect(y: float, x: tuple[float, float], z: tuple[float, float]) -> np.ndarray:
    """A rectangle in a plane across y: [4, 3]."""
    return np.array([[x[0], y, z[0]], [x[1], y, z[0]], [x[1], y, z[1]], [x[0], y, z[1]]])


def end_rect(x: float, y: tuple[float, float], z: tuple[float, float]) -> np.ndarray:
    """A rectangle in a plane across x: [4, 3]."""
    return np.array([[x, y[0], z[0]], [x, y[1], z[0]], [x, y[1], z[1]], [x, y[0], z[1]]])


def side_disc(y: float, x: float, z: float, radius: float, n: int = 10) -> np.ndarray:
    """A wheel seen from the side: [n, 3]."""
    phi = np.arange(n) * 2 * np.pi / n
    return np.stack([x + radius * np.cos(phi), np.full(n, y), z + radius * np.sin(phi)], axis=1)
