"""Map labels: lane dividers, crossings and road contours as instance masks, and the drivable area.

Geometry comes from the devkit's ``NuScenesMap`` once per map, then lives as shapely geometries with a spatial index: the
devkit assembles every polygon of a map from its nodes again for each query, which costs seconds a frame.

Canvas: as upstream's labels, row 0 is behind the car, column 0 on its left (the BEV grid's own layout).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import shapely
from numpy.typing import NDArray
from shapely import affinity
from shapely.geometry import LinearRing, LineString, Polygon, box
from shapely.geometry.base import BaseGeometry
from shapely.ops import linemerge, unary_union

from uniad.errors import UserError

DIVIDER, CROSSING, CONTOUR = 0, 1, 2
NUM_CLASSES = 3
SAMPLE_DIST_M = 1.0
# Contours stop a little before the patch's border, or the border itself would look like one.
CONTOUR_MARGIN_M = 0.2
# A thicker class hides the ones below it within this many more pixels.
OVERLAP_THICKNESS = 4
LOCATIONS = ("boston-seaport", "singapore-hollandvillage", "singapore-onenorth", "singapore-queenstown")


class MapLabels(NamedTuple):
    """Ground truth of the map head for one frame."""

    labels: NDArray[np.int64]  # [n] 0 divider, 1 crossing, 2 contour
    boxes: NDArray[np.int64]  # [n, 4] pixels x0 y0 x1 y1, inclusive
    masks: NDArray[np.uint8]  # [n, h, w]
    drivable: NDArray[np.uint8]  # [h, w]


class Vector(NamedTuple):
    """One polyline in the patch's axes, metres from its centre."""

    points: NDArray[np.float64]  # [k, 2]
    kind: int


@dataclass(frozen=True)
class _Layer:
    """Geometries of one map layer in global coordinates, in the file's order, with a spatial index."""

    geometries: list[BaseGeometry]
    index: shapely.STRtree

    @classmethod
    def of(cls, geometries: list[BaseGeometry]) -> _Layer:
        return cls(geometries, shapely.STRtree(geometries))

    def within(self, patch: _Patch) -> list[BaseGeometry]:
        """What lies in the patch, cut to it, in the patch's axes, still in the file's order (it decides what is drawn last)."""
        area = patch.area()
        cut = (self.geometries[hit].intersection(area) for hit in np.sort(self.index.query(area)))
        return [patch.to_local(geometry) for geometry in cut if not geometry.is_empty]


@dataclass(frozen=True)
class _Patch:
    """A rectangle on the map: centre and size in metres, angle in degrees counter-clockwise."""

    x: float
    y: float
    height: float
    width: float
    angle_deg: float

    def area(self) -> Polygon:
        return affinity.rotate(_rectangle(self.x, self.y, self.height, self.width), self.angle_deg, (self.x, self.y))

    def to_local(self, geometry: BaseGeometry) -> BaseGeometry:
        turned = affinity.rotate(geometry, -self.angle_deg, origin=(self.x, self.y))
        return affinity.affine_transform(turned, (1.0, 0.0, 0.0, 1.0, -self.x, -self.y))


