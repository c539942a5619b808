"""A scene or a folder through a runtime: whole files, submissions the devkit takes, latencies, and a graceful end."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

import infer
from helpers.frame_folders import record_folder
from uniad.data.images import ImageSource
from uniad.deploy.infer import folder_name, run
from uniad.deploy.records import claim, percentiles, read_frame, read_summary
from uniad.deploy.runtime import Runtime
from uniad.deploy.sources import INDEX, DatasetFrames, FolderFrames
from uniad.errors import UserError
from uniad.viz.replay import Replay

FRAMES = 6


@pytest.fixture(scope="module")
def runtime(nano) -> Iterator[Runtime]:
    with nano.open() as opened:
        yield opened


@pytest.fixture(scope="module")
def dataset(runtime: Runtime) -> DatasetFrames:
    return DatasetFrames(runtime.spec.data)


@pytest.fixture(scope="module")
def results(runtime: Runtime, dataset: DatasetFrames, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("infer") / "results"
    run(runtime, [dataset.scene("0")], out, {"split": "val"})
    return out


def test_a_disk_that_fills_up_leaves_frames_and_their_account_elsewhere(
    runtime: Runtime, dataset: DatasetFrames, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, here, replace_file = tmp_path / "out", tmp_path / "here", os.replace
    here.mkdir()
    monkeypatch.chdir(here)

    def third_frame_fills_it(source: Path, target: Path) -> None:
        if (out / "scene-0002/0001.json").exists() and out in Path(target).parents:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_file(source, target)

    scene = dataset.scene("0", 3)
    monkeypatch.setattr("uniad.deploy.infer.folder_name", lambda name: "scene-0002")
    with monkeypatch.context() as full:
        full.setattr(os, "replace", third_frame_fills_it)
        with pytest.raises(UserError, match="No space left on device.* Nothing is lost: the results are in .*, move them"):
            run(runtime, [scene], out, {"config": "a.py", "config_options": [], "split": "val"})
    (kept,) = here.iterdir()
    assert read_summary(kept)["frames"] == 2 and not read_summary(kept)["finished"]
    for file in kept.iterdir():
        shutil.move(file, out / file.name)
    assert read_summary(out)["scenes"][0]["frames"] == len(list((out / "scene-0002").glob("*.json"))) == 2


def test_every_frame_is_on_disk_as_the_runtime_said_it(results: Path, runtime: Runtime, dataset: DatasetFrames) -> None:
    summary = read_summary(results)
    (scene,) = summary["scenes"]
    assert summary["finished"] and summary["frames"] == scene["frames"] == FRAMES and summary["collision_optimiser"]
    runtime.reset()
    for record in dataset.scene(scene["name"]):
        result = runtime.step(record.sensors)
        read, info = read_frame(results / scene["folder"] / f"{record.number:04d}.json", runtime.spec.data.class_names)
        assert info["token"] == record.info["token"] and info["scene_token"] == scene["token"]
        np.testing.assert_allclose(read.tracks.boxes, result.tracks.boxes, atol=1e-3)
        np.testing.assert_array_equal(read.tracks.ids, result.tracks.ids)
        np.testing.assert_array_equal(read.occupancy_ids, result.occupancy_ids)
        np.testing.assert_array_equal(read.lanes, result.lanes)
        np.testing.assert_allclose(read.plan.path, result.plan.path, atol=1e-4)
        np.testing.assert_allclose(read.forecasts.traj, result.forecasts.traj, atol=1e-3)
        np.testing.assert_allclose(read.forecasts.prob, result.forecasts.prob, atol=1e-4)
        assert read.plan.command == result.plan.command


def test_latencies_are_given_by_stage_without_the_warmup(results: Path) -> None:
    summary = read_summary(results)
    assert summary["latency_frames"] == FRAMES - 1
    assert list(summary["latency_ms"]) == ["load", "preprocess", "step", "postprocess", "total"]
    for values in summary["latency_ms"].values():
        assert 0 < values["p50"] <= values["p90"] <= values["p99"] <= values["max"]
    worked = percentiles({"a": [1.0, 2.0, 3.0], "b": [1.0, 1.0, 4.0]})
    assert worked["a"]["mean"] == worked["a"]["p50"] == 2.0 and worked["total"]["max"] == 7.0
    assert percentiles({}) == {}


def test_a_run_that_names_no_config_cannot_be_drawn(results: Path) -> None:
    assert "config" not in read_summary(results), "a program that drives the runtime need not name one"
    with pytest.raises(UserError, match=r"does not say with which config it was made \(it lacks config\)"):
        Replay.open(results)


def test_submissions_are_those_of_the_evaluation(results: Path, runtime: Runtime) -> None:
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.common.loaders import load_prediction
    from nuscenes.eval.detection.data_classes import DetectionBox
    from nuscenes.eval.tracking.data_classes import TrackingBox

    from uniad.data.dataset import SceneStream
    from uniad.evaluation.run import collect

    config_factory("tracking_nips_2019")  # what the devkit's tracking classes take their names from
    stream = SceneStream(runtime.spec.data, "val", stage=2, workers=0)
    found = collect(runtime, stream)
    for name, kind, expected in (("detection", DetectionBox, found.detections), ("tracking", TrackingBox, found.tracks)):
        written = json.loads((results / f"{name}.json").read_text())["results"]
        assert written.keys() == expected.keys()
        for token, entries in expected.items():
            assert sorted(entries, key=str) == sorted(written[token], key=str)
        boxes, _ = load_prediction(str(results / f"{name}.json"), 1000, kind)
        assert sum(map(len, boxes.boxes.values())) == sum(map(len, written.values())) > 0


def test_a_recorded_folder_gives_the_same_as_the_dataset(runtime, dataset, tmp_path) -> None:
    folder = record_folder(dataset, tmp_path / "drive")
    out = tmp_path / "out"
    summary = run(runtime, [FolderFrames(folder).scene(3)], out, {})
    assert summary["frames"] == 3 and summary["scenes"][0]["folder"] == "drive"
    records = list(dataset.scene("0"))
    runtime.reset()
    for number, record in enumerate(records[:3]):
        # a folder has one calibration for all frames, where nuScenes' moves with each camera's exposure
        one = runtime.step(replace(record.sensors, lidar2img=records[-1].sensors.lidar2img))
        two, _ = read_frame(out / "drive" / f"{number:04d}.json", runtime.spec.data.class_names)
        np.testing.assert_allclose(one.plan.raw, two.plan.raw, atol=2e-3)  # time_s in seconds of another epoch is rounded
        assert set(one.tracks.ids.tolist()) == set(two.tracks.ids.tolist())


def test_limits_of_a_frame_come_from_the_command_line(nano, dataset, tmp_path, monkeypatch) -> None:
    """After a gap of 5 s a frame is refused, by its number and with the limit that says otherwise."""
    folder = record_folder(dataset, tmp_path / "drive")
    index = json.loads((folder / INDEX).read_text())
    for number, frame in enumerate(index["frames"]):
        frame["time_s"] += 4.5 * (number > 3)
    (folder / INDEX).write_text(json.dumps(index))

    def infer_main(*words: str) -> int:
        command = ["infer.py", str(nano.checkpoint), "--out", str(tmp_path / "out"), "--folder", str(folder), "--device", "cpu"]
        monkeypatch.setattr("sys.argv", [*command, "--config", str(nano.config), *words, "--cfg-options", *nano.options])
        return infer.main()

    with pytest.raises(UserError, match=r"drive, frame 4: this frame comes 5 s after .* \(limits most_step_s=3\)"):
        infer_main()
    assert read_summary(tmp_path / "out")["frames"] == 4
    assert infer_main("--limits", "most_step_s=6", "speed_mps=200") == 0
    summary = read_summary(tmp_path / "out")
    assert summary["frames"] == FRAMES and summary["limits"] == ["most_step_s=6", "speed_mps=200"]
    for twice in (["--scene", "0"], ["--scene", dataset.scene("0").name]):
        monkeypatch.setattr("sys.argv", ["infer.py", str(nano.checkpoint), "--out", str(tmp_path / "two"), "--scene", "0", *twice,
                                         "--config", str(nano.config), "--cfg-options", *nano.options])  # fmt: skip
        with pytest.raises(UserError, match="is asked for twice"):
            infer.main()
    monkeypatch.setattr(Runtime, "open", None)  # a wrong limit is told before the model is loaded
    for wrong in ("most_step=6", "most_step_s=long"):
        with pytest.raises(UserError, match=f"limit '{wrong}'"):
            infer_main("--limits", wrong)


def test_images_of_another_size_are_refused_in_folders_and_datasets(runtime, dataset, tmp_path) -> None:
    what = r"has 1920x1080 pixels; .* needs 1600x900: scale images and camera matrices together"
    wide = cv2.imencode(".jpg", np.full((1080, 1920, 3), 90, np.uint8))[1].tobytes()
    folder = record_folder(dataset, tmp_path / "drive")
    (folder / "CAM_BACK" / "1.jpg").unlink()
    (folder / "CAM_BACK" / "1.jpg").write_bytes(wide)
    with pytest.raises(UserError, match=rf"^drive, frame 1: image of CAM_BACK {what}$"):
        run(runtime, [FolderFrames(folder).scene()], tmp_path / "out", {})

    spec = dataset.spec
    shutil.copytree(spec.data_root, tmp_path / "world", copy_function=os.link)
    image = tmp_path / "world" / dataset.table.img_path[0][3]
    image.unlink()
    image.write_bytes(wide)
    source = ImageSource(dataset.table, replace(spec, data_root=f"{tmp_path}/world"))
    for read in (lambda: source.load(0, None, np.empty((6, 3, spec.image.height, spec.image.width), np.float32)),
                 lambda: source.scaled_bytes(0)):  # fmt: skip
        with pytest.raises(UserError, match=rf"^image {image} {what}$"):
            read()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_keeps_what_was_done_and_says_so(runtime, dataset, tmp_path, number) -> None:
    count = []

    def progress() -> None:
        count.append(1)
        if len(count) == 2:
            os.kill(os.getpid(), number)

    summary = run(runtime, [dataset.scene("0")], tmp_path / "out", {}, progress=progress)
    assert not summary["finished"] and summary["frames"] == 2 and summary == read_summary(tmp_path / "out")
    (scene,) = summary["scenes"]
    found = sorted(p.name for p in (tmp_path / "out" / scene["folder"]).iterdir())
    assert found == ["0000.json", "0000.npz", "0001.json", "0001.npz"]
    assert len(json.loads((tmp_path / "out" / "tracking.json").read_text())["results"]) == 2


def test_an_error_in_the_middle_accounts_for_the_frames_before_it(runtime, dataset, tmp_path) -> None:
    folder = record_folder(dataset, tmp_path / "drive")
    (folder / "CAM_BACK" / "2.jpg").unlink()
    with pytest.raises(UserError, match="CAM_BACK/2.jpg does not exist"):
        run(runtime, [FolderFrames(folder).scene()], tmp_path / "out", {})
    summary = read_summary(tmp_path / "out")
    assert summary["frames"] == 2 and not summary["finished"]


def test_results_replace_results_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "out"
    claim(out)
    (out / "scene").mkdir()
    (out / "scene" / "0003.json").write_text("{}")
    (out / "scene" / "notes.json").write_text("{}")
    claim(out)
    assert sorted(p.name for p in out.rglob("*.json")) == ["notes.json", "summary.json"]
    with pytest.raises(UserError, match="not complete"):
        read_summary(out)
    other = tmp_path / "photos"
    other.mkdir()
    (other / "0001.jpg").write_text("")
    with pytest.raises(UserError, match="no results; choose another"):
        claim(other)
    with pytest.raises(UserError, match="is a file"):
        claim(other / "0001.jpg")
    with pytest.raises(UserError, match="make infer"):
        read_summary(other)


def test_nothing_is_removed_or_written_through_a_link(tmp_path: Path) -> None:
    out, kept = tmp_path / "out", tmp_path / "kept"
    claim(out)
    kept.mkdir()
    (kept / "0001.json").write_text("{}")
    (out / "scene").symlink_to(kept)
    with pytest.raises(UserError, match="scene is a link to a folder"):
        claim(out)
    assert (kept / "0001.json").exists()
    (out / "scene").unlink()
    (out / "scene").mkdir()
    (out / "scene" / "0001.json").symlink_to(kept / "0001.json")
    claim(out)
    assert (kept / "0001.json").exists() and not list(out.glob("scene/*")), "the link goes, what it leads to stays"
    # A summary of something else makes no folder ours.
    (out / "summary.json").write_text("[1]")
    with pytest.raises(UserError, match="no results; choose another"):
        claim(out)


def test_scenes_are_found_by_number_name_and_token(dataset: DatasetFrames) -> None:
    scene = dataset.scene("0")
    assert scene.name.startswith("scene-") and dataset.scene(scene.name).token == dataset.scene(scene.token).token == scene.token
    assert len(scene) == FRAMES and len(dataset.scene("0", 2)) == 2
    for wrong in ("7", "scene-9999", "-1"):
        with pytest.raises(UserError, match="is not in the val split: it has 0 to 0"):
            dataset.scene(wrong)
    assert folder_name("../a b") == "_a_b" and folder_name("..") == "scene"


FRAME = {"time_s": 0.0, "images": {}, "ego2global": {"translation": [0, 0, 0], "rotation": [1, 0, 0, 0]}}
LIDAR = {"translation": [0, 0, 1.8], "rotation": [1, 0, 0, 0]}


@pytest.mark.parametrize("index, message", [
    ("{", "frames.json cannot be read"),
    ({"frames": []}, "lists no frames"),
    ([1], "lists no frames"),
    ({"frames": [FRAME]}, "frame 0 lacks cameras, lidar2ego"),
    ({"frames": [{**FRAME, "images": 3}], "cameras": {}, "lidar2ego": LIDAR}, "images is no object"),
    ({"frames": [FRAME], "cameras": {"CAM_FRONT": {}}, "lidar2ego": LIDAR}, "CAM_FRONT has no projection"),
    ({"frames": [FRAME], "cameras": {}, "lidar2ego": [0, 0]}, "lidar2ego is no pose"),
])  # fmt: skip
def test_a_folder_that_is_none_gets_one_line(tmp_path: Path, index: object, message: str) -> None:
    (tmp_path / INDEX).write_text(index if isinstance(index, str) else json.dumps(index))
    with pytest.raises(UserError) as error:
        list(FolderFrames(tmp_path).scene())
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_an_index_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="frames.json does not exist"):
        FolderFrames(tmp_path)


def test_an_intrinsic_and_a_pose_make_a_projection(tmp_path: Path, dataset: DatasetFrames) -> None:
    intrinsic, pose = np.diag([100.0, 100.0, 1.0]).tolist(), np.eye(4).tolist()
    camera = {"CAM_FRONT": {"intrinsic": intrinsic, "lidar2cam": pose}}
    index = {"frames": [FRAME], "cameras": camera, "lidar2ego": LIDAR}
    (tmp_path / INDEX).write_text(json.dumps(index))
    (record,) = FolderFrames(tmp_path).scene()
    np.testing.assert_array_equal(record.sensors.lidar2img["CAM_FRONT"], np.diag([100.0, 100.0, 1.0, 1.0]))
