"""Faults of a car and RoboBEV's corruptions: what they change, by how much, and nothing besides."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from uniad.assess.corruptions import CORRUPTIONS
from uniad.assess.faults import FAULTS, IMAGES, SEVERITIES, check_severity, find_faults
from uniad.deploy.sensors import Pose, Sensors
from uniad.errors import UserError
from uniad.formats.layout import CAMERAS

FRAMES = 6
EVERY = [(name, severity) for name in FAULTS for severity in SEVERITIES]


def projection(camera: int) -> np.ndarray:
    """A pinhole camera that looks somewhere, half a metre off the lidar."""
    angle = camera * np.pi / 3
    rotation = np.array([[np.cos(angle), -np.sin(angle), 0], [0, 0, -1], [np.sin(angle), np.cos(angle), 0]])
    out = np.eye(4)
    out[:3, :3] = rotation
    out[:3, 3] = rotation @ [0.3, -0.5, 0.1]
    out[:3] = np.array([[1266.0, 0, 816], [0, 1250.0, 491], [0, 0, 1]]) @ out[:3]
    return out


@pytest.fixture(scope="module")
def drive() -> list[Sensors]:
    """Six frames; every image has a grey of its own, with a bright square."""
    frames = []
    for number in range(FRAMES):
        images = {}
        for camera, name in enumerate(CAMERAS):
            image = np.full((90, 160, 3), 20 + 30 * camera + 3 * number, np.uint8)
            image[30:60, 60:100] = (40, 120, 250)
            image.setflags(write=False)
            images[name] = image
        frames.append(Sensors(
            images, {name: projection(camera) for camera, name in enumerate(CAMERAS)},
            Pose(np.array([3.0 * number, 1.0, 0.0]), np.array([np.cos(0.2), 0, 0, np.sin(0.2)])),
            Pose(np.array([0.9, 0.0, 1.8]), np.array([1.0, 0, 0, 0])), 0.5 * number, 2, np.arange(18.0),
        ))  # fmt: skip
    return frames


def through(drive: list[Sensors], name: str, severity: int, seed: int = 0, scene: str = "scene-1") -> list[Sensors | None]:
    deliver = FAULTS[name].begin(severity, seed, scene)
    return [deliver(sensors) for sensors in drive]


def same(a: Sensors | None, b: Sensors | None) -> bool:
    if a is None or b is None:
        return a is b
    return (
        list(a.images) == list(b.images)
        and all(np.array_equal(a.images[name], b.images[name]) for name in a.images)
        and all(np.array_equal(a.lidar2img[name], b.lidar2img[name]) for name in a.lidar2img)
        and all(
            np.array_equal(getattr(getattr(a, pose), part), getattr(getattr(b, pose), part))
            for pose in ("ego2global", "lidar2ego") for part in ("translation", "rotation")
        )
        and (a.time_s, a.command) == (b.time_s, b.command)
        and np.array_equal(a.can_bus, b.can_bus)
    )  # fmt: skip


def test_there_are_the_eight_of_robobev_and_every_fault_of_a_car() -> None:
    assert [f.name for f in FAULTS.values() if f.group == IMAGES] == [
        "CameraCrash", "FrameLost", "ColorQuant", "MotionBlur", "Brightness", "LowLight", "Fog", "Snow",
    ]  # fmt: skip
    assert len(FAULTS) == 19 and all(len(f.levels) == 3 for f in FAULTS.values())


def test_levels_are_those_that_robobev_made_its_data_set_with() -> None:
    assert FAULTS["CameraCrash"].levels == (2, 4, 5)
    assert FAULTS["FrameLost"].levels == (2 / 6, 4 / 6, 5 / 6)
    levels = {name: levels for name, (_, levels) in CORRUPTIONS.items()}
    assert levels["ColorQuant"] == (4, 3, 2) and levels["Brightness"] == (0.2, 0.4, 0.5)
    assert levels["MotionBlur"] == ((15, 5), (15, 12), (20, 15)) and levels["Fog"] == ((2, 2), (2.5, 1.5), (3, 1.4))
    assert [light for light, *_ in levels["LowLight"]] == [0.4, 0.3, 0.2]


@pytest.mark.parametrize("name", FAULTS)
def test_severity_0_hands_the_very_object_on(drive: list[Sensors], name: str) -> None:
    assert all(a is b for a, b in zip(through(drive, name, 0), drive))


@pytest.mark.parametrize("name, severity", EVERY)
def test_a_fault_changes_something_and_the_same_each_time(drive: list[Sensors], name: str, severity: int) -> None:
    drive = drive[:1] if name in CORRUPTIONS else drive
    once, again = through(drive, name, severity, 3), through(drive, name, severity, 3)
    assert all(map(same, once, again))
    assert name == "WrongCommand" or not all(map(same, once, drive)) or FAULTS[name].levels[severity - 1] == 0.1
    for spoilt, sensors in zip(once, drive):
        for camera, image in (spoilt.images if spoilt else {}).items():
            assert image.dtype == np.uint8 and image.shape == sensors.images[camera].shape


@pytest.mark.parametrize("name", ["CameraCrash", "FrameLost", "LowLight", "Fog", "Snow", "RigMiscalibrated", "PoseNoise"])
def test_seed_and_scene_decide_what_is_drawn(drive: list[Sensors], name: str) -> None:
    runs = [through(drive[:3], name, 2, seed, scene) for seed, scene in ((0, "a"), (1, "a"), (0, "b"))]
    assert not all(map(same, runs[0], runs[1])) and not all(map(same, runs[0], runs[2]))


@pytest.mark.parametrize("name", ["FrameLost", "LowLight", "PoseNoise"])
def test_a_frame_does_not_depend_on_what_the_others_held(drive: list[Sensors], name: str) -> None:
    other = [replace(drive[0], images={c: np.zeros((90, 160, 3), np.uint8) for c in CAMERAS}), *drive[1:]]
    assert same(through(drive[:2], name, 1)[1], through(other[:2], name, 1)[1])


def test_each_severity_takes_more(drive: list[Sensors]) -> None:
    image = drive[0].images["CAM_FRONT"].astype(int)
    for name in ("ColorQuant", "Brightness"):
        away = [np.abs(through(drive[:1], name, s)[0].images["CAM_FRONT"] - image).mean() for s in SEVERITIES]
        assert away[0] < away[1] < away[2], (name, away)
    black = [sum(not f.images[c].any() for f in through(drive, "CameraCrash", s) for c in CAMERAS) for s in SEVERITIES]
    assert black == [2 * FRAMES, 4 * FRAMES, 5 * FRAMES]
    lost = [sum(not f.images[c].any() for f in through(drive * 20, "FrameLost", s) for c in CAMERAS) for s in SEVERITIES]
    assert np.allclose(np.divide(lost, 20 * FRAMES * 6), [2 / 6, 4 / 6, 5 / 6], atol=0.06)


def test_brightness_keeps_hue_and_night_keeps_its_largest_value() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 140, (40, 60, 3)).astype(np.uint8)
    corrupt, levels = CORRUPTIONS["Brightness"]
    before, after = (cv2.cvtColor(x, cv2.COLOR_BGR2HSV).astype(int) for x in (image, corrupt(image, levels[0], rng)))
    assert np.abs(after[..., 2] - before[..., 2] - 51).max() <= 1
    colourful = (before[..., 2] > 60) & (before[..., 1] > 60)
    turned = np.abs(after - before)[..., 0][colourful]
    assert np.minimum(turned, 180 - turned).max() <= 3
    corrupt, levels = CORRUPTIONS["LowLight"]
    flat = np.full((200, 200, 3), 255, np.uint8)
    flat[0, 0] = 0
    dark = corrupt(flat, levels[1], rng)[1:] / 255
    assert abs(dark.mean() - 0.3) < 0.01
    assert abs(dark.std() - np.hypot(np.sqrt(0.3 / 50), 0.026)) < 0.005  # Poisson's deviation, and the read noise


class OneFlake:
    """Draws a single flake, and of the wind's angles that it is asked for the one that is ``part`` of the way along."""

    def __init__(self, part: float) -> None:
        self.part = part

    def normal(self, mean: float, deviation: float, shape: tuple[int, int]) -> np.ndarray:
        drawn = np.zeros(shape)
        drawn[4, shape[1] // 4] = 2
        return drawn

    def uniform(self, low: float, high: float) -> float:
        return low + self.part * (high - low)


@pytest.mark.parametrize("part, slope", [(0.0, 1), (0.5, 0), (1.0, -1)])
def test_snow_falls_steeply_by_up_to_45_degrees_to_either_side(part: float, slope: int) -> None:
    """A flake is brightest where it is and fades below; its picture turned by half a circle is laid over it."""
    corrupt, levels = CORRUPTIONS["Snow"]
    white = np.zeros((150, 160, 3), np.uint8)
    calm = corrupt(white, levels[2], rng=OneFlake(part)).astype(int) - int(0.3 * 0.5 * 255)
    upper = calm[:75, :80, 0]
    rows, columns = np.nonzero(upper > 2)
    bright = upper.sum(1).argmax()
    assert bright - rows.min() < rows.max() - bright, "it fades downwards"
    way = np.polyfit(rows, columns, 1, w=upper[rows, columns])[0]
    assert abs(way - slope) < 0.25, way
    assert np.array_equal(upper, calm[::-1, ::-1][:75, :80, 0])


def test_a_camera_is_black_missing_frozen_late_or_another_one(drive: list[Sensors]) -> None:
    for name, severity, hit in (("CameraLost", 1, 1), ("CameraLost", 3, 3), ("CameraFrozen", 2, 2)):
        for spoilt, sensors in zip(through(drive, name, severity), drive):
            changed = [c for c in CAMERAS if spoilt.images[c] is not sensors.images[c]]
            assert set(changed) <= {"CAM_FRONT", "CAM_FRONT_LEFT", "CAM_FRONT_RIGHT"} and len(changed) in (hit, 0)
            for camera in changed:
                expected = drive[0].images[camera] if name == "CameraFrozen" else 0 * sensors.images[camera]
                assert np.array_equal(spoilt.images[camera], expected)
    missing = [set(CAMERAS) - set(f.images) for f in through(drive * 10, "CameraMissing", 3)]
    assert all(m in (set(), {"CAM_FRONT"}) for m in missing) and 0.3 < np.mean(list(map(bool, missing))) < 0.7
    for frames in SEVERITIES:
        for number, spoilt in enumerate(through(drive, "CameraDelayed", frames)):
            assert spoilt.images["CAM_FRONT"] is drive[max(number - frames, 0)].images["CAM_FRONT"]
            assert spoilt.images["CAM_BACK"] is drive[number].images["CAM_BACK"]
    swapped = through(drive, "CameraSwapped", 2)[1].images
    assert swapped["CAM_FRONT_LEFT"] is drive[1].images["CAM_FRONT_RIGHT"]
    assert swapped["CAM_FRONT"] is drive[1].images["CAM_FRONT"]
    round_robin = through(drive, "CameraSwapped", 3)[0].images
    assert {id(i) for i in round_robin.values()} == {id(i) for i in drive[0].images.values()}
    assert all(round_robin[c] is not drive[0].images[c] for c in CAMERAS)


@pytest.mark.parametrize("name, cameras", [("Miscalibrated", 1), ("RigMiscalibrated", 6)])
@pytest.mark.parametrize("severity, degrees", [(1, 0.5), (2, 1.0), (3, 2.0)])
def test_a_miscalibrated_camera_is_turned_by_just_that_angle(
    drive: list[Sensors], name: str, cameras: int, severity: int, degrees: float
) -> None:
    frames = through(drive, name, severity)
    hit = [c for c in CAMERAS if not np.array_equal(frames[0].lidar2img[c], drive[0].lidar2img[c])]
    assert len(hit) == cameras
    for camera in hit:
        before, after = np.asarray(drive[0].lidar2img[camera]), frames[0].lidar2img[camera]
        assert np.array_equal(after, frames[-1].lidar2img[camera])  # a mount stays where it is
        centres = [np.linalg.solve(m[:3, :3], m[:3, 3]) for m in (before, after)]
        np.testing.assert_allclose(centres[0], centres[1], atol=1e-9)
        intrinsics = np.array([[1266.0, 0, 816], [0, 1250.0, 491], [0, 0, 1]])
        turn = np.linalg.solve(intrinsics, after[:3, :3]) @ np.linalg.inv(np.linalg.solve(intrinsics, before[:3, :3]))
        np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-9)
        assert np.degrees(np.arccos((np.trace(turn) - 1) / 2)) == pytest.approx(degrees, abs=1e-6)


