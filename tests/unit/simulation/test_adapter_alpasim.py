"""AlpaSim's messages, as its runtime sends them, reach the model; a trajectory of the rig comes out."""

from __future__ import annotations

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from google.protobuf import json_format

from helpers.alpasim import made, message
from helpers.outside import Recorder
from uniad.errors import UserError
from uniad.simulation.adapter_alpasim import CAMERA_IDS, AlpasimDriver, Lens
from uniad.simulation.log import LIDAR_AHEAD_M

NAMES = tuple(CAMERA_IDS.values())
# A camera that looks ahead (z) with y down, in the rig's axes
AHEAD = {"w": 0.5, "x": -0.5, "y": 0.5, "z": -0.5}
PINHOLE = {"principal_point_x": 800, "principal_point_y": 450, "focal_length_x": 1266, "focal_length_y": 1266}


def camera(name: str, **lens) -> dict:
    spec = {"logical_id": name, "resolution_h": 900, "resolution_w": 1600, **(lens or {"opencv_pinhole_param": PINHOLE})}
    return {"logical_id": name, "rig_to_camera": {"vec": {"x": 1.7, "y": 0.0, "z": 1.5}, "quat": AHEAD}, "intrinsics": spec}


def session(names=NAMES, **lens):
    cameras = [camera(name, **lens) for name in names]
    return made("DriveSessionRequest", session_uuid="a", random_seed=1, rollout_spec={"vehicle": {"available_cameras": cameras}})


def png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


GREY = png(np.full((900, 1600, 3), (10, 20, 30), np.uint8))


def show(driver: AlpasimDriver, at_us: int, image: bytes = GREY, names=NAMES) -> None:
    for name in names:
        shot = message("RolloutCameraImage")(session_uuid="a")
        shot.camera_image.logical_id, shot.camera_image.frame_end_us, shot.camera_image.image_bytes = name, at_us, image
        driver.submit_image_observation(shot)


def move(driver: AlpasimDriver, at_us: int, x: float, y: float, yaw: float, speed: float = 5.0) -> None:
    quat = {"w": float(np.cos(yaw / 2)), "x": 0, "y": 0, "z": float(np.sin(yaw / 2))}
    pose = {"pose": {"vec": {"x": x, "y": y, "z": 0.3}, "quat": quat}, "timestamp_us": at_us}
    state = {"linear_velocity": {"x": speed}, "linear_acceleration": {"x": 0.5, "y": 0.2}, "angular_velocity": {"z": 0.1}}
    driver.submit_egomotion_observation(
        made("RolloutEgoTrajectory", session_uuid="a", trajectory={"poses": [pose]}, dynamic_states=[state])
    )


def ask(driver: AlpasimDriver, now_us: int):
    answer = driver.drive(made("DriveRequest", session_uuid="a", time_now_us=now_us, time_query_us=now_us + 100_000))
    return json_format.ParseDict(answer, message("DriveResponse")())


@pytest.fixture
def driver() -> AlpasimDriver:
    models = []
    driver = AlpasimDriver(lambda: models.append(Recorder()) or models[-1])
    driver.models = models  # type: ignore[attr-defined]
    driver.start_session(session())
    return driver


def test_a_session_gives_the_plan_as_poses_of_the_rig(driver: AlpasimDriver):
    assert not ask(driver, 0).trajectory.poses, "nothing has come yet"
    show(driver, 1_000_000)
    assert not ask(driver, 1_000_000).trajectory.poses, "no egomotion has come"
    move(driver, 1_000_000, 10.0, 4.0, np.pi / 2)
    poses = ask(driver, 1_000_000).trajectory.poses
    assert [pose.timestamp_us for pose in poses] == [1_000_000 + 500_000 * k for k in range(7)]
    # The plan is 2.5 m a step straight on, which here is +y; it is of the lidar, and the rig goes LIDAR_AHEAD_M behind.
    first = 2.5 * np.arange(1, 7)
    np.testing.assert_allclose([(p.pose.vec.x, p.pose.vec.y) for p in poses], [(10, 4), *((10, 4 + y) for y in first)], atol=1e-5)
    assert all(np.isclose(2 * np.arctan2(p.pose.quat.z, p.pose.quat.w), np.pi / 2) for p in poses)
    assert all(np.isclose(p.pose.vec.z, 0.3) for p in poses)