class VectorMap:
    """The layers of one nuScenes map that labels are made of."""

    def __init__(self, data_root: str | Path, location: str) -> None:
        nusc_map = _open_map(data_root, location)
        explorer = nusc_map.explorer
        lines, crossings, polygons = {}, [], {}
        for layer in ("road_divider", "lane_divider"):
            found = (explorer.extract_line(record["line_token"]) for record in getattr(nusc_map, layer))
            lines[layer] = [line for line in found if not line.is_empty]
        for record in nusc_map.ped_crossing:
            crossings.extend(_long_edges(explorer.extract_polygon(record["polygon_token"])))
        for layer in ("road_segment", "lane"):
            found = (explorer.extract_polygon(record["polygon_token"]) for record in getattr(nusc_map, layer))
            polygons[layer] = [polygon for polygon in found if polygon.is_valid]
        drivable = [explorer.extract_polygon(token) for record in nusc_map.drivable_area for token in record["polygon_tokens"]]
        self.location = location
        self._dividers = [_Layer.of(lines["road_divider"]), _Layer.of(lines["lane_divider"])]
        self._crossings = _Layer.of(crossings)
        self._roads = [_Layer.of(polygons["road_segment"]), _Layer.of(polygons["lane"])]
        self._drivable = _Layer.of([polygon if polygon.is_valid else polygon.buffer(0) for polygon in drivable])

    def vectors(self, xy: tuple[float, float], angle_deg: float, size: tuple[float, float]) -> list[Vector]:
        """Polylines in a patch of ``size`` = (height, width) metres about ``xy``, sampled every metre."""
        patch = _Patch(xy[0], xy[1], size[0], size[1], angle_deg)
        found = [(line, DIVIDER) for layer in self._dividers for geometry in layer.within(patch) for line in _lines(geometry)]
        found += [(line, CROSSING) for geometry in self._crossings.within(patch) for line in _lines(geometry)]
        found += [(line, CONTOUR) for line in self._contours(patch)]
        return [Vector(_sample(line), kind) for line, kind in found]

    def _contours(self, patch: _Patch) -> list[LineString]:
        """Outlines of all that is road or lane, exteriors clockwise and holes counter-clockwise, then cut to the patch."""
        union = unary_union([unary_union(layer.within(patch)) for layer in self._roads])
        half_x, half_y = patch.width / 2 - CONTOUR_MARGIN_M, patch.height / 2 - CONTOUR_MARGIN_M
        inner = box(-half_x, -half_y, half_x, half_y)
        polygons = _polygons(union)
        rings = [(polygon.exterior, False) for polygon in polygons]
        rings += [(hole, True) for polygon in polygons for hole in polygon.interiors]
        result = []
        for ring, counter_clockwise in rings:
            if ring.is_ccw != counter_clockwise:
                ring = LinearRing(ring.coords[::-1])
            cut = ring.intersection(inner)
            result.extend(_lines(linemerge(cut) if cut.geom_type == "MultiLineString" else cut))
        return result

    def drivable_area(self, xy: tuple[float, float], reach_m: float) -> BaseGeometry:
        """All that is drivable within ``reach_m`` of ``xy`` along either axis, global metres."""
        area = box(xy[0] - reach_m, xy[1] - reach_m, xy[0] + reach_m, xy[1] + reach_m)
        return unary_union([self._drivable.geometries[hit] for hit in self._drivable.index.query(area)]).intersection(area)

    def drivable(
        self, xy: tuple[float, float], angle_deg: float, size: tuple[float, float], canvas_hw: tuple[int, int]
    ) -> NDArray[np.uint8]:
        """Drivable area [h, w] about ``xy``, patch axes aligned with ``angle_deg`` (row 0 at the patch's lowest y)."""
        patch = _Patch(xy[0], xy[1], size[0], size[1], angle_deg)
        local = _rectangle(0.0, 0.0, *size)
        canvas = np.zeros(canvas_hw, dtype=np.uint8)
        for geometry in self._drivable.within(patch):
            polygons = _polygons(_to_canvas(geometry.intersection(local), size, canvas_hw))
            if polygons:
                cv2.fillPoly(canvas, [_pixels(polygon.exterior, rounded=True) for polygon in polygons], 1)
                cv2.fillPoly(canvas, [_pixels(hole, True) for polygon in polygons for hole in polygon.interiors], 0)
        return canvas


def rasterise(vectors: list[Vector], size: tuple[float, float], canvas_hw: tuple[int, int], thickness: int) -> NDArray[np.uint8]:
    """Instance numbers [3 classes, h, w] of polylines; numbers run on over the classes, 0 is empty.

    The canvas is the BEV grid of the *lidar* axes: patch axes have x ahead, so the drawing is turned by a right angle.
    """
    local = _rectangle(0.0, 0.0, *size)
    number = 1
    masks, covers = [], []
    for kind in range(NUM_CLASSES):
        lines = [
            part
            for points, vector_kind in vectors
            if vector_kind == kind and len(points) >= 2
            for part in _lines(_to_canvas(LineString(points).intersection(local), size, canvas_hw))
        ]
        mask, cover = np.zeros(canvas_hw, dtype=np.uint8), np.zeros(canvas_hw, dtype=np.uint8)
        for line in lines:
            pixels = _pixels(line)
            # The canvas holds 8 bits: cv2 saturates, so the 255th instance and all later ones share a number.
            cv2.polylines(mask, [pixels], False, color=number, thickness=thickness)
            cv2.polylines(cover, [pixels], False, color=1, thickness=thickness + OVERLAP_THICKNESS)
            number += 1
        masks.append(mask)
        covers.append(cover)
    stacked = np.stack(masks)
    for kind in range(NUM_CLASSES - 1, 0, -1):
        stacked[:kind, covers[kind] != 0] = 0
    return np.ascontiguousarray(np.rot90(stacked, k=-1, axes=(1, 2)))


def draw_map(
    vector_map: VectorMap,
    ego_xy: tuple[float, float],
    ego_yaw_deg: float,
    lidar_xy: tuple[float, float],
    lidar_yaw_deg: float,
    size: tuple[float, float],
    canvas_hw: tuple[int, int],
    thickness: int,
) -> NDArray[np.uint8]:
    """Instance numbers of the three classes, then the drivable area, about one pose [4, h, w].

    Lines are centred on the ego pose, the drivable area on the lidar, as in upstream.
    """
    instances = rasterise(vector_map.vectors(ego_xy, ego_yaw_deg, size), size, canvas_hw, thickness)
    # The drivable patch is aligned with the lidar (x right), yet upstream's code transposes, flips and turns it: net
    # effect none.
    drivable = vector_map.drivable(lidar_xy, lidar_yaw_deg, size, canvas_hw)
    return np.concatenate((instances, drivable[None]))


