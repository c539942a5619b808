"""CARLA's and Bench2Drive's inputs, as their leaderboard hands them, reach the model in its own frames; controls come out."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.outside import Recorder
from uniad.errors import UserError
from uniad.formats.layout import CAMERAS
from uniad.simulation.adapter_carla import (
    REAR_AXLE_M,
    CarlaAgent,
    Control,
    PlanController,
    camera_projection,
    gps_reference,
    heading_of_compass,
    location_of,
)

TOWN = (42.0, 2.0)  # CARLA's default origin of a town


def gps(x: float, y: float) -> np.ndarray:
    """Latitude, longitude, altitude as CARLA's leaderboard converts a location."""
    scale = math.cos(math.radians(TOWN[0]))
    mx = scale * TOWN[1] * math.pi * 6378137.0 / 180.0 + x
    my = scale * 6378137.0 * math.log(math.tan((90.0 + TOWN[0]) * math.pi / 360.0)) - y
    longitude = mx * 180.0 / (math.pi * 6378137.0 * scale)
    latitude = 360.0 * math.atan(math.exp(my / (6378137.0 * scale))) / math.pi - 90.0
    return np.array([latitude, longitude, 0.0])


def plan(points: np.ndarray) -> tuple[list, list]:
    """A global plan through CARLA locations [n, 2], twice, as set_global_plan gets it."""
    places = [SimpleNamespace(location=SimpleNamespace(x=x, y=y, z=0.0)) for x, y in points.tolist()]
    coordinates = [dict(zip(("lat", "lon", "z"), gps(x, y))) for x, y in points.tolist()]
    return [(c, 4) for c in coordinates], [(p, 4) for p in places]


def data(x: float = 0.0, y: float = 0.0, yaw: float = 0.0, speed: float = 6.0, yaw_rate: float = 0.0) -> dict:
    """A tick's input: the rear axle at a CARLA location, yaw in degrees to the right."""
    compass = math.radians(yaw) + math.pi / 2  # CARLA: north is -y
    image = np.zeros((900, 1600, 4), np.uint8)
    image[..., :] = (10, 20, 30, 255)
    return {
        **{name: (7, image) for name in CAMERAS},
        "IMU": (7, np.array([0.5, 0.2, 9.81, 0.0, 0.0, yaw_rate, compass])),
        "GPS": (7, gps(x, y)),
        "SPEED": (7, {"speed": speed}),
    }


@pytest.fixture
def agent() -> CarlaAgent:
    built = CarlaAgent(Recorder())
    built.set_global_plan(*plan(np.stack([np.arange(0.0, 120.0), np.zeros(120)], -1)))
    return built


def seen(agent: CarlaAgent):
    return agent._loop.runtime.frames[-1]


