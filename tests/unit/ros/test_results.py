"""Results as a bag, read back: where boxes, plan and cells stand, and on which times."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.bags import drawn_objects as objects
from helpers.bags import drawn_result as result
from helpers.bags import messages_of
from uniad.deploy.sensors import Pose
from uniad.errors import UserError
from uniad.geometry import transforms as tf
from uniad.geometry.boxes import corners
from uniad.ros.messages import nanoseconds
from uniad.ros.results import FRAME, MAP_VALUES, ResultsBag
from uniad.ros.write import BagWriter

pytest.importorskip("rosbags", reason="rosbags is not installed: make env installs it")

STAMP = 1_532_402_928_147_847_123
LIDAR = Pose((0.94, 0.0, 1.84), (np.sqrt(0.5), 0.0, 0.0, -np.sqrt(0.5)))


@pytest.fixture(scope="module")
def written(spec, tmp_path_factory) -> tuple[Path, dict[str, list]]:
    folder = tmp_path_factory.mktemp("results")
    image = folder / "front.jpg"
    image.write_bytes(b"\xff\xd8 an image \xff\xd9")
    sensors = SimpleNamespace(lidar2ego=LIDAR, ego2global=Pose((100.0, 50.0, 0.0), (1.0, 0.0, 0.0, 0.0)))
    with ResultsBag(folder / "out.mcap", spec, "odom", "car") as bag:
        for step in range(2):
            info = {"bag": {"stamp_ns": STAMP + step * 500_000_000}, "cams": {"CAM_FRONT": str(image), "CAM_BACK": "/back#3"}}
            bag.add(SimpleNamespace(info=info, sensors=sensors), result(30, 40))
    by_topic: dict[str, list] = {}
    for topic, stamp, message in messages_of(folder / "out.mcap"):
        by_topic.setdefault(topic, []).append((stamp, message))
    return folder / "out.mcap", by_topic


def test_every_topic_has_the_frames_own_times(written):
    _, topics = written
    assert set(topics) == {
        "/tf", "/tf_static", "/uniad/tracks", "/uniad/detections", "/uniad/forecasts", "/uniad/plan", "/uniad/plan_raw",
        "/uniad/map", "/uniad/occupancy", "/uniad/cam_front",
    }  # fmt: skip
    for topic, entries in topics.items():
        if topic != "/tf_static":
            assert [stamp for stamp, _ in entries] == [STAMP, STAMP + 500_000_000]
    (plan, *_), (image, *_) = topics["/uniad/plan"], topics["/uniad/cam_front"]
    assert nanoseconds(plan[1].header.stamp) == STAMP and plan[1].header.frame_id == FRAME
    assert bytes(image[1].data).startswith(b"\xff\xd8") and image[1].format == "jpeg"
    (_, static), *_ = topics["/tf_static"]
    assert (static.transforms[0].header.frame_id, static.transforms[0].child_frame_id) == ("car", FRAME)
    assert topics["/tf"][0][1].transforms[0].header.frame_id == "odom"


def test_a_box_stands_where_its_corners_are(written):
    _, topics = written
    markers = topics["/uniad/tracks"][0][1].markers
    assert markers[0].action == 3, "what stood there before goes"
    cubes = [m for m in markers[1:] if m.type == 1]
    assert [(m.ns, m.id) for m in cubes] == [("car", 7), ("pedestrian", 11)]
    assert {m.text for m in markers if m.type == 9} == {"car 7 0.90", "pedestrian 11 0.50"}
    for cube, box in zip(cubes, objects().boxes):
        o = cube.pose.orientation
        turn = tf.rotation_matrix([o.w, o.x, o.y, o.z])
        middle = np.array([cube.pose.position.x, cube.pose.position.y, cube.pose.position.z])
        size = np.array([cube.scale.x, cube.scale.y, cube.scale.z])
        signs = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T / 2
        found = {tuple(np.round(c, 3)) for c in middle + (signs * size) @ turn.T}
        expected = {tuple(np.round(c, 3)) for c in corners(torch.from_numpy(box[None, :7]).double())[0].numpy()}
        assert found == expected


def test_the_plan_is_a_path_from_the_car_with_the_times_of_its_poses(written):
    _, topics = written
    (stamp, path), *_ = topics["/uniad/plan"]
    assert [(p.pose.position.x, p.pose.position.y) for p in path.poses] == [(0.0, float(y)) for y in range(7)]
    assert [nanoseconds(p.header.stamp) - stamp for p in path.poses] == [n * 500_000_000 for n in range(7)]
    assert path.poses[0].pose.position.z == pytest.approx(-1.84)
    o = path.poses[0].pose.orientation
    np.testing.assert_allclose(tf.rotation_matrix([o.w, o.x, o.y, o.z])[:, 0], [0, 1, 0], atol=1e-9)


def test_cells_lie_where_the_map_has_them(written, spec):
    _, topics = written
    (_, grid), *_ = topics["/uniad/map"]
    cells = grid.data.reshape(grid.info.height, grid.info.width)
    assert (grid.info.height, grid.info.width) == (30, 40)
    assert cells[2, 3] == MAP_VALUES["crossing"] and cells[5, 1] == 0 and cells[0, 0] == 100
    assert grid.info.origin.position.x == pytest.approx(spec.data.pc_range[0])
    (_, occupied), *_ = topics["/uniad/occupancy"]
    occupied = occupied.data.reshape(20, 20)
    assert occupied[4, 2] == 100 and 0 < occupied[7, 9] < 100 and occupied[0, 0] == 0


def test_another_reader_reads_it_too(written):
    reader = pytest.importorskip("mcap.reader", reason="mcap is not installed: make env installs it")
    with open(written[0], "rb") as stream:
        summary = reader.make_reader(stream).get_summary()
    names = {schema.name for schema in summary.schemas.values()}
    assert {"visualization_msgs/msg/MarkerArray", "nav_msgs/msg/Path", "nav_msgs/msg/OccupancyGrid"} <= names
    assert summary.statistics.message_start_time == STAMP


def test_a_bag_is_there_whole_or_not_at_all(spec, tmp_path):
    with pytest.raises(ZeroDivisionError):
        with ResultsBag(tmp_path / "half.mcap", spec) as bag:
            bag.writer.write("/n", 1, bag.writer.make("std_msgs/msg/Int8", data=1))
            raise ZeroDivisionError
    with pytest.raises(UserError, match="no message to write"):
        with BagWriter(tmp_path / "none.mcap"):
            pass
    (tmp_path / "folder").mkdir()
    for name, told in (("folder", "exists; remove it"), ("old.bag", "bags of ROS 1 are not written")):
        with pytest.raises(UserError, match=told):
            BagWriter(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
