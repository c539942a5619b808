"""Footprints: overlap and the front bumper's touch are what shapely says, of many random rectangles."""

from __future__ import annotations

import numpy as np
import shapely

from uniad.geometry.footprints import bearing, corners, meets_segment, overlap


def boxes(rng: np.random.Generator, n: int = 500) -> np.ndarray:
    return corners(rng.uniform(-4, 4, (n, 2)), rng.uniform(-7, 7, n), rng.uniform(0.3, 3, n), rng.uniform(0.3, 8, n))


def test_overlap_and_touch_are_what_shapely_says():
    rng = np.random.default_rng(1)
    a, b = boxes(rng), boxes(rng)
    wanted = shapely.intersects(shapely.polygons(a), shapely.polygons(b))
    assert 100 < wanted.sum() < 400
    np.testing.assert_array_equal(overlap(a, b), wanted)
    lines = shapely.linestrings(b[:, [0, 3]])
    np.testing.assert_array_equal(meets_segment(a, b[:, 0], b[:, 3]), shapely.intersects(shapely.polygons(a), lines))


def test_corners_go_round_from_the_front_on_the_left():
    np.testing.assert_allclose(corners(np.array([1.0, 2.0]), np.array(0.0), 2.0, 4.0), [[3, 3], [-1, 3], [-1, 1], [3, 1]])
    turned = corners(np.zeros(2), np.array(np.pi / 2), 2.0, 4.0)
    np.testing.assert_allclose(turned, [[-1, 2], [-1, -2], [1, -2], [1, 2]], atol=1e-12)


def test_a_bearing_is_nought_ahead_and_pi_behind():
    here, yaw = np.array([3.0, 4.0]), np.array(np.pi / 2)
    for way, angle in (((0, 2), 0), ((0, -2), np.pi), ((2, 0), np.pi / 2), ((-2, 2), np.pi / 4)):
        assert np.isclose(bearing(here, yaw, here + way), angle)
