"""Topics find their cameras by name; what is not clear is one line that lists what there is."""

from __future__ import annotations

import json

import pytest

from uniad.errors import UserError
from uniad.formats.layout import CAMERAS
from uniad.formats.topics import read_topics
from uniad.ros import messages as m
from uniad.ros.topics import Held, camera_of, find_topics, lidar_like


@pytest.mark.parametrize("name, camera", [
    ("/cam_front/image_raw/compressed", "CAM_FRONT"), ("/CAM_FRONT_LEFT/image_rect", "CAM_FRONT_LEFT"),
    ("/sensing/camera/frontright/image", "CAM_FRONT_RIGHT"), ("/camera/rear/image_raw", "CAM_BACK"),
    ("cam_back_left_optical", "CAM_BACK_LEFT"), ("/vehicle/br_camera/image", "CAM_BACK_RIGHT"), ("/camera0/image_raw", None),
    ("/cam_front/depth/image", None), ("/stereo/front/left", None), ("/left/image", None), ("/bright/image", None),
    ("/front_back/image", None), ("/fwd_wide/image", "CAM_FRONT"),
])  # fmt: skip
def test_a_name_speaks_of_a_camera_or_of_none(name, camera):
    assert camera_of(name) == camera


def car(*, without=(), more=()) -> list[Held]:
    held = []
    for name in CAMERAS:
        held += [Held(f"/{name.lower()}/image_raw", m.IMAGE, 9), Held(f"/{name.lower()}/camera_info", m.CAMERA_INFO, 9)]
    held += [Held("/odom", m.ODOMETRY, 90), Held("/points", m.POINTS, 9, "lidar_top"), Held("/tf", m.TF, 9)]
    return [h for h in held if h.topic not in without] + list(more)


def test_a_plain_car_is_found_by_its_names():
    topics = find_topics(car(more=[Held("/nav/command", m.STRING, 3), Held("/chatter", m.STRING, 3)]), {}, "x")
    back = topics.cameras["CAM_BACK"]
    assert (back.topic, back.info) == ("/cam_back/image_raw", "/cam_back/camera_info")
    assert (topics.odometry, topics.imu, topics.command, topics.reference) == ("/odom", None, "/nav/command", "/points")


def test_numbered_cameras_are_found_by_their_frames():
    held = car(without={"/cam_back/image_raw"}, more=[Held("/camera3/image_raw", m.IMAGE, 9, "cam_back_optical")])
    assert find_topics(held, {}, "x").cameras["CAM_BACK"].topic == "/camera3/image_raw"


def test_raw_stands_before_compressed_and_rectified_before_raw():
    more = [Held("/cam_back/image_raw/compressed", m.COMPRESSED, 9), Held("/cam_front/image_rect", m.IMAGE, 9)]
    topics = find_topics(car(more=more), {}, "x")
    assert topics.cameras["CAM_BACK"].topic == "/cam_back/image_raw"
    assert topics.cameras["CAM_FRONT"].topic == "/cam_front/image_rect" and topics.cameras["CAM_FRONT"].rectified


@pytest.mark.parametrize("held, told", [
    (car(without={"/cam_back/image_raw"}), r"no topic of CAM_BACK: .*it holds /cam_back/camera_info \(.*CameraInfo, 9\)"),
    (car(more=[Held("/front2/image", m.IMAGE, 9)]), r"2 of CAM_FRONT \(/cam_front/image_raw, /front2/image\)"),
    (car(more=[Held("/odom2", m.ODOMETRY, 9)]), r"2 topics that may be odometry \(/odom, /odom2\)"),
    (car(without={"/cam_back/camera_info"}), r"no CameraInfo of CAM_BACK beside /cam_back/image_raw"),
    ([], "it holds no topic"),
])  # fmt: skip
def test_what_is_missing_or_ambiguous_is_one_line_that_lists_what_there_is(held, told):
    with pytest.raises(UserError, match=told):
        find_topics(held, {}, "drive.mcap")


def test_a_file_of_topics_decides(tmp_path):
    more = [Held("/front2/image", m.IMAGE, 9), Held("/odom2", m.ODOMETRY, 9)]
    path = tmp_path / "topics.json"
    said = {"topic": "/front2/image", "info": "/cam_front/camera_info", "frame": "front", "rectified": True}
    path.write_text(json.dumps({
        "cameras": {"CAM_FRONT": said}, "odometry": "/odom2", "command": None, "reference": "CAM_BACK", "frames": {"base": "car"},
    }))  # fmt: skip
    topics = find_topics(car(more=more), read_topics(path), "x")
    front = topics.cameras["CAM_FRONT"]
    assert (front.topic, front.info, front.frame, front.rectified) == ("/front2/image", "/cam_front/camera_info", "front", True)
    assert topics.odometry == "/odom2" and topics.reference == "CAM_BACK" and topics.frames == {"base": "car"}


@pytest.mark.parametrize("given, told", [
    ({"cameras": {"CAM_FRONT": "/odom"}}, "topic /odom is nav_msgs/Odometry; as CAM_FRONT it must be sensor_msgs/Image or"),
    ({"cameras": {"CAM_FRONT": "/none"}}, "topic /none, which is said to be CAM_FRONT, is not there: it holds"),
    ({"reference": "/odom"}, "topic /odom is nav_msgs/Odometry; as reference it must be sensor_msgs/PointCloud2"),
    ({"odometry": "/points"}, "topic /points is sensor_msgs/PointCloud2; as odometry it must be nav_msgs/Odometry"),
    ({"cameras": {"CAM_FRONT": "/cam_back/image_raw"}}, "CAM_FRONT and CAM_BACK are both|no topic of CAM_BACK"),
])  # fmt: skip
def test_a_file_that_does_not_fit_the_bag_is_one_line(given, told):
    from uniad.formats.topics import TOPICS

    with pytest.raises(UserError, match=told):
        find_topics(car(), TOPICS.check(given, "topics.json"), "drive.mcap")


@pytest.mark.parametrize("text, told", [
    ('{"cameras": {"CAM_FRNT": "/a"}}', "CAM_FRNT"), ('{"odometri": "/a"}', "odometri"), ("{", "cannot be read"),
    ('{"imu": 3}', "imu"),
])  # fmt: skip
def test_a_damaged_file_of_topics_is_one_line(tmp_path, text, told):
    path = tmp_path / "topics.json"
    path.write_text(text)
    with pytest.raises(UserError, match=told):
        read_topics(path)
    with pytest.raises(UserError, match="does not exist"):
        read_topics(tmp_path / "absent.json")


def test_a_lidar_is_found_where_there_is_one():
    assert lidar_like(["base_link", "velodyne"]) == "velodyne"
    assert lidar_like(["lidar_left", "lidar_right"]) is None
    assert lidar_like(["lidar_left", "lidar_top"]) == "lidar_top"
