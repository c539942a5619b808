"""Images of every encoding, and numbers that cannot be meant; poses between poses."""

from __future__ import annotations

import array
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from uniad.deploy.sensors import CheckedPose
from uniad.errors import UserError
from uniad.geometry import transforms as tf
from uniad.ros import messages as m
from uniad.ros.transforms import Commands, NoPose, PoseSeries, Series, Tree, compose, inverted

HEADER = SimpleNamespace(frame_id="cam", stamp=SimpleNamespace(sec=1, nanosec=5))
BGR = np.random.default_rng(0).integers(0, 255, (4, 6, 3), np.uint8)


def image(pixels: np.ndarray, encoding: str, pad: int = 0, data=None) -> SimpleNamespace:
    rows = np.pad(pixels.reshape(len(pixels), -1), ((0, 0), (0, pad)))
    flat = rows.reshape(-1) if data is None else data
    return SimpleNamespace(header=HEADER, height=4, width=6, encoding=encoding, is_bigendian=0, step=rows.shape[1], data=flat)


@pytest.mark.parametrize("encoding, pixels", [
    ("bgr8", BGR), ("rgb8", BGR[..., ::-1]), ("bgra8", np.dstack((BGR, BGR[..., :1]))),
    ("rgba8", np.dstack((BGR[..., ::-1], BGR[..., :1]))),
])  # fmt: skip
@pytest.mark.parametrize("pad", [0, 5])
def test_colours_come_out_as_bgr_whatever_the_order_and_the_rows(encoding, pixels, pad):
    np.testing.assert_array_equal(m.image(image(pixels, encoding, pad), "x"), BGR)


def test_grey_yuv_and_bayer_are_turned_to_bgr():
    grey = BGR[..., 0]
    np.testing.assert_array_equal(m.image(image(grey, "mono8"), "x"), np.dstack([grey] * 3))
    flat = np.full((4, 6, 2), 128, np.uint8)  # U Y V Y: grey
    assert np.ptp(m.image(image(flat, "yuv422"), "x")) <= 2
    # Where every second pixel of a row is red, the first one of all: rggb
    mosaic = np.zeros((4, 6), np.uint8)
    mosaic[::2, ::2] = 255
    middle = m.image(image(mosaic, "bayer_rggb8"), "x")[1:-1, 1:-1].reshape(-1, 3).mean(0)
    assert middle[2] > 200 and middle[0] < 10 and middle[1] < 10


def test_bytes_of_rclpy_are_those_of_numpy():
    data = array.array("B", BGR.tobytes())
    np.testing.assert_array_equal(m.image(image(BGR, "bgr8", data=data), "x"), BGR)


def test_a_compressed_image_is_its_file():
    png = cv2.imencode(".png", BGR)[1]
    message = SimpleNamespace(header=HEADER, format="png", data=png.reshape(-1))
    np.testing.assert_array_equal(m.image(message, "x"), BGR)
    with pytest.raises(UserError, match="is not a readable JPEG"):
        m.image(SimpleNamespace(header=HEADER, format="h264", data=np.arange(50, dtype=np.uint8)), "x")
    jpeg = cv2.imencode(".jpg", np.tile(BGR, (20, 20, 1)))[1].reshape(-1)
    with pytest.raises(UserError, match="cut short"):
        m.image(SimpleNamespace(header=HEADER, format="jpeg", data=jpeg[:-40]), "x")


@pytest.mark.parametrize("message, told", [
    (image(BGR, "16UC1"), "encoding '16UC1' cannot be read; supported are bgr8"),
    (image(BGR, "bgr8", data=BGR.reshape(-1)[:-1]), "needs 72 bytes, the message has 71"),
    (image(BGR[..., 0], "bgr8"), "in rows of 6 bytes"),
])  # fmt: skip
def test_an_image_that_would_be_misread_is_one_line(message, told):
    with pytest.raises(UserError, match=told):
        m.image(message, "x")


COMMANDS = [(0, 0), (1, 1), ("LEFT", 1), ("straight", 2), ("turn_right", 0), ("go_straight", 2), ("2", 2)]


@pytest.mark.parametrize("value, number", COMMANDS)
def test_commands_are_numbers_or_words(value, number):
    assert m.command(SimpleNamespace(data=value), "x") == number


@pytest.mark.parametrize("value", [3, -1, "back", "", "7"])
def test_another_command_is_one_line(value):
    with pytest.raises(UserError, match="the command is .*needed is one of"):
        m.command(SimpleNamespace(data=value), "x")


def vector(x, y, z, **more):
    return SimpleNamespace(x=x, y=y, z=z, **more)