def test_the_frame_that_the_model_gets_is_not_mirrored(driver: AlpasimDriver):
    show(driver, 0)
    move(driver, 0, 10.0, 4.0, 0.3)
    ask(driver, 0)
    frame = driver.models[0].frames[0]
    np.testing.assert_allclose(frame.ego2global.translation, (10, 4, 0))
    np.testing.assert_allclose(frame.can_bus[7:16], (0.5, 0.2, 9.81, 0, 0, 0.1, 5, 0, 0), atol=1e-6)
    assert tuple(frame.images["CAM_FRONT"][0, 0]) == (10, 20, 30)
    # 20 m ahead of the rear axle and 4 m to its left, at the camera's height: in the lidar's axes (right, ahead, up).
    u, v, depth, _ = frame.lidar2img["CAM_FRONT"] @ np.array([-4.0, 20.0 - LIDAR_AHEAD_M, 1.5 - 1.84, 1.0])
    np.testing.assert_allclose((u / depth, v / depth, depth), (800 - 1266 * 4 / 18.3, 450, 18.3), rtol=1e-6)


def test_between_two_frames_the_plan_is_followed(driver: AlpasimDriver):
    for k in range(8):
        at = 100_000 * k
        show(driver, at)
        move(driver, at, 0.5 * k, 0.0, 0.0)
        poses = ask(driver, at).trajectory.poses
        assert poses[1].pose.vec.x == pytest.approx(0.5 * k + 2.5, abs=1e-4), "where the car will be in half a second"
    assert [frame.time_s for frame in driver.models[0].frames] == [0.0, 0.5]


@pytest.mark.parametrize("side, command", [(1, 1), (-1, 0), (0, 2)])
def test_a_route_is_a_command(driver: AlpasimDriver, side: int, command: int):
    """Waypoints are in the rig's axes: left is +y."""
    show(driver, 0)
    move(driver, 0, 50.0, -20.0, 2.0)
    angle = np.linspace(0, np.pi / 2, 20)
    bend = np.stack([5 + 10 * np.sin(angle), side * 10 * (1 - np.cos(angle))], -1) if side else np.zeros((0, 2))
    points = [(0, 0), (5, 0), *bend[1:].tolist(), (15 if side else 60, 60 * side)]
    waypoints = [{"x": float(x), "y": float(y), "z": 0} for x, y in points]
    driver.submit_route(made("RouteRequest", session_uuid="a", route={"timestamp_us": 0, "waypoints": waypoints}))
    ask(driver, 0)
    assert driver.models[0].frames[0].command == command


def test_a_smaller_render_is_scaled_with_its_projection(driver: AlpasimDriver):
    show(driver, 0, png(np.zeros((450, 800, 3), np.uint8)))
    move(driver, 0, 0, 0, 0)
    ask(driver, 0)
    frame = driver.models[0].frames[0]
    assert frame.images["CAM_FRONT"].shape == (900, 1600, 3)
    u, v, depth, _ = frame.lidar2img["CAM_FRONT"] @ np.array([-4.0, 20.0 - LIDAR_AHEAD_M, 1.5 - 1.84, 1.0])
    np.testing.assert_allclose((u / depth, v / depth), (800 - 1266 * 4 / 18.3, 450), rtol=1e-6)


LENSES = {
    "ftheta": {"ftheta_param": {"principal_point_x": 800, "principal_point_y": 450, "angle_to_pixeldist_poly": [0, 700, 0, -20],
                                "max_angle": 1.3}},
    "ftheta by pixels": {"ftheta_param": {"principal_point_x": 800, "principal_point_y": 450,
                                          "pixeldist_to_angle_poly": [0, 1 / 700], "max_angle": 1.3,
                                          "linear_cde": {"linear_c": 1.0, "linear_d": 0.0, "linear_e": 0.0}}},
    "fisheye": {"opencv_fisheye_param": {**PINHOLE, "focal_length_x": 700, "focal_length_y": 700,
                                         "radial_coeffs": [0.02, -0.01, 0, 0]}},
    "distorted": {"opencv_pinhole_param": {**PINHOLE, "radial_coeffs": [-0.2, 0.05], "tangential_coeffs": [0.001, 0.0]}},
}  # fmt: skip