# What Bench2Drive's agent carries as literals: its cameras' projections from a lidar at x = -0.39, z = 1.84 of the vehicle.
PUBLISHED = {
    "CAM_FRONT": [[1.14251841e3, 8.0e2, 0, -9.52e2], [0, 4.5e2, -1.14251841e3, -8.09704417e2], [0, 1, 0, -1.19], [0, 0, 0, 1]],
    "CAM_FRONT_LEFT": [[0, 1.39475744e3, 0, -9.20539908e2], [-3.6861842e2, 2.58109396e2, -1.14251841e3, -6.4729675e2],
                       [-8.19152044e-1, 5.73576436e-1, 0, -8.29094072e-1], [0, 0, 0, 1]],
    "CAM_BACK": [[-5.60166031e2, -8e2, 0, -1.288e3], [0, -4.5e2, -5.60166031e2, -8.58939847e2], [0, -1, 0, -1.61], [0, 0, 0, 1]],
    "CAM_BACK_RIGHT": [[3.60989788e2, -1.34723223e3, 0, -1.04238127e2],
                       [4.22861679e2, -1.53909064e2, -1.14251841e3, -4.96004706e2],
                       [9.39692621e-1, -3.42020143e-1, 0, -4.92889531e-1], [0, 0, 0, 1]],
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_projections_are_those_that_bench2drive_publishes(name: str):
    sensor = next(s for s in CarlaAgent(Recorder()).sensors() if s["id"] == name)
    ego_from_their_lidar = np.array([[0, 1, 0, -0.39 - REAR_AXLE_M], [-1, 0, 0, 0], [0, 0, 1, 1.84], [0, 0, 0, 1.0]])
    np.testing.assert_allclose(camera_projection(sensor) @ ego_from_their_lidar, PUBLISHED[name], rtol=1e-6, atol=1e-3)


def test_pitch_and_roll_turn_as_unreal_turns_them():
    """Up by pitch, and the right side down by roll."""
    sensor = {"x": REAR_AXLE_M, "y": 0, "z": 0, "roll": 0, "pitch": 30, "yaw": 0, "width": 1600, "height": 900, "fov": 90}
    ahead_up = np.array([math.cos(math.radians(30)), 0, math.sin(math.radians(30)), 1])
    u, v, depth, _ = camera_projection(sensor) @ ahead_up
    np.testing.assert_allclose((u / depth, v / depth, depth), (800, 450, 1), atol=1e-9)
    rolled = camera_projection({**sensor, "pitch": 0, "roll": 90}) @ np.array([1.0, 0.0, 0.5, 1.0])
    assert rolled[0] / rolled[2] < 800, "what is above stands on the left of a camera that is rolled to the right"


def test_the_rig_is_one_that_the_leaderboard_allows():
    sensors = CarlaAgent(Recorder()).sensors()
    assert {s["id"] for s in sensors if s["type"] == "sensor.camera.rgb"} == set(CAMERAS)
    assert len({s["id"] for s in sensors}) == len(sensors) == 9
    for sensor in sensors:
        if "x" in sensor:
            assert math.sqrt(sensor["x"] ** 2 + sensor["y"] ** 2 + sensor["z"] ** 2) <= 3.0
            assert {"x", "y", "z", "roll", "pitch", "yaw"} <= set(sensor)


@pytest.mark.parametrize("x, y", [(0.0, 0.0), (120.5, -80.25), (-300.0, 410.0)])
def test_gps_is_undone(x: float, y: float):
    found = gps_reference(*gps(x, y)[:2], x, y)
    np.testing.assert_allclose(found, TOWN, atol=1e-9)
    np.testing.assert_allclose(location_of(*gps(-20.0, 33.0)[:2], *found), (-20.0, 33.0), atol=1e-4)


@pytest.mark.parametrize("yaw", [0.0, 90.0, -45.0, 179.0])
def test_a_compass_becomes_a_heading_counter_clockwise(yaw: float):
    assert heading_of_compass(math.radians(yaw) + math.pi / 2) == pytest.approx(-math.radians(yaw))


def test_a_frame_reaches_the_model_mirrored(agent: CarlaAgent):
    agent.run_step(data(10.0, 3.0, yaw=20.0, speed=5.0, yaw_rate=0.1), 0.0)
    frame = seen(agent)
    np.testing.assert_allclose(frame.ego2global.translation, (10.0, -3.0, 0.0), atol=1e-4)
    assert np.degrees(2 * np.arctan2(frame.ego2global.rotation[3], frame.ego2global.rotation[0])) == pytest.approx(-20.0)
    np.testing.assert_allclose(frame.can_bus[7:10], (0.5, -0.2, 9.81))
    np.testing.assert_allclose(frame.can_bus[10:16], (0, 0, -0.1, 5.0, 0, 0))
    assert frame.images["CAM_BACK"].shape == (900, 1600, 3) and tuple(frame.images["CAM_BACK"][0, 0]) == (10, 20, 30)
    # A point 20 m ahead and 4 m to the left lies on the left of the front camera, above its foot.
    u, v, depth, _ = frame.lidar2img["CAM_FRONT"] @ np.array([-4.0, 20.0, 0.0, 1.0])
    assert 0 < u / depth < 800 and 0 < v / depth < 900


def test_the_model_looks_each_half_second(agent: CarlaAgent):
    for tick in range(41):
        agent.run_step(data(0.3 * tick), tick * 0.05)
    assert [frame.time_s for frame in agent._loop.runtime.frames] == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])