def test_frames_times_poses_and_commands(drive: list[Sensors]) -> None:
    long = [replace(drive[0], time_s=0.5 * n) for n in range(400)]
    for severity, share in ((1, 0.1), (2, 0.25), (3, 0.5)):
        gone = [sensors is None for sensors in through(long, "FrameDrops", severity)]
        assert not gone[0] and abs(np.mean(gone) - share) < 0.07
    for severity, (metres, degrees) in ((1, (0.1, 0.1)), (3, (1.0, 1.0))):
        poses = [sensors.ego2global for sensors in through(long, "PoseNoise", severity)]
        moved = np.array([p.translation for p in poses]) - np.asarray(long[0].ego2global.translation)
        assert np.all(moved[:, 2] == 0) and np.std(moved[:, :2]) == pytest.approx(metres, rel=0.1)
        rotations = np.array([p.rotation for p in poses])
        np.testing.assert_allclose(np.linalg.norm(rotations, axis=1), 1)
        headings = 2 * np.arctan2(rotations[:, 3], rotations[:, 0])
        assert np.degrees(np.std(headings)) == pytest.approx(degrees, rel=0.1)
        assert np.mean(headings) == pytest.approx(0.4, abs=0.01)
    times = np.array([s.time_s for s in through(long, "TimeJitter", 2)]) - 0.5 * np.arange(400)
    assert np.std(times) == pytest.approx(0.05, rel=0.1)
    commands = np.array([[s.command for s in through(long, "WrongCommand", severity)] for severity in SEVERITIES])
    assert np.allclose((commands != 2).mean(1), [0.25, 0.5, 1.0], atol=0.07) and set(commands[2]) == {0, 1}


@pytest.mark.parametrize("ask, told", [
    (lambda: find_faults(["Rain"]), "fault 'Rain' is unknown: choose all, or of CameraCrash, FrameLost"),
    (lambda: check_severity(4), "severity 4 is unknown: choose 1, 2 or 3"),
    (lambda: FAULTS["Fog"].begin(-1, 0, "a"), "severity -1 is unknown"),
])  # fmt: skip
def test_what_is_unknown_is_said_in_one_line(ask, told: str) -> None:
    with pytest.raises(UserError, match="^" + told.replace("(", r"\(")):
        ask()


def test_names_are_found_in_any_case_and_all_is_every_one() -> None:
    assert [f.name for f in find_faults(["fog", "CAMERALOST"])] == ["Fog", "CameraLost"]
    assert find_faults(["all"]) == list(FAULTS.values())