def map_labels(drawn: NDArray[np.uint8]) -> MapLabels:
    """Map ground truth from what ``draw_map`` made [4, h, w]."""
    labels, boxes, masks = [], [], []
    for kind in range(NUM_CLASSES):
        numbers = np.flatnonzero(np.bincount(drawn[kind].ravel(), minlength=256)[1:]) + 1
        mask = drawn[kind] == numbers.astype(np.uint8)[:, None, None]
        rows, columns = mask.any(2), mask.any(1)
        ends = [end for hit in (columns, rows) for end in (hit.argmax(1), hit.shape[1] - 1 - hit[:, ::-1].argmax(1))]
        labels.append(np.full(len(numbers), kind, dtype=np.int64))
        boxes.append(np.stack((ends[0], ends[2], ends[1], ends[3]), axis=1).astype(np.int64))
        masks.append(mask)
    return MapLabels(np.concatenate(labels), np.concatenate(boxes), np.concatenate(masks).astype(np.uint8), drawn[NUM_CLASSES])


@lru_cache(maxsize=len(LOCATIONS))
def vector_map(data_root: str, location: str) -> VectorMap:
    """The map of a location, read once per process (load it before forking workers and they share it)."""
    return VectorMap(data_root, location)


def map_file(data_root: str | Path, location: str) -> Path:
    """Where the map of a location lies; a UserError where it does not."""
    path = Path(data_root) / "maps" / "expansion" / f"{location}.json"
    if location not in LOCATIONS:
        raise UserError(f"map location {location!r} is not one of nuScenes' ({', '.join(LOCATIONS)}); are the infos right?")
    if not path.is_file():
        raise UserError(f"{path} is missing: unpack the nuScenes map expansion (v1.3) into {Path(data_root) / 'maps'}")
    return path


def _open_map(data_root: str | Path, location: str):
    from nuscenes.map_expansion.map_api import NuScenesMap

    path = map_file(data_root, location)
    try:
        return NuScenesMap(dataroot=str(data_root), map_name=location)
    except (ValueError, KeyError) as error:
        raise UserError(f"{path} is not a readable map expansion ({error}): unpack it again") from error
    except Exception as error:
        # The devkit raises a bare Exception for maps older than 1.3.
        raise UserError(f"{path}: {error}") from error


def _rectangle(x: float, y: float, height: float, width: float) -> Polygon:
    return box(x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def _long_edges(polygon: Polygon) -> list[LineString]:
    """The two longest edges of a crossing, the shorter one first: where it meets the road."""
    points = np.array(polygon.exterior.coords)
    lengths = np.square(np.diff(points, axis=0)).sum(axis=1)
    return [LineString(points[edge : edge + 2]) for edge in np.argsort(lengths)[-2:]]


def _lines(geometry: BaseGeometry) -> list[LineString]:
    """The non-empty lines that a cut left; a cut that only touches leaves points, which are none."""
    if geometry.is_empty:
        return []
    if geometry.geom_type in ("LineString", "LinearRing"):
        return [geometry]
    return [line for part in getattr(geometry, "geoms", ()) for line in _lines(part)]


def _polygons(geometry: BaseGeometry) -> list[Polygon]:
    if geometry.is_empty:
        return []
    if isinstance(geometry, Polygon):
        return [geometry]
    return [polygon for part in getattr(geometry, "geoms", ()) for polygon in _polygons(part)]


def _sample(line: LineString) -> NDArray[np.float64]:
    """A point every metre from the start; the end itself is left out, as in upstream. [k, 2]"""
    distances = np.arange(0, line.length, SAMPLE_DIST_M)
    return shapely.get_coordinates(shapely.line_interpolate_point(line, distances))


def _to_canvas(geometry: BaseGeometry, size: tuple[float, float], canvas_hw: tuple[int, int]) -> BaseGeometry:
    """Metres from the patch's centre -> pixels from its corner."""
    shifted = affinity.affine_transform(geometry, (1.0, 0.0, 0.0, 1.0, size[1] / 2.0, size[0] / 2.0))
    return affinity.scale(shifted, xfact=canvas_hw[1] / size[1], yfact=canvas_hw[0] / size[0], origin=(0, 0))


def _pixels(line: LineString, rounded: bool = False) -> NDArray[np.int32]:
    coordinates = shapely.get_coordinates(line)
    return (coordinates.round() if rounded else coordinates).astype(np.int32)
