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
