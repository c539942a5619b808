"""A recording holds the drive that was drawn: read back, its entities, frames, ids and positions are those of the results."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers.command_line import ran, refused
from uniad.deploy.infer import run
from uniad.deploy.sources import DatasetFrames
from uniad.errors import UserError
from uniad.viz.camera import box_corners
from uniad.viz.page import command_words
from uniad.viz.recording import rerun, write_recording
from uniad.viz.replay import Replay

FRAMES = 3


@pytest.fixture(scope="module")
def results(nano, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("view") / "results"
    with nano.open() as runtime:
        about = {"config": str(nano.config), "config_options": runtime.options, "split": "val"}
        run(runtime, [DatasetFrames(runtime.spec.data).scene("0", FRAMES)], out, about)
    return out


class Readback:
    """Columns of a recording by entity and component, one value a frame."""

    def __init__(self, path: Path) -> None:
        self.recording = rerun().dataframe.load_recording(path)
        view = self.recording.view(index="frame", contents="/**")
        self.rows = sorted(view.select().read_all().to_pylist(), key=lambda row: row["frame"])

    def entities(self) -> set[str]:
        return {column.entity_path for column in self.recording.schema().component_columns()}

    def of(self, entity: str, component: str) -> list:
        return [row.get(f"{entity}:{component}") for row in self.rows]


@pytest.fixture(scope="module")
def recording(results: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Readback, Replay, list]:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed: make env installs it")
    replay = Replay.open(results)
    (scene,) = replay.scenes
    path = tmp_path_factory.mktemp("rrd") / f"{scene}.rrd"
    assert write_recording(path, replay, scene) == FRAMES
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    frames = [(content, result, info) for content, result, info in replay.frames_and_contents(scene)]
    return Readback(path), replay, frames


def test_everything_is_there_on_one_timeline(recording) -> None:
    read, replay, frames = recording
    cameras = {f"/car/camera/{name}" for name in frames[0][2]["cams"]}
    grids = {f"/car/map/{name}" for name in ("drivable", "divider", "crossing", "contour")}
    wanted = {"/car", "/car/tracks", "/car/annotated", "/car/ego", "/about", *cameras, *grids}
    if frames[0][0].future:
        steps = len(frames[0][0].future.occupancy)
        wanted |= {"/car/plan", "/car/forecasts", *(f"/car/occupancy/in_{0.5 * step:.1f}_s" for step in range(steps))}
    assert wanted | {"/car/above", "/car/footprints"} <= read.entities()
    assert [row["frame"] for row in read.rows if row["frame"] is not None] == [info["frame"] for _, _, info in frames]
    seconds = [row["time"].timestamp() if hasattr(row["time"], "timestamp") else row["time"] for row in read.rows]
    assert np.diff(seconds) == pytest.approx(np.diff([info["time_s"] for _, _, info in frames]), abs=1e-6)


def test_boxes_have_their_ids_classes_and_places(recording) -> None:
    read, replay, frames = recording
    names = replay.spec.data.class_names
    components = ("track_id", "class", "PoseTranslation3D", "HalfSize3D", "PoseRotationQuat", "Text")
    columns = [read.of("/car/tracks", component) for component in components]
    for (content, _, _), ids, classes, centres, halves, turns, words in zip(frames, *columns):
        assert list(ids or []) == content.ids.tolist()
        assert list(classes or []) == [names[label] for label in content.labels]
        assert [word.split()[0] for word in words or []] == [names[label] for label in content.labels]
        corners = box_corners(content.boxes)
        for i, (centre, half, turn) in enumerate(zip(centres or [], halves or [], turns or [])):
            x, y, z, w = turn
            heading = 2 * np.arctan2(z, w)
            forward, left = np.array([np.cos(heading), np.sin(heading)]), np.array([-np.sin(heading), np.cos(heading)])
            front_left = np.array(centre[:2]) + half[0] * forward + half[1] * left
            np.testing.assert_allclose(front_left, corners[i, 0, :2], atol=1e-3)
            assert centre[2] - half[2] == pytest.approx(corners[i, 0, 2], abs=1e-3)
    assert sum(len(content.boxes) for content, _, _ in frames), "there is something to compare"


def area(positions: list) -> float:
    """Of the rectangles of a mesh."""
    corners = np.array(positions).reshape(-1, 4, 3)
    return float(((corners[:, 2, 0] - corners[:, 0, 0]) * (corners[:, 2, 1] - corners[:, 0, 1])).sum())


def test_filled_cells_are_those_of_the_masks(recording) -> None:
    read, replay, frames = recording
    x0, y0, _, x1, y1, _ = replay.spec.data.pc_range
    seen = 0
    for number, name in enumerate(("drivable", "divider", "crossing", "contour")):
        for (content, _, _), positions in zip(frames, read.of(f"/car/map/{name}", "Position3D")):
            mask = np.asarray(content.drivable if number == 0 else content.lanes[number - 1]) > 0.5
            cell = (x1 - x0) / mask.shape[1] * (y1 - y0) / mask.shape[0]
            if mask.any():  # where nothing is, the entity is cleared
                assert area(positions) == pytest.approx(mask.sum() * cell, rel=1e-4)
                seen += 1
    assert seen


def test_forecasts_and_plan_are_the_results(recording) -> None:
    read, _, frames = recording
    assert frames[0][0].future, "the shipped model has stage 2"
    columns = (read.of("/car/plan", "LineStrip3D"), read.of("/car/plan", "Text"), read.of("/car/forecasts", "LineStrip3D"),
               read.of("/car/forecasts", "track_id"))  # fmt: skip
    for (content, result, _), plans, words, lines, ids in zip(frames, *columns):
        np.testing.assert_allclose(np.array(plans[0])[1:, :2], result.plan.path, atol=1e-4)
        assert words == [f"plan: {command_words(content.future)}"]
        agents = result.forecasts
        modes = agents.traj.shape[1] if len(agents.ids) else 0
        assert list(ids or []) == np.repeat(agents.ids, modes).tolist() and len(lines or []) == len(agents.ids) * modes
        for line, path in zip(lines or [], agents.traj.reshape(-1, *agents.traj.shape[2:])):
            np.testing.assert_allclose(np.array(line)[1:, :2], path, atol=1e-4)


def test_images_are_the_files_and_cameras_project_as_the_model_saw(recording) -> None:
    read, _, frames = recording
    point = np.array([0.0, 12.0, -1.0])  # ahead, in the lidar frame
    columns = {c: read.of("/car/camera/CAM_FRONT", c) for c in ("Blob", "PinholeProjection", "Translation3D", "TransformMat3x3")}
    for number, (_, _, info) in enumerate(frames):
        blob, intrinsic, move, turn = (columns[c][number][0] for c in columns)
        assert bytes(blob) == Path(info["cams"]["CAM_FRONT"]).read_bytes()
        lidar_from_camera = np.array(turn).reshape(3, 3).T  # columns first
        seen = np.array(intrinsic).reshape(3, 3).T @ lidar_from_camera.T @ (point - move)
        wanted = np.array(info["lidar2img"]["CAM_FRONT"])[:3] @ [*point, 1.0]
        np.testing.assert_allclose(seen[:2] / seen[2], wanted[:2] / wanted[2], atol=0.05)


def test_the_command_writes_a_recording_a_scene_and_bad_input_is_one_line(results: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed: make env installs it")
    code, output, err = ran("tools/make_recording.py", results, "--out", tmp_path / "view")
    (path,) = (tmp_path / "view").glob("*.rrd")
    assert code == 0 and f"rerun {path}" in output, err
    assert "make infer" in refused("tools/make_recording.py", tmp_path, "--out", tmp_path / "none")
    assert "holds no scene 'x'" in refused("tools/make_recording.py", results, "--scene", "x", "--out", tmp_path / "none")
    damaged = tmp_path / "damaged"
    shutil.copytree(results, damaged)
    next(damaged.glob("*/0001.npz")).write_bytes(b"half")
    assert "0001.json: cannot be read" in refused("tools/make_recording.py", damaged, "--out", tmp_path / "none")
    assert not list(tmp_path.glob("none/*"))


def test_without_rerun_it_says_what_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(UserError, match="rerun-sdk is not installed here .*make env"):
        rerun()


def test_no_frame_no_file(results: Path, tmp_path: Path) -> None:
    pytest.importorskip("rerun", reason="rerun-sdk is not installed: make env installs it")
    replay = Replay.open(results)
    (scene,) = replay.scenes
    empty = tmp_path / "empty"
    shutil.copytree(results, empty)
    for path in empty.glob("*/0*.json"):
        path.unlink()
    with pytest.raises(UserError, match="no frame to show"):
        write_recording(tmp_path / "a.rrd", Replay.open(empty), scene)
    assert not (tmp_path / "a.rrd").exists()


def test_the_view_from_above_shows_the_range_with_forward_up(recording, tmp_path: Path) -> None:
    """Its camera stands over the middle; what is ahead of the car lies above it in the picture, and what is right of it right."""
    read, replay, _ = recording
    rr = pytest.importorskip("rerun")
    found = rr.dataframe.load_recording(_written(replay, tmp_path)).view(index="frame", contents="/car/above")
    rows = found.select_static().read_all().to_pylist()
    row = {name: value for row in rows for name, value in row.items() if value is not None}
    focal = np.reshape(row["/car/above:PinholeProjection"][0], (3, 3)).T
    turn = np.reshape(row["/car/above:TransformMat3x3"][0], (3, 3)).T
    place = np.asarray(row["/car/above:Translation3D"][0], float)
    x0, y0, _, x1, y1, _ = replay.spec.data.pc_range

    def seen(x: float, y: float) -> np.ndarray:
        point = focal @ (turn.T @ (np.array([x, y, 0.0]) - place))
        return point[:2] / point[2]

    side = row["/car/above:Resolution"][0]
    assert seen(x0, y1) == pytest.approx([0, 0], abs=1) and seen(x1, y0) == pytest.approx(side, abs=1)


def _written(replay: Replay, folder: Path) -> Path:
    path = folder / "drive.rrd"
    write_recording(path, replay, replay.scenes[0])
    return path
