"""Bags that contradict themselves, show nothing, or attack their reader: one line each, and no frame of them reaches a model."""

from __future__ import annotations

import copy
import os
import random
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

import infer
from helpers.bags import Message, changed, messages_of, record, write
from uniad.deploy.sensors import CheckedPose as Pose
from uniad.errors import UserError
from uniad.ros.bag import BagFrames
from uniad.ros.transforms import PoseSeries, Tree

pytest.importorskip("rosbags", reason="rosbags is not installed: make env installs it")

FRONT = "/cam_front/image_raw/compressed"


@pytest.fixture(scope="module")
def short(spec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(spec.data, tmp_path_factory.mktemp("short") / "short.mcap", most=2)


@pytest.fixture(scope="module")
def few(short: Path) -> list[Message]:
    return messages_of(short)


def with_messages(few, path: Path, wanted: Callable[[str], bool], change: Callable[[Any], Any]) -> Path:
    """The bag with some messages changed; a list that ``change`` returns stands for the message."""

    def new(topic: str, stamp: int, message: Any) -> list[Message]:
        if not wanted(topic):
            return [(topic, stamp, message)]
        message = copy.deepcopy(message)
        made = change(message)
        return [(topic, stamp, m) for m in (made if isinstance(made, list) else [message])]

    return changed(few, path, new)


def setting(**values: Any) -> Callable[[Any], None]:
    def change(message: Any) -> None:
        for name, value in values.items():
            setattr(message, name, value)

    return change


def frame_by_frame(path: Path) -> Iterator[Any]:
    return iter(list(BagFrames(path).scene()))


def is_info(topic: str) -> bool:
    return topic.endswith("camera_info")


# --- what is there twice, or contradicts itself


def moved_on(message: Any) -> list[Any]:
    other = copy.deepcopy(message)
    other.pose.pose.position.x += 30.0
    return [message, other]


def test_two_poses_of_one_time_are_one_line_unless_they_are_the_same(few, tmp_path):
    twice = with_messages(few, tmp_path / "twice.mcap", "/odometry".__eq__, lambda m: [m, copy.deepcopy(m)])
    assert len(BagFrames(twice).frames) == 2
    apart = with_messages(few, tmp_path / "apart.mcap", "/odometry".__eq__, moved_on)
    with pytest.raises(UserError, match=r"/odometry: two poses at .* s, 30 m and 0 degrees apart: do two nodes publish"):
        BagFrames(apart)


def test_two_transforms_of_one_time_are_one_line():
    tree, turned = Tree(), Pose(np.zeros(3), np.array([0.9659258, 0.0, 0.0, 0.258819]))  # by 30 degrees
    tree.add("map", "base", Pose(np.zeros(3), np.array([1.0, 0, 0, 0])), 10**9)
    with pytest.raises(UserError, match="TF map from base: two poses at 1.000 s, 0 m and 30 degrees apart"):
        tree.add("map", "base", turned, 10**9)
    # A quaternion and its negative are one rotation, and what corrects itself by centimetres may stay.
    poses = PoseSeries()
    for rotation, x in (([1.0, 0, 0, 0], 0.0), ([-1.0, 0, 0, 0], 0.1)):
        poses.add(5, Pose(np.array([x, 0, 0]), np.array(rotation)))
    assert len(poses) == 1


# --- images and lenses that show nothing


@pytest.mark.parametrize("width, height", [(1, 1), (16, 9), (100, 100), (30000, 1), (1, 30000), (60000, 4), (900, 1800)])
def test_a_thumbnail_and_a_strip_are_no_camera_images(few, tmp_path, width, height):
    data = cv2.imencode(".png", np.full((height, width, 3), 99, np.uint8))[1].reshape(-1)

    def small(message: Any) -> None:
        if hasattr(message, "format"):
            message.data = data
        else:
            message.width, message.height = width, height

    bag = with_messages(few, tmp_path / "small.mcap", lambda t: "cam_" in t, small)
    with pytest.raises(UserError, match=rf"the image has {width}x{height} pixels; the model's have 1600x900.*record larger"):
        frame_by_frame(bag)


@pytest.mark.parametrize("d", [[1e30, 0, 0, 0, 0], [5.0, 5, 5, 5, 5], [-1e8, 0, 0, 0, 0], [-8.0, 0, 0, 0, 0]])
def test_distortion_that_takes_the_image_away_is_one_line(few, tmp_path, d):
    bag = with_messages(few, tmp_path / "d.mcap", is_info, setting(d=np.array(d, float)))
    with pytest.raises(UserError, match="folds most of the image, or takes it away: calibrate again"):
        frame_by_frame(bag)


@pytest.mark.parametrize("data", [b"", b"\xff", b"hello there", b"\x89PNG\r\n\x1a\n" + bytes(60)])
def test_an_image_that_is_none_is_one_line_that_names_its_topic_and_time(few, tmp_path, data):
    bag = with_messages(few, tmp_path / "none.mcap", FRONT.__eq__, setting(data=np.frombuffer(data, np.uint8)))
    with pytest.raises(UserError, match=rf"{FRONT} at \d+\.\d+ s is not a readable JPEG"):
        frame_by_frame(bag)


# --- containers


def held_together(path: Path) -> bool:
    """Whether the bag was read; it was refused with one line otherwise. Anything else is a failure."""
    try:
        return len(list(BagFrames(path).scene())) > 0
    except UserError as error:
        assert str(error) and "\n" not in str(error)
        return False


@pytest.mark.parametrize("suffix", [".mcap", ".db3"])
def test_damage_anywhere_is_one_line_or_does_no_harm(few, short, tmp_path, suffix, record_property):
    whole = short if suffix == ".mcap" else write(tmp_path / "whole.db3", few)
    content, chance, path = whole.read_bytes(), random.Random(0), tmp_path / f"spoilt{suffix}"
    ends = [0, 7, 100, len(content) // 2, len(content) - 1]
    for number in range(30):
        spoilt = bytearray(content if number >= len(ends) else content[: ends[number]])
        places = (chance.randrange(len(content)), chance.randrange(600), len(content) - 1 - chance.randrange(3000))
        for place in places[: chance.choice((1, 3))] if number >= len(ends) else ():
            spoilt[place] = chance.randrange(256)
        path.write_bytes(spoilt)
        held_together(path)
        if number < 4:
            assert not held_together(path), f"cut to {ends[number]} bytes"
    record_property("attacks", 30)


@pytest.mark.parametrize("statement", [
    "update messages set data='text' where id=5", "update messages set timestamp='x' where id=5", "delete from messages",
    "update topics set type='foo/msg/Bar'", "drop table topics", "update topics set name='a' || char(10)",
])  # fmt: skip
def test_a_database_that_is_no_bag_is_one_line(few, tmp_path, statement):
    path = write(tmp_path / "spoilt.db3", few)
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
    assert not held_together(path)


@pytest.mark.parametrize("change", [
    lambda text, name: "", lambda text, name: "hello", lambda text, name: "- 1\n- 2", lambda text, name: "{[:",
    lambda text, name: "!!python/object/apply:os.mkdir ['owned']", lambda text, name: text.replace(name, "absent.mcap"),
    lambda text, name: text.replace(name, "/etc/passwd"), lambda text, name: text.replace("version: 9", "version: 999"),
    lambda text, name: text.replace("storage_identifier: mcap", "storage_identifier: foo"),
    lambda text, name: text.replace("- " + name, "[]"), lambda text, name: "[" * 5000,
    lambda text, name: text.replace(name, "../pipe.mcap"), lambda text, name: text.replace(name, "/dev/zero"),
])  # fmt: skip
def test_metadata_that_leads_elsewhere_is_one_line(few, tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    folder = write(tmp_path / "folder", few[:3])
    os.mkfifo(tmp_path / "pipe.mcap")
    (file,) = folder.glob("*.mcap")
    metadata = folder / "metadata.yaml"
    metadata.write_text(change(metadata.read_text(), file.name))
    assert not held_together(folder)
    assert not (tmp_path / "owned").exists()


# --- the command line


@pytest.mark.parametrize("words, told", [
    (["--tolerance", "2"], "--tolerance 2: at most 0.5 s"), (["--tolerance", "nan"], "give seconds from 0 on"),
    (["--start", "inf"], "give seconds from 0 on"), (["--start", "5", "--stop", "5"], "is not after --start"),
    (["--every", "0"], "give a number from 1 on"), (["--frames", "-1"], "give a number from 1 on"),
])  # fmt: skip
def test_numbers_that_no_bag_has_are_one_line(words, told, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["infer.py", "model.onnx", "--out", str(tmp_path / "out"), "--bag", "x.mcap", *words])
    with pytest.raises(UserError, match=told):
        infer.main()


def test_a_name_with_blanks_quotes_and_umlauts_is_a_name(short, tmp_path):
    path = tmp_path / "Fahrt 'zum' \"Büro\".mcap"
    shutil.copy(short, path)
    assert BagFrames(path).name == path.stem and len(BagFrames(path).frames) == 2


# --- times that are somebody else's


def stamped(message: Any, ns: int) -> None:
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(ns, 10**9)


def time_of(message: Any) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


@pytest.mark.parametrize("seconds", [-100, 100])
def test_an_imu_of_another_time_is_not_how_the_car_moves_now(few, tmp_path, seconds):
    bag = with_messages(few, tmp_path / "imu.mcap", "/imu".__eq__, lambda m: stamped(m, time_of(m) + seconds * 10**9))
    with pytest.raises(UserError, match=r"missing is motion in 2 \(.*/imu: the next message is \d+ ms away"):
        BagFrames(bag)


def test_a_frame_without_an_imu_nearby_is_left_out_and_said_to_be(few, tmp_path):
    first = min(time_of(m) for topic, _, m in few if topic == "/lidar_top/points")
    bag = with_messages(few, tmp_path / "gap.mcap", "/imu".__eq__, lambda m: [m] if time_of(m) > first + 320_000_000 else [])
    frames = BagFrames(bag)
    assert len(frames.frames) == 1 and list(frames.left_out[0].missing) == ["motion"]
    assert any("they lack motion" in note for note in frames.notes())
    without = BagFrames(bag, {"imu": None})
    assert len(without.frames) == 2 and any("no Imu" in note for note in without.notes())


def test_commands_go_by_the_clock_of_headers_where_it_is_not_the_recorders(few, tmp_path):
    instants = [ns for topic, ns, _ in few if topic == "/lidar_top/points"]
    kind = type(next(m for topic, _, m in few if topic == "/command"))
    said = [("/command", instants[0] - 10**8, kind(data=1)), ("/command", sum(instants) // 2, kind(data=0))]
    others = [entry for entry in few if entry[0] != "/command"]

    def turned(shift_ns: int) -> Iterator[Message]:
        """The command changes half way between the two frames; headers are off by ``shift_ns``."""
        for topic, ns, message in sorted([*copy.deepcopy(others), *said], key=lambda entry: entry[1]):
            for headed in [message] if hasattr(message, "header") else getattr(message, "transforms", ()):
                stamped(headed, time_of(headed) + shift_ns)
            yield topic, ns, message

    for number, shift in enumerate((0, -(10**17), 10**17)):
        frames = BagFrames(write(tmp_path / f"{number}.mcap", turned(shift)))
        assert [frame.sensors.command for frame in frames.scene()] == [1, 0], shift


def test_a_command_that_comes_late_and_topics_without_a_time_or_in_no_order_are_said(few, tmp_path):
    late = changed(few, tmp_path / "late.mcap", lambda t, ns, m: [(t, ns + 10**11 * (t == "/command"), m)])
    assert any("/command has no message until 100" in note for note in BagFrames(late).notes())
    untimed = with_messages(few, tmp_path / "untimed.mcap", "/odometry".__eq__, lambda m: stamped(m, 0))
    assert any(note.startswith("/odometry:") and "headers have no time" in note for note in BagFrames(untimed).notes())
    moved = iter([False] * 5 + [True] + [False] * 10**6)
    order = with_messages(few, tmp_path / "order.mcap", "/imu".__eq__, lambda m: stamped(m, time_of(m) - 25000000 * next(moved)))
    assert "/imu: 1 messages out of order sorted, 0 repeated ones left out" in BagFrames(order).notes()


@pytest.mark.parametrize("topic", ["/odometry", "/imu", FRONT, "/lidar_top/points"])
@pytest.mark.parametrize("sec, nanosec", [(-5, 0), (-(2**31), 999), (5, 2**32 - 1), (1532402927, 10**9)])
def test_a_time_that_no_clock_has_is_one_line(few, tmp_path, topic, sec, nanosec):
    def spoilt(message: Any) -> None:
        message.header.stamp.sec, message.header.stamp.nanosec = sec, nanosec

    bag = with_messages(few, tmp_path / "time.mcap", topic.__eq__, spoilt)
    with pytest.raises(UserError, match=rf"{topic}: message 0: its time is {sec} s and {nanosec} ns"):
        BagFrames(bag)


def test_two_mountings_of_one_camera_are_one_line_unless_they_are_the_same(few, tmp_path):
    def again(metres: float) -> Path:
        def change(message: Any) -> list[Any]:
            other = copy.deepcopy(message)
            for transform in other.transforms:
                transform.transform.translation.x += metres
            return [message, other]

        return with_messages(few, tmp_path / f"{metres}.mcap", "/tf_static".__eq__, change)

    assert len(BagFrames(again(0.0)).frames) == 2
    with pytest.raises(UserError, match=r"TF: \w+ is mounted twice in base_link, 0\.3 m and 0\.0 degrees apart"):
        BagFrames(again(0.3))
    live = Tree(live=True)  # a running car takes the last one, as tf2 does
    for metres in (1.0, 2.0):
        live.add("base", "camera", Pose(np.array([metres, 0, 0]), np.array([1.0, 0, 0, 0])), None)
    assert live.fixed["camera"].translation[0] == 2.0
