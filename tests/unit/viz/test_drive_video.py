"""The video of a drive: what is there, what the model makes of it and the score so far are in its pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from helpers.drives import Other, driven, expert
from uniad.deploy.sensors import Pose, Sensors
from uniad.errors import UserError
from uniad.simulation.log import RED, Detections, DriveLog, Forecasts
from uniad.simulation.score import score
from uniad.viz.drive_video import BAD, DIM, HEIGHT, LIGHTS, WIDTH, Driven, pictures, write_drive_video
from uniad.viz.palette import EGO, PLAN, class_colour

FRONT = ("CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT")
LOOKS = np.array([[1266, 816, 0, 0], [0, 491, -1266, -380], [0, 1, 0, -0.7], [0, 0, 0, 1.0]])


def sensors(frame: int) -> Sensors:
    """Grey cameras, lighter from frame to frame."""
    images = {name: np.full((900, 1600, 3), 40 + 2 * frame, np.uint8) for name in FRONT}
    pose = Pose([0.94, 0, 1.84], [1, 0, 0, 0])
    return Sensors(images, {name: LOOKS for name in FRONT}, pose, pose, 0.0)


def seen(log: DriveLog) -> DriveLog:
    """The same drive with a detection and a forecast in each frame."""
    box = np.array([[3.0, 15.0, -1.8, 1.9, 4.6, 1.7, -np.pi / 2, 0, 0]], np.float32)
    found = Detections(box, ("bus",), np.array([0.9], np.float32), np.array([4]))
    ways = Forecasts(box[:, :2], np.array([[[3.0, 20.0], [3.0, 30.0]]], np.float32), ("bus",))
    return replace(log, frames=tuple(replace(f, detections=found, forecasts=ways) for f in log.frames))


@pytest.fixture(scope="module")
def drive() -> Driven:
    others = (Other("truck", (75.0, -1.75), size=(2.5, 8.0, 3.0)), Other(xy=(60.0, 1.75), velocity=(-4.0, 0.0), heading=np.pi))
    log, by = seen(driven(6.0, 14.0, others=others, signal=RED)), expert()
    return Driven(log, score(log, by), by, sensors)


def count(picture: np.ndarray, colour: tuple[int, ...], part=np.s_[:, :HEIGHT]) -> int:
    return int((np.abs(picture[part].astype(int) - colour).max(-1) <= 2).sum())


def test_a_picture_holds_the_world_the_plan_what_the_model_sees_and_the_light(drive: Driven):
    first = next(pictures(drive))
    assert first.shape == (HEIGHT, WIDTH, 3) and first.dtype == np.uint8
    for colour, least in ((EGO, 500), (PLAN, 300), (class_colour("bus"), 100)):
        assert count(first, colour) >= least, colour
    dim = tuple(int(DIM * c) for c in class_colour("car"))
    assert count(first, dim) == 0, "the oncoming car is still too far away"
    assert count(list(pictures(drive, every=40))[1], dim) > 300
    assert count(list(pictures(drive, every=100))[1], LIGHTS[RED]) > 100
    assert count(first, (40, 40, 40), np.s_[:100, HEIGHT:]) > 5000, "the front camera"


def test_the_cameras_change_with_the_frames(drive: Driven):
    shown = [int(picture[300, WIDTH - 30, 0]) for picture in pictures(drive, every=5)]
    assert shown == [40 + 2 * n for n in range(len(drive.log.frames))]


def test_what_goes_wrong_is_written_large_when_it_does(drive: Driven):
    crash = next(event for event in drive.scores.events if event.kind == "collision")
    before, after = list(pictures(drive, every=crash.tick))
    assert crash.at_fault and count(before, BAD) == 0 and count(after, BAD) > 500
    score_place = np.s_[HEIGHT - 300 : HEIGHT - 200, WIDTH - 150 :]
    assert count(before, BAD, score_place) == 0 and count(after, BAD, score_place) > 100


def test_a_video_is_as_long_as_the_drive_and_a_mismatch_gets_one_line(drive: Driven, tmp_path: Path):
    assert write_drive_video(tmp_path / "a.mp4", drive, every=20) == 8
    assert b"ftyp" in (tmp_path / "a.mp4").read_bytes()[:16]
    with pytest.raises(UserError, match="the scores are of seed-0100-route-00 by model, the drive is another"):
        write_drive_video(tmp_path / "b.mp4", replace(drive, log=expert()))
    assert not (tmp_path / "b.mp4").exists()
