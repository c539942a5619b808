"""The car keeps its limits whatever it is asked, and follows a plan that it can."""

from __future__ import annotations

import numpy as np
import pytest

from uniad.simulation.car import LIMITS, CarState, Command, Tracker, limited, moved
from uniad.simulation.log import FRAME_S, LIDAR_AHEAD_M, TICK_S, TICKS_PER_FRAME, WHEELBASE_M


def step(state: CarState, wanted: Command) -> CarState:
    command = limited(state, wanted)
    xy, heading, speed = moved(state, command, TICK_S)
    return CarState(float(xy[0]), float(xy[1]), float(heading), float(speed), command.acceleration, command.steering)


def test_whatever_it_is_asked_the_car_keeps_its_limits():
    rng = np.random.default_rng(3)
    state, states = CarState(0, 0, 0, 5.0, 0.0, 0.0), []
    for _ in range(2000):
        state = step(state, Command(float(rng.normal(0, 30)), float(rng.normal(0, 2))))
        states.append(state)
    rows = np.array(states)
    speed, a, steering = rows[:, 3], rows[:, 4], rows[:, 5]
    assert speed.min() >= 0 and speed.max() <= LIMITS.speed_mps + 1e-9
    assert a.max() <= LIMITS.acceleration_mps2 + 1e-9 and a.min() >= -LIMITS.braking_mps2 - 1e-9
    assert np.abs(np.diff(steering)).max() <= LIMITS.steering_radps * TICK_S + 1e-9
    assert np.abs(steering).max() <= LIMITS.steering_rad
    # Jerk, but where the top speed ends an acceleration
    free = speed[1:] < LIMITS.speed_mps - 1e-6
    assert np.abs(np.diff(a)[free]).max() <= LIMITS.jerk_mps3 * TICK_S + 1e-9


@pytest.mark.parametrize("steering", [0.0, 0.2, -0.4])
@pytest.mark.parametrize("acceleration", [1.5, -3.0])
def test_motion_over_a_tick_is_that_of_a_bicycle(steering: float, acceleration: float):
    start = CarState(1.0, 2.0, 0.3, 6.0, 0.0, 0.0)
    x, y, yaw, v = start[:4]
    n = 20000
    for _ in range(n):  # by small steps
        dt = 0.4 / n
        x, y = x + v * np.cos(yaw) * dt, y + v * np.sin(yaw) * dt
        yaw, v = yaw + v * np.tan(steering) / WHEELBASE_M * dt, v + acceleration * dt
    xy, heading, speed = moved(start, Command(acceleration, steering), 0.4)
    assert np.allclose([*xy, heading, speed], [x, y, yaw, v], atol=2e-3)


def test_a_car_that_has_stopped_does_not_roll_back():
    state = CarState(0, 0, 0, 0.3, 0.0, 0.0)
    xy, _, speed = moved(state, Command(-3.0, 0.0), np.array([0.05, 0.1, 5.0]))
    assert speed[1] == speed[2] == 0.0
    assert np.allclose(xy[1:, 0], 0.3**2 / 6)


def follow(plan_of, seconds: float, speed: float = 8.0) -> np.ndarray:
    """States [T, 6] of a car that follows ``plan_of(state, t)``, global lidar positions, renewed every half second."""
    state, tracker, rows = CarState(0, 0, 0, speed, 0.0, 0.0), Tracker(), []
    for tick in range(round(seconds / TICK_S)):
        if tick % TICKS_PER_FRAME == 0:
            tracker.follow(plan_of(state, tick * TICK_S), state, tick * TICK_S)
        state = step(state, tracker.command(state, tick * TICK_S))
        rows.append(state)
    return np.array(rows)


@pytest.mark.parametrize("radius", [9.0, -14.0, 60.0])
def test_the_car_stays_on_a_bend_that_its_plans_describe(radius: float):
    speed = 4.0 if abs(radius) < 20 else 8.0
    arm = np.hypot(radius, LIDAR_AHEAD_M)  # the lidar's circle, when the rear axle's has the radius

    def plan(state: CarState, t: float) -> np.ndarray:
        began = np.arctan2(LIDAR_AHEAD_M, abs(radius))
        phi = began + speed / abs(radius) * (t + FRAME_S * np.arange(1, 7))
        return np.stack([arm * np.sin(phi), np.sign(radius) * (abs(radius) - arm * np.cos(phi))], -1)

    rows = follow(plan, 6.0, speed)
    off = np.hypot(rows[:, 0], rows[:, 1] - radius) - abs(radius)
    assert np.abs(off).max() < 0.35, "from a straight start into the bend"
    assert np.abs(rows[20:, 3] - speed).max() < 0.4


def test_the_car_stops_where_its_plans_stop_and_noise_does_not_move_it_on():
    rng = np.random.default_rng(0)

    def plan(state: CarState, t: float) -> np.ndarray:
        s = state.x + LIDAR_AHEAD_M
        times = FRAME_S * np.arange(1, 7)
        left = max(20.0 - s, 0.0)
        brake = max(state.speed**2 / (2 * max(left, 0.1)), 0.01)
        rolling = np.minimum(times, state.speed / brake)
        way = np.minimum(state.speed * rolling - 0.5 * brake * rolling**2, left)
        return np.stack([s + way, np.zeros(6)], -1) + rng.normal(0, 0.05, (6, 2))

    rows = follow(plan, 12.0)
    assert rows[-1, 3] < 0.05
    assert abs(rows[-1, 0] + LIDAR_AHEAD_M - 20.0) < 1.0 and abs(rows[-1, 1]) < 0.3
    assert rows[-1, 0] - rows[-30, 0] < 0.1


def test_a_car_below_its_top_speed_reaches_it_within_the_tick():
    state = CarState(0, 0, 0, LIMITS.speed_mps - 0.1, 1.0, 0.0)
    assert limited(state, Command(3.0, 0.0)).acceleration == pytest.approx(0.1 / TICK_S)
    assert step(state, Command(3.0, 0.0)).speed == pytest.approx(LIMITS.speed_mps)
