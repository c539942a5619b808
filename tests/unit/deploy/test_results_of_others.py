"""A folder of results that somebody hands over, or that a full disk cut: what does not fit is one line, and nothing leaves it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.changes import put
from uniad.deploy.records import SUMMARY, claim, read_frame, read_summary, write_frame
from uniad.errors import UserError
from uniad.formats.layout import CAMERAS
from uniad.postprocess.result import Forecasts, Objects, Plan, Result
from uniad.viz.replay import Replay

CLASSES = ("car", "bus")
ONE = Objects(np.ones((1, 9), np.float32), np.zeros(1, np.int64), np.full(1, 0.5, np.float32), np.array([7]))
AGENTS = Forecasts(np.array([7]), np.zeros((1, 3), np.float32), np.zeros(1, np.int64), np.zeros((1, 2, 4, 2), np.float32),
                   np.full((1, 2), 0.5, np.float32))  # fmt: skip
FREE = np.zeros((4, 4), bool)
RESULT = Result(ONE, ONE, ONE, np.stack([FREE] * 3), FREE, AGENTS, np.stack([FREE] * 5), np.full((5, 4, 4), -1),
                Plan(np.zeros((6, 2), np.float32), np.zeros((6, 2), np.float32), 2), 0, {"step": 1.0})  # fmt: skip
STAGE1 = replace(RESULT, forecasts=None, occupancy=None, occupancy_ids=None, plan=None)
INFO = {"token": "t", "scene_token": "s", "time_s": 0.0, "lidar2ego_translation": [0.0, 0.0, 1.8],
        "cams": dict.fromkeys(CAMERAS, "a.jpg"), "lidar2img": dict.fromkeys(CAMERAS, np.eye(4).tolist())}  # fmt: skip
BEST = {"config": "a.py", "config_options": [], "backend": "torch", "model": "a.pth", "model_sha256": "0", "split": "val",
        "scenes": [{"name": "scene-0103", "token": "s", "folder": "scene-0103", "frames": 1}]}  # fmt: skip


def lacks(key: str) -> Callable[[dict], None]:
    return lambda whole: whole.pop(key)


@pytest.mark.parametrize("result", [RESULT, STAGE1])
def test_what_was_written_is_read(tmp_path: Path, result: Result) -> None:
    write_frame(tmp_path, 3, result, INFO, CLASSES)
    read, info = read_frame(tmp_path / "0003.json", CLASSES)
    assert info["frame"] == 3 and read.tracks.ids.tolist() == [7] and (read.plan is None) == (result.plan is None)
    if result.plan is not None:
        assert read.forecasts.traj.shape == (1, 2, 4, 2) and read.plan.path.dtype == np.float32 and read.plan.command == 2


FRAMES = {
    **{f"no {key}": (lacks(key), f"lacks {key}") for key in ("frame", "token", "tracks", "detections", "cams", "lidar2img",
                                                            "masks", "timings_ms", "tracks_dropped")},
    "a plan alone": (lacks("forecasts"), "a plan or forecasts, not both"),
    "a class of others": (put("tracks", 0, "class", value="tram"), r"tracks\[0\]: class is 'tram'"),
    "a box of seven": (put("tracks", 0, "box", value=[1] * 7), r"tracks\[0\]: box is \[1, "),
    "a score of text": (put("detections", 0, "score", value="high"), "score is 'high'"),
    "a score without end": (put("detections", 0, "score", value=float("inf")), "score is inf"),
    "modes that are none": (put("forecasts", 0, "modes", value=-1), "modes is -1"),
    "a mode that is none": (put("forecasts", 0, "modes", 0, value=None), r"modes\[0\] is None"),
    "a path of many lengths": (put("forecasts", 0, "modes", 0, "path", 0, value=[1]), r"path is \["),
    "paths of two lengths": (put("forecasts", 0, "modes", 0, "path", value=[[1, 2]]), "differ in their numbers of modes"),
    "a plan out of sight": (put("plan", "path", 0, 0, value=1e30), "plan: path is"),
    "a plan without points": (put("plan", "path", value=[]), "plan: path is"),
    "a command of others": (put("plan", "command", value="back"), "plan: command is 'back'"),
    "an image by number": (put("cams", "CAM_BACK", value=-1), "cams: CAM_BACK is -1"),
    "a camera of one's own": (put("cams", "CAM_TOP", value="a.jpg"), "unknown key 'CAM_TOP'"),
    "a projection that is none": (put("lidar2img", "CAM_BACK", value=None), "lidar2img: CAM_BACK is None"),
    "cameras of two rigs": (lambda f: f["lidar2img"].pop("CAM_BACK"), "not of the same cameras"),
    "a height of text": (put("lidar2ego_translation", value="1.8"), "lidar2ego_translation is '1.8'"),
    "masks of another folder": (put("masks", value="../0000.npz"), "masks is '../0000.npz'"),
    "masks of another time": (put("masks", value="9999.npz"), r"0000.json: cannot be read \(9999.npz: "),
}  # fmt: skip


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_that_does_not_fit_is_one_line(tmp_path: Path, name: str) -> None:
    write_frame(tmp_path, 0, RESULT, INFO, CLASSES)
    path = tmp_path / "0000.json"
    frame = json.loads(path.read_text())
    FRAMES[name][0](frame)
    path.write_text(json.dumps(frame))
    with pytest.raises(UserError, match=FRAMES[name][1]) as error:
        read_frame(path, CLASSES)
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


@pytest.mark.parametrize("masks", [
    b"PK\3\4 cut", {"a": np.zeros(3)}, {"lanes": np.zeros((3, 4, 4), bool), "drivable": np.zeros((4, 5), bool)},
    {"lanes": np.zeros((3, 4, 4), bool), "drivable": FREE, "occupancy": FREE, "occupancy_ids": FREE},
    {"lanes": np.zeros((3, 4, 4), bool), "drivable": np.array(["a"])}, {"lanes": np.array([{}], object)},
])  # fmt: skip
def test_masks_that_do_not_fit_are_one_line(tmp_path: Path, masks: Any) -> None:
    write_frame(tmp_path, 0, RESULT, INFO, CLASSES)
    path = tmp_path / "0000.npz"
    path.write_bytes(masks) if isinstance(masks, bytes) else np.savez(path, **masks)
    with pytest.raises(UserError, match=r"0000.json: (cannot be read \(0000.npz: |0000.npz holds other masks)"):
        read_frame(tmp_path / "0000.json", CLASSES)


SUMMARIES = {
    "scenes that are none": (put("scenes", value=3), "scenes is 3"),
    "a scene that is none": (put("scenes", 0, value=[]), r"scenes\[0\] is \[\]"),
    "a folder elsewhere": (put("scenes", 0, "folder", value="../../etc"), "folder is '../../etc'; needed is a name"),
    "a folder above": (put("scenes", 0, "folder", value=".."), "folder is '..'"),
    "options that are none": (put("config_options", value=[{}]), r"config_options\[0\] is a mapping"),
    "a model by number": (put("model", value=1), "model is 1"),
    "a split of others": (put("split", value="test"), "split is 'test'"),
    "an unfinished one": (lambda s: s.clear(), "is not complete; run `make infer` again"),
}  # fmt: skip


def test_a_frame_that_is_gone_is_missed_and_one_beyond_the_account_is_none(tmp_path: Path) -> None:
    """A recording or a video of 19 frames looks like one of 20."""
    summary = {**BEST, "scenes": [{"name": "scene-0103", "token": "s", "folder": "scene-0103", "frames": 2}]}
    replay = Replay(tmp_path, summary, spec=None)  # type: ignore[arg-type]
    for number in range(3):
        write_frame(tmp_path / "scene-0103", number, RESULT, INFO, CLASSES)
    assert len(replay.frames("scene-0103")) == 3, "written before an interruption that came before it was counted"
    (tmp_path / "scene-0103/0000.json").unlink()
    assert len(replay.frames("scene-0103")) == 2
    (tmp_path / "scene-0103/0002.json").unlink()
    with pytest.raises(UserError, match=r"scene-0103 holds 1 of the 2 frames that summary.json counts; run `make infer` again"):
        replay.frames("scene-0103")


@pytest.mark.parametrize("name", SUMMARIES)
def test_a_summary_that_does_not_fit_is_one_line(tmp_path: Path, name: str) -> None:
    summary = json.loads(json.dumps(BEST))
    (tmp_path / SUMMARY).write_text(json.dumps(summary))
    assert read_summary(tmp_path)["scenes"][0]["frames"] == 1
    SUMMARIES[name][0](summary)
    (tmp_path / SUMMARY).write_text(json.dumps(summary))
    with pytest.raises(UserError, match=SUMMARIES[name][1]) as error:
        read_summary(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["[" * 100_000, '["finished"]', "3", '{"x": 1}'])
def test_a_folder_with_another_summary_is_not_taken_for_ours(tmp_path: Path, content: str) -> None:
    (tmp_path / SUMMARY).write_text(content)
    with pytest.raises(UserError, match="holds something that is no results"):
        claim(tmp_path)
    assert (tmp_path / SUMMARY).read_text() == content