def test_a_pose_that_is_none_is_one_line():
    with pytest.raises(UserError, match="quaternion has length 0"):
        m.pose(vector(0, 0, 0), vector(0, 0, 0, w=0), "x")
    with pytest.raises(UserError, match="not finite"):
        m.pose(vector(0, float("nan"), 0), vector(0, 0, 0, w=1), "x")
    parent = SimpleNamespace(header=SimpleNamespace(frame_id="a"), child_frame_id="a", transform=None)
    with pytest.raises(UserError, match="joins no two frames"):
        m.edge(parent, "x")


def pose(x: float, degrees: float) -> CheckedPose:
    half = np.radians(degrees) / 2
    return CheckedPose(np.array([x, 0.0, 0.0]), np.array([np.cos(half), 0.0, 0.0, np.sin(half)]))


def test_poses_between_two_are_interpolated_and_far_ones_refused():
    series = PoseSeries()
    for ms, entry in ((200, pose(4, 40)), (0, pose(0, 0)), (100, pose(2, 20))):
        series.add(ms * 10**6, entry)
    middle = series.at(150 * 10**6, "x")
    np.testing.assert_allclose(middle.translation, [3, 0, 0])
    assert np.degrees(tf.heading(middle.matrix())) == pytest.approx(30)
    assert np.degrees(tf.heading(series.at(250 * 10**6, "x").matrix())) == pytest.approx(50), "carried on"
    assert series.at(100 * 10**6, "x").translation[0] == 2
    with pytest.raises(NoPose, match="nearest pose is 300 ms away"):
        series.at(500 * 10**6, "x")
    series.add(900 * 10**6, pose(9, 0))
    with pytest.raises(NoPose, match="no pose for 700 ms"):
        series.at(500 * 10**6, "x")


def test_a_running_car_forgets_by_the_clock_of_what_it_is_told_and_keeps_what_still_holds():
    """A command given a minute ago holds until the next one, also for an instant before that one that is still to be run."""
    second = 10**9
    series: Series[int] = Series(live=True)
    for at in (0, 10, 100):
        series.add(at * second, at)
    assert [stamp // second for stamp, _ in series.entries] == [10, 100] and series.last(99 * second) == 10
    series.add(2 * 10**6 * second, -1)  # one time that is far off, as of a damaged message: what comes after it counts again
    for at in (101, 102):
        series.add(at * second, at)
    assert series.last(102 * second) == 102 and series.last(101 * second) == 101
    kept: Series[int] = Series()
    kept.add(0, 0), kept.add(100 * second, 1)
    assert len(kept) == 2, "a bag is read as a whole"


# A simulator has its own pace; one clock has one.
@pytest.mark.parametrize("apart, pace", [(0, 1.0), *((sign * 10**17, pace) for sign in (1, -1) for pace in (1.0, 0.2, 4.0))])
def test_commands_are_put_on_the_clock_of_headers_whatever_the_clock_of_arrival_is(apart, pace):
    """References at 0, 0.5, 1 ... s; a command comes before the first, and between others; after each the newest holds."""
    half = 5 * 10**8
    came = lambda stamp: 10**18 + int(stamp / pace)  # noqa: E731
    said = {-half // 2: 0, 2 * half + half // 2: 1, 2 * half + half // 2 + 10: 2, 7 * half + half // 2: 0}
    for live in (False, True):
        commands, seen = Commands(live), []
        for at in sorted([*said, *range(0, 10 * half, half)]):
            if at in said:
                commands.said(came(at), said[at])
            else:
                commands.tick(came(at), came(0) + at + apart)
            if live and at not in said:
                seen.append(commands.last(came(0) + at + apart))
        commands.flush()
        if not live:
            seen = [commands.last(came(0) + at + apart) for at in range(0, 10 * half, half)]
        assert seen == [0, 0, 0, 2, 2, 2, 2, 2, 0, 0], (live, seen)


def test_a_tree_joins_frames_up_and_down_and_over_time():
    tree = Tree()
    tree.add("base", "lidar", pose(1, -90), None)
    tree.add("base", "cab", pose(0, 0), 0)
    tree.add("base", "cab", pose(0, 10), 100_000_000)
    tree.add("cab", "cam", pose(2, 0), None)
    expected = np.linalg.inv(pose(1, -90).matrix()) @ pose(0, 5).matrix() @ pose(2, 0).matrix()
    np.testing.assert_allclose(tree.lookup("lidar", "cam", 50_000_000).matrix(), expected, atol=1e-12)
    np.testing.assert_allclose(compose(inverted(pose(1, 30)), pose(1, 30)).matrix(), np.eye(4), atol=1e-12)
    with pytest.raises(UserError, match="TF does not join map with base; its frames are base, cab, cam, lidar"):
        tree.lookup("base", "map", 0)
    with pytest.raises(UserError, match="two parents"):
        tree.add("lidar", "cam", pose(0, 0), None)
    tree.add("lidar", "base", pose(0, 0), None)
    with pytest.raises(UserError, match="circle"):
        tree.lookup("base", "cam", 0)
