"""Bird's-eye-view grids: rows run along y (row 0 at y_min, behind the car), columns along x (column 0 on its left)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from typing import TypeAlias

Bounds: TypeAlias = "tuple[float, float, float]"  # in quotes: Python 3.8 prepares data for the upstream stack


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

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)"""
        return self.rows, self.columns

    def cell_of(self, xy: ArrayLike) -> NDArray[np.int32]:
        """Metres [..., 2] -> (column, row) of a polygon's vertex [..., 2]; may lie outside the grid.

        Rounds to the nearest cell *edge*, as upstream's labels do, where a point would be floored to its cell. Computed in
        the input's own precision, so that labels equal upstream's cell by cell.
        """
        xy = np.asarray(xy)
        size = np.array((self.cell_x, self.cell_y), dtype=xy.dtype)
        first = np.array((self.x_min, self.y_min), dtype=xy.dtype) + size / 2
        return np.round((xy - first + size / 2) / size).astype(np.int32)
