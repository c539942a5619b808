"""Footprints on the occupancy grid."""

from __future__ import annotations

import numpy as np

from uniad.data.occupancy import draw_instances
from uniad.geometry.grid import BevGrid


def test_a_single_vehicle_is_drawn_whichever_way_its_row_was_sliced() -> None:
    grid = BevGrid.from_bounds((-10.0, 10.0, 0.5), (-10.0, 10.0, 0.5))
    box = np.array([[1, 2, 0, 2, 4, 1.5, 0, 0, 0]], np.float32)
    backwards = draw_instances(grid, box[::-1], np.array([7])[::-1])
    for drawn, backward in zip(draw_instances(grid, box, np.array([7])), backwards):
        np.testing.assert_array_equal(drawn, backward)
    assert set(np.unique(backwards[1])) == {0, 7}
