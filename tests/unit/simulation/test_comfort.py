"""Comfort: the filter is SciPy's, which nuPlan uses, and the bounds are held in the car's middle."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import savgol_filter

from uniad.simulation.comfort import BOUNDS, motion, smooth, violations


@pytest.mark.parametrize("window, order, derivative", [(8, 2, 0), (5, 2, 1), (5, 3, 2), (15, 2, 1), (7, 2, 0)])
def test_the_filter_is_the_one_of_scipy(window: int, order: int, derivative: int):
    rng = np.random.default_rng(0)
    for n in (8, 9, 15, 16, 40, 200):
        values = rng.normal(size=n).cumsum()
        wanted = savgol_filter(values, min(window, n), order, deriv=derivative, delta=0.1)
        np.testing.assert_allclose(smooth(values, window, order, derivative, 0.1), wanted, atol=1e-9 * np.abs(wanted).max())


@pytest.mark.parametrize("n", [1, 2, 3])
def test_a_drive_of_a_few_ticks_has_a_comfort_too(n: int):
    felt = motion(np.zeros(n), np.full(n, 8.0), 1.34, 0.1)
    assert set(felt) == set(BOUNDS) and all(len(values) == n for values in felt.values()) and not violations(felt)


def test_a_steady_bend_is_felt_as_what_it_is():
    """8 m/s with 0.3 rad/s: 2.4 m/s2 across, and in the middle of the car a pull of rate squared times its distance."""
    felt = motion(0.3 * 0.1 * np.arange(100) + 6.0, np.full(100, 8.0), 1.34, 0.1)
    np.testing.assert_allclose(felt["yaw_rate"], 0.3, atol=1e-9)
    np.testing.assert_allclose(felt["lat_accel"], 2.4, atol=1e-9)
    np.testing.assert_allclose(felt["lon_accel"], -0.09 * 1.34, atol=1e-9)
    assert not violations(felt)


def test_each_bound_can_be_left_and_says_by_how_much():
    t = 0.1 * np.arange(200)
    fast = motion(1.2 * t, np.full(200, 2.0), 1.34, 0.1)
    assert violations(fast) == {"yaw_rate": (0, pytest.approx(1.2))}
    bend = motion(0.7 * t, np.full(200, 8.0), 1.34, 0.1)
    assert violations(bend) == {"lat_accel": (0, pytest.approx(5.6))}
    shaken = motion(0.2 * np.sin(4 * t), np.full(200, 1.0), 0.0, 0.1)
    assert "yaw_accel" in violations(shaken)
    stop = motion(np.zeros(200), np.maximum(12.0 - 5.0 * np.maximum(t - 5, 0), 0), 1.34, 0.1)
    first, value = violations(stop)["lon_accel"]
    assert 48 <= first <= 56 and value == pytest.approx(-5.0, abs=0.3) and "lon_jerk" in violations(stop)
    crash = motion(np.zeros(200), np.maximum(12.0 - 15.0 * np.maximum(t - 5, 0), 0), 1.34, 0.1)
    assert "jerk" in violations(crash)


def test_a_heading_that_passes_pi_is_no_turn():
    yaw, speed = np.linspace(3.0, 3.4, 40), np.full(40, 5.0)
    wrapped = (yaw + np.pi) % (2 * np.pi) - np.pi
    for name, values in motion(yaw, speed, 1.4, 0.1).items():
        np.testing.assert_allclose(motion(wrapped, speed, 1.4, 0.1)[name], values, atol=1e-9, err_msg=name)
