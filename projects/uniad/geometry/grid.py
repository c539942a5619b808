"""Bird's-eye-view grids: rows run along y (row 0 at y_min, behind the car), columns along x (column 0 on its left)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Bounds = tuple[float, float, float]


@dataclass(frozen=True)
class BevGrid:
    """A regular grid over x and y in metres: first edge, cell size and number of cells along each axis."""

    x_min: float
    y_min: float
    cell_x: float
    cell_y: float
    columns: int
    rows: int

    @classmethod
    def from_bounds(cls, x: Bounds, y: Bounds) -> BevGrid:
        """From (first edge, last edge, cell size) along x and y, the way that config files state an occupancy grid."""
        return cls(x[0], y[0], x[2], y[2], int((x[1] - x[0]) / x[2]), int((y[1] - y[0]) / y[2]))

    @classmethod
    def from_range(cls, pc_range: tuple[float, ...], hw: tuple[int, int]) -> BevGrid:
        """A grid of hw = (rows, columns) cells that covers (x0, y0, z0, x1, y1, z1)."""
        size_x, size_y = pc_range[3] - pc_range[0], pc_range[4] - pc_range[1]
        return cls(pc_range[0], pc_range[1], size_x / hw[1], size_y / hw[0], hw[1], hw[0])

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)"""
        return self.rows, self.columns

    def cell_of(self, xy: ArrayLike) -> NDArray[np.int32]:
        """Metres [..., 2] -> (column, row) of a polygon's vertex [..., 2]; may lie outside the grid.

        Rounds to the nearest cell *edge*, as documented labels do, where a point would be floored to its cell. Computed in
        the input's own precision, so that labels equal the documented ones cell by cell.
        """
        xy = np.asarray(xy)
        size = np.array((self.cell_x, self.cell_y), dtype=xy.dtype)
        first = np.array((self.x_min, self.y_min), dtype=xy.dtype) + size / 2
        return np.round((xy - first + size / 2) / size).astype(np.int32)

    def centres(self) -> NDArray[np.float64]:
        """Centre of every cell [rows, columns, 2] as (x, y) in metres."""
        x = self.x_min + (np.arange(self.columns) + 0.5) * self.cell_x
        y = self.y_min + (np.arange(self.rows) + 0.5) * self.cell_y
        return np.stack(np.meshgrid(x, y), axis=-1)