def bent(name: str, x: float, y: float) -> np.ndarray:
    """Where a lens shows a direction (x / z, y / z), by its own definition."""
    r = np.hypot(x, y)
    theta = np.arctan(r)
    if name == "distorted":
        k = 1 - 0.2 * r**2 + 0.05 * r**4
        return np.array([800 + 1266 * (x * k + 2 * 0.001 * x * y), 450 + 1266 * (y * k + 0.001 * (r**2 + 2 * y**2))])
    pixels = {"ftheta": 700 * theta - 20 * theta**3, "ftheta by pixels": 700 * theta,
              "fisheye": 700 * theta * (1 + 0.02 * theta**2 - 0.01 * theta**4)}[name]  # fmt: skip
    return np.array([800, 450]) + pixels / r * np.array([x, y])


@pytest.mark.parametrize("name", LENSES)
@pytest.mark.parametrize("half", [False, True])
def test_a_bent_lens_is_straightened(name: str, half: bool):
    """A dot that the lens shows where its definition says lies, in the straightened image, where the projection says."""
    lens = Lens(json_format.ParseDict(camera("front", **LENSES[name]), message("AvailableCamera")()), 70.0)
    direction = np.array([-0.35, 0.15])
    image = np.zeros((900, 1600, 3), np.uint8)
    cv2.circle(image, tuple(bent(name, *direction).round().astype(int).tolist()), 6, (255, 255, 255), -1)
    if half:
        image = cv2.resize(image, (800, 450), interpolation=cv2.INTER_AREA)
    straight, projection = lens.view(image)
    # The direction in the camera's axes (right, down, ahead), 10 m away, in the rig's.
    u, v, depth, _ = projection @ np.array([1.7 + 10, 3.5, 1.5 - 1.5, 1.0])
    found = np.argwhere(straight[..., 0] > 128).mean(0)[::-1]
    assert straight.shape == (900, 1600, 3) and np.abs(found - (u / depth, v / depth)).max() < 2.0


def test_messages_that_do_not_fit_get_one_line(driver: AlpasimDriver):
    with pytest.raises(UserError, match="session a has begun already"):
        driver.start_session(session())
    with pytest.raises(UserError, match=r"no camera camera_rear_tele_30fov \(for CAM_BACK\); it has camera_cross_left"):
        AlpasimDriver(Recorder).start_session(session([n for n in NAMES if n != "camera_rear_tele_30fov"]))
    with pytest.raises(UserError, match="lacks CAM_BACK_RIGHT"):
        AlpasimDriver(Recorder, {k: v for k, v in CAMERA_IDS.items() if k != "CAM_BACK_RIGHT"})
    with pytest.raises(UserError, match="cannot be decoded"):
        show(driver, 0, b"no image")
    with pytest.raises(UserError, match="1 poses came with 0 dynamic states"):
        pose = {"pose": {"quat": {"w": 1}}, "timestamp_us": 0}
        driver.submit_egomotion_observation(made("RolloutEgoTrajectory", session_uuid="a", trajectory={"poses": [pose]}))
    with pytest.raises(UserError, match="windshield"):
        AlpasimDriver(Recorder).start_session(
            session(opencv_pinhole_param=PINHOLE, bivariate_windshield_model_param={"horizontal_poly": [1.0]})
        )
    with pytest.raises(UserError, match="session b has not begun"):
        driver.drive(made("DriveRequest", session_uuid="b"))
    driver.close_session(made("DriveSessionCloseRequest", session_uuid="a"))
    with pytest.raises(UserError, match="session a has not begun"):
        ask(driver, 0)


def test_sessions_share_nothing_and_plain_objects_do_as_well(driver: AlpasimDriver):
    other = session()
    other.session_uuid = "b"
    driver.start_session(other)
    assert len(driver.models) == 2
    driver.submit_recording_ground_truth(SimpleNamespace(session_uuid="b"))
    shot = SimpleNamespace(logical_id="camera_of_nobody", frame_end_us=0, image_bytes=b"")
    driver.submit_image_observation(SimpleNamespace(session_uuid="b", camera_image=shot))  # looked past
    assert json_format.ParseDict(driver.get_version(), message("VersionId")()).version_id.startswith("uniad-")
