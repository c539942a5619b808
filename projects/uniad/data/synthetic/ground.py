"""The ground: one picture of the streets from above per scene, laid into each camera by a homography.

Coarser copies serve farther image rows, so that far lane lines do not flicker.
"""

from __future__ import annotations

import cv2
import numpy as np

from uniad.data.synthetic.look import Look
from uniad.data.synthetic.mapjson import parts
from uniad.data.synthetic.markings import dividers, stop_lines
from uniad.data.synthetic.roads import Town
from uniad.data.synthetic.sensors import HEIGHT, WIDTH

RES_M = 0.1
# (nearest distance of a band in metres, copy that serves it): copy m has 0.1 * 2^m metres a pixel.
BANDS = ((400.0, 4), (90.0, 4), (45.0, 3), (22.0, 2), (11.0, 1))
ASPHALT, WALK, GRASS, LOT = (84, 86, 90), (150, 147, 140), (96, 112, 74), (98, 96, 98)
PAINT, KERB, YELLOW = (226, 226, 220), (176, 174, 168), (222, 184, 62)
DASH_M, GAP_M = 3.0, 4.5
LINE_M = 0.16
SHIFT = 4  # fractional bits of drawn coordinates


class Ground:
    """Picture of a town's ground round a scene. ``low`` and ``high`` bound it in map coordinates."""

    def __init__(self, town: Town, low: np.ndarray, high: np.ndarray, look: Look, rng: np.random.Generator) -> None:
        self.low, self.high = np.floor(low), np.ceil(high)
        width, height = ((self.high - self.low) / RES_M).astype(int)
        picture = np.empty((height, width, 3), np.uint8)
        tint = look.tint * (look.ambient + look.diffuse * look.sun[2])
        color = {name: tuple(float(v) for v in np.clip(np.array(rgb) * tint, 0, 255)[::-1]) for name, rgb in (
            ("asphalt", np.array(ASPHALT) * rng.uniform(0.85, 1.12)), ("walk", WALK), ("paint", PAINT), ("kerb", KERB),
            ("lot", LOT), ("yellow", YELLOW), ("grass", np.array(GRASS) * rng.uniform(0.85, 1.15)))}  # fmt: skip
        picture[:] = np.array(color["grass"], np.uint8)
        for geometry, name in ((town.walkway, "walk"), (town.drivable, "asphalt")):
            for g in parts(geometry):
                rings = [self._fixed(np.asarray(r.coords)[:, :2]) for r in (g.exterior, *g.interiors)]
                cv2.fillPoly(picture, rings, color[name], cv2.LINE_8, SHIFT)
        for _, corners in town.carparks:
            cv2.fillPoly(picture, [self._fixed(corners)], color["lot"], cv2.LINE_8, SHIFT)
        picture = _grain(picture, rng)
        for g in parts(town.drivable):
            for ring in (g.exterior, *g.interiors):
                cv2.polylines(picture, [self._fixed(np.asarray(ring.coords)[:, :2])], True, color["kerb"], 2, cv2.LINE_AA, SHIFT)
        self._paint(picture, town, color)
        self.copies = [picture]
        for _ in range(4):
            shape = self.copies[-1].shape
            self.copies.append(cv2.resize(self.copies[-1], (shape[1] // 2, shape[0] // 2), interpolation=cv2.INTER_AREA))
        self.outside = color["grass"]
        self.look = look

    def _fixed(self, points_n2: np.ndarray) -> np.ndarray:
        """Map coordinates to drawn ones, north up: [n, 2] int32 with fractional bits."""
        pixels = np.stack([points_n2[:, 0] - self.low[0], self.high[1] - points_n2[:, 1]], axis=1) / RES_M - 0.5
        return np.round(pixels * (1 << SHIFT)).astype(np.int32)

    def _strip(self, picture: np.ndarray, line: np.ndarray, width_m: float, color: tuple, s0: float, s1: float) -> None:
        along = (line[1] - line[0]) / np.linalg.norm(line[1] - line[0])
        across = np.array([-along[1], along[0]]) * width_m / 2
        a, b = line[0] + along * s0, line[0] + along * s1
        corners = np.array([a - across, b - across, b + across, a + across])
        cv2.fillConvexPoly(picture, self._fixed(corners), color, cv2.LINE_AA, SHIFT)

    def _paint(self, picture: np.ndarray, town: Town, color: dict) -> None:
        for d in dividers(town):
            length = float(np.linalg.norm(d.line[1] - d.line[0]))
            if d.kind == "road":
                direction = (d.line[1] - d.line[0]) / length
                side = np.array([-direction[1], direction[0]]) * 0.16
                for line in (d.line + side, d.line - side):  # a double line
                    self._strip(picture, line, LINE_M, color["yellow"], 0.0, length)
            elif d.dashed:
                for s in np.arange(0.5, length - 0.5, DASH_M + GAP_M):
                    self._strip(picture, d.line, LINE_M, color["paint"], s, min(s + DASH_M, length))
            else:
                self._strip(picture, d.line, LINE_M, color["paint"], 0.0, length)
        for stop in stop_lines(town):
            cv2.fillConvexPoly(picture, self._fixed(stop.polygon), color["paint"], cv2.LINE_AA, SHIFT)
        for crossing in town.crossings:
            road = town.roads[crossing.road]
            corners = (crossing.polygon - road.p) @ road.direction
            s0, s1 = corners.min(), corners.max()
            for lateral in np.arange(-road.half + 0.3, road.half - 0.45, 1.0):
                bar = road.rectangle((s0 + 0.15, s1 - 0.15), (lateral, lateral + 0.5))
                cv2.fillConvexPoly(picture, self._fixed(bar), color["paint"], cv2.LINE_AA, SHIFT)
        for r, corners in town.carparks:
            road = town.roads[r]
            start = ((corners - road.p) @ road.direction).min()
            sign = np.sign((corners.mean(axis=0) - road.p) @ np.array([-road.direction[1], road.direction[0]]))
            for k in range(9):
                s = start + 0.15 + 2.9 * k
                line = np.array([road.point(s, sign * (road.half + 9.2)), road.point(s, sign * (road.half + 14.6))])
                self._strip(picture, line, 0.14, color["paint"], 0.0, 5.4)

    def paint(self, image: np.ndarray, k_33: np.ndarray, cam_from_global_44: np.ndarray) -> None:
        """Fills the image [H, W, 3] below the horizon."""
        rotation, translation = cam_from_global_44[:3, :3], cam_from_global_44[:3, 3]
        center = -rotation.T @ translation
        forward = rotation[2] / np.linalg.norm(rotation[2, :2])
        image_from_map = k_33 @ np.stack([rotation[:, 0], rotation[:, 1], translation], axis=1)
        rows = []
        for distance, _ in BANDS:
            point = rotation @ np.array([*(center[:2] + forward[:2] * distance), 0.0]) + translation
            rows.append(int(np.clip(round((k_33 @ point)[1] / point[2]), 0, HEIGHT)))
        rows.append(HEIGHT)
        copies = [m for _, m in BANDS[1:]] + [0]
        keep = [float(np.exp(-d / self.look.haze_m)) for d in (160.0, 65.0, 32.0, 16.0, 6.0)]
        haze = tuple(float(v) for v in self.look.horizon[::-1])
        for (top, bottom), m, kept in zip(zip(rows, rows[1:]), copies, keep):
            if bottom <= top:
                continue
            size = RES_M * 2**m
            map_from_copy = np.array([[size, 0, self.low[0] + size / 2], [0, -size, self.high[1] - size / 2], [0, 0, 1.0]])
            copy_from_image = np.linalg.inv(image_from_map @ map_from_copy) @ np.array([[1.0, 0, 0], [0, 1, top], [0, 0, 1]])
            # Close by, a pixel of the copy covers ten of the image: half the resolution loses nothing there.
            coarse = 2 if m <= 1 else 1
            half = np.diag([coarse, coarse, 1.0])
            half[:2, 2] = (coarse - 1) / 2
            size = (WIDTH // coarse, -(-(bottom - top) // coarse))
            band = cv2.warpPerspective(
                self.copies[m], copy_from_image @ half, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_CONSTANT, borderValue=self.outside,
            )  # fmt: skip
            if coarse > 1:
                band = cv2.resize(band, (WIDTH, size[1] * coarse), interpolation=cv2.INTER_LINEAR)[: bottom - top]
            if m >= 3:
                cv2.addWeighted(band, kept, np.full_like(band, haze), 1 - kept, 0.0, dst=band)
            image[top:bottom] = band
        # Between the farthest band and the horizon only haze is left.
        image[max(0, rows[0] - 40) : rows[0]] = haze


def _grain(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fine grain and large stains, equal in the three channels."""
    height, width = picture.shape[:2]
    tile = rng.integers(0, 15, (512, 512), dtype=np.uint8)
    tile = cv2.GaussianBlur(tile, (0, 0), 0.7)
    fine = np.tile(tile, (height // 512 + 1, width // 512 + 1))[:height, :width]
    blotch = rng.integers(0, 26, (height // 45 + 2, width // 45 + 2), dtype=np.uint8)
    coarse = cv2.resize(blotch, (width, height), interpolation=cv2.INTER_CUBIC)
    bright = cv2.cvtColor(cv2.add(fine, coarse), cv2.COLOR_GRAY2BGR)
    return cv2.subtract(cv2.add(picture, bright), (19.0, 19.0, 19.0, 0.0))
