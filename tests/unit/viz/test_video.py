"""Videos of results: every frame in them, in order, and two runs with what differs between them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from helpers.command_line import ran, refused
from helpers.frame_folders import record_folder
from uniad.deploy.infer import run
from uniad.deploy.sources import DatasetFrames, FolderFrames
from uniad.errors import UserError
from uniad.viz.difference import TILE_H, WIDTH
from uniad.viz.page import VIEW
from uniad.viz.replay import Replay
from uniad.viz.video import write_video

pytest.importorskip("imageio_ffmpeg", reason="imageio-ffmpeg is not installed: make env installs it")
COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


def plain(size: tuple[int, int] = (120, 200)) -> list[np.ndarray]:
    return [np.full((*size, 3), colour, np.uint8) for colour in COLOURS]


def read(path: Path) -> tuple[list[np.ndarray], float]:
    """Frames as RGB and their number a second."""
    capture = cv2.VideoCapture(str(path))
    frames = []
    while (found := capture.read())[0]:
        frames.append(found[1][..., ::-1])
    return frames, capture.get(cv2.CAP_PROP_FPS)


@pytest.fixture(scope="module")
def results(nano, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("video") / "results"
    with nano.open() as runtime:
        about = {"config": str(nano.config), "config_options": runtime.options, "split": "val"}
        run(runtime, [DatasetFrames(runtime.spec.data).scene("0", 2)], out, about)
    return out


def test_a_film_shows_each_picture_in_order_at_its_pace(tmp_path: Path) -> None:
    assert write_video(tmp_path / "a.mp4", plain(), 2.0) == 3
    frames, fps = read(tmp_path / "a.mp4")
    assert fps == 2.0 and len(frames) == 3 and frames[0].shape == (120, 200, 3)
    for frame, colour in zip(frames, COLOURS):
        assert np.abs(frame.mean((0, 1)) - colour).max() < 12
    assert b"ftyp" in (tmp_path / "a.mp4").read_bytes()[:16]
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4"]


def test_odd_sizes_lose_a_row_or_a_column(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", plain((121, 201)))
    assert read(tmp_path / "a.mp4")[0][0].shape == (120, 200, 3)


def test_a_film_that_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no frame to show"):
        write_video(tmp_path / "a.mp4", [])
    with pytest.raises(UserError, match="frame 3 is 64x64, not 200x120"):
        write_video(tmp_path / "a.mp4", [*plain(), np.zeros((64, 64, 3), np.uint8)])
    assert not list(tmp_path.iterdir())


def test_pictures_show_what_was_stored(results: Path) -> None:
    replay = Replay.open(results)
    (scene,) = replay.scenes
    pictures = list(replay.pictures(scene))
    assert len(pictures) == 2 and pictures[0].shape == pictures[1].shape
    assert np.abs(pictures[0].astype(int) - pictures[1]).mean() > 1, "time goes on"


def test_the_command_writes_pngs_and_a_film_and_compares_two_runs(results: Path, tmp_path: Path) -> None:
    out = tmp_path / "video"
    code, output, err = ran("tools/make_video.py", "--compare", results, results, "--out", out, "--fps", 4)
    assert code == 0, err
    (video,) = out.glob("*.mp4")
    frames, fps = read(video)
    assert len(frames) == 2 and fps == 4.0 and frames[0].shape[1] == WIDTH
    views = frames[0][TILE_H : TILE_H + VIEW]
    assert np.abs(views[60:, :VIEW].astype(int) - views[60:, VIEW : 2 * VIEW]).mean() < 2, "the same run twice, titles apart"
    assert sorted(p.name for p in (out / video.stem).iterdir()) == ["0000.png", "0001.png"]


def test_runs_of_two_drives_are_not_compared(results: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(results, other)
    for path in other.glob("*/0*.json"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "token": f"another {path.stem}"}))
    line = refused("tools/make_video.py", "--compare", results, other, "--out", tmp_path / "video")
    assert "is not the same drive in both" in line and not list((tmp_path / "video").glob("*.mp4"))


def test_a_recorded_folder_has_pictures_without_annotations(nano, tmp_path: Path) -> None:

    with nano.open() as runtime:
        folder = record_folder(DatasetFrames(runtime.spec.data), tmp_path / "drive")
        about = {"config": str(nano.config), "config_options": runtime.options, "split": None}
        run(runtime, [FolderFrames(folder).scene(1)], tmp_path / "out", about)
    (picture,) = Replay.open(tmp_path / "out").pictures("drive")
    assert picture.ndim == 3 and picture.std() > 10


def test_results_that_are_not_there_or_not_whole_get_one_line(results: Path, tmp_path: Path) -> None:
    assert "make infer" in refused("tools/make_video.py", tmp_path, "--out", tmp_path / "video")
    assert "or --compare A B" in refused("tools/make_video.py", "--out", tmp_path / "video")
    assert "holds no scene 'x'" in refused("tools/make_video.py", results, "--scene", "x", "--out", tmp_path / "video")
    damaged = tmp_path / "damaged"
    shutil.copytree(results, damaged)
    next(damaged.glob("*/0001.npz")).write_bytes(b"half")
    assert "0001.json: cannot be read" in refused("tools/make_video.py", damaged, "--out", tmp_path / "video", "--no-png")
    assert not list((tmp_path / "video").glob("*"))