@pytest.mark.parametrize("side, command", [(-1, 1), (1, 0), (0, 2)])
def test_a_bend_of_the_route_is_the_command_it_is_to_a_driver(side: int, command: int):
    """y grows to the right in CARLA: a route that bends to -y is one to the left."""
    angle = np.linspace(0, np.pi / 2, 25)
    bend = np.stack([30 + 10 * np.sin(angle), side * 10 * (1 - np.cos(angle))], -1)
    end = bend[-1] + np.arange(1, 40)[:, None] * ((0, side) if side else (1, 0))
    agent = CarlaAgent(Recorder())
    agent.set_global_plan(*plan(np.concatenate([np.stack([np.arange(0.0, 30.0), np.zeros(30)], -1), bend, end])))
    agent.run_step(data(0.0, speed=6.0), 0.0)
    assert seen(agent).command == 2, "the bend is farther than three seconds"
    agent.run_step(data(24.0, speed=6.0), 4.0)
    assert seen(agent).command == command


@pytest.mark.parametrize("aside, sign", [(-3.0, -1), (3.0, 1), (0.0, 0)])
def test_steering_is_positive_to_the_right(aside: float, sign: int):
    steps = np.arange(1, 7)
    control = PlanController().control(np.stack([aside * steps / 6, 3.0 * steps], -1), 5.0)
    assert np.sign(round(control.steer, 6)) == sign and abs(control.steer) <= 1
    assert control.throttle > 0 and control.brake == 0


def test_a_plan_to_stand_brakes_and_one_that_is_slower_too():
    assert PlanController().control(np.zeros((6, 2)), 5.0) == Control(0.0, 0.0, 1.0)
    slower = PlanController().control(np.stack([np.zeros(6), 1.0 * np.arange(1, 7)], -1), 8.0)
    assert slower.brake == 1 and slower.throttle == 0


def test_the_controls_drive_a_car_round_a_bend():
    """A simple car (throttle up to 4 m/s2, wheels up to 35 degrees) with plans along a circle of 20 m to the left, at 5 m/s."""
    x = y = 0.0
    yaw, speed, controller = 0.0, 5.0, PlanController()
    for _ in range(200):
        # From the nearest point of the circle on, in the car's own frame.
        around = math.atan2(x, 20.0 - y) + 2.5 * np.arange(1, 7) / 20.0
        ahead, aside = 20 * np.sin(around) - x, 20.0 - 20 * np.cos(around) - y
        local = np.stack([ahead * math.sin(yaw) - aside * math.cos(yaw), ahead * math.cos(yaw) + aside * math.sin(yaw)], -1)
        control = controller.control(local, speed)
        speed = max(speed + 0.05 * (4.0 * control.throttle - 6.0 * control.brake - 0.3), 0.0)
        yaw += 0.05 * speed * math.tan(-control.steer * math.radians(35)) / 2.8
        x, y = x + 0.05 * speed * math.cos(yaw), y + 0.05 * speed * math.sin(yaw)
    assert abs(math.hypot(x, 20.0 - y) - 20.0) < 2.0 and 3.5 < speed < 6.0


@pytest.mark.parametrize("spoil, told", [
    (lambda d: d.pop("CAM_BACK"), "input_data lacks CAM_BACK"),
    (lambda d: d.update(CAM_BACK=(7, np.zeros((900, 1600, 3), np.uint8))), "CAM_BACK delivers uint8[900, 1600, 3]"),
    (lambda d: d.update(IMU=(7, np.zeros(6))), "'IMU' with 7 numbers"),
    (lambda d: d.pop("SPEED"), "'SPEED' with a 'speed'"),
])  # fmt: skip
def test_input_that_is_none_gets_one_line(agent: CarlaAgent, spoil, told: str):
    given = data()
    spoil(given)
    with pytest.raises(UserError) as caught:
        agent.run_step(given, 0.0)
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_a_step_without_a_route_and_an_empty_route_get_one_line():
    with pytest.raises(UserError, match="set_global_plan comes before"):
        CarlaAgent(Recorder()).run_step(data(), 0.0)
    with pytest.raises(UserError, match="0 and 0 points"):
        CarlaAgent(Recorder()).set_global_plan([], [])


def test_an_imu_that_says_nothing_yet_is_taken_as_at_rest(agent: CarlaAgent):
    given = data()
    given["IMU"] = (7, np.full(7, np.nan))
    assert np.isfinite(list(vars(agent.run_step(given, 0.0)).values())).all()
