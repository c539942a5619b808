from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from helpers.command_line import create_data
from uniad.data.check import dataset_problems
from uniad.data.dataset import open_table
from uniad.data.infos import can_bus_vector, create_infos
from uniad.data.table import load_table, relative_path
from uniad.data.unpickle import load
from uniad.errors import UserError
from uniad.formats.layout import CAMERAS, TABLES

# Keys of upstream's converter's files; readers of either stack rely on all of them.
UPSTREAM = {
    "lidar_path", "token", "prev", "next", "can_bus", "frame_idx", "sweeps", "cams", "scene_token", "lidar2ego_translation",
    "lidar2ego_rotation", "ego2global_translation", "ego2global_rotation", "timestamp", "gt_boxes", "gt_names", "gt_velocity",
    "num_lidar_pts", "num_radar_pts", "valid_flag", "gt_inds", "gt_ins_tokens", "fut_traj", "fut_traj_valid_mask",
    "visibility_tokens",
}  # fmt: skip
UPSTREAM_CAM = {
    "data_path", "type", "sample_data_token", "sensor2ego_translation", "sensor2ego_rotation", "ego2global_translation",
    "ego2global_rotation", "timestamp", "sensor2lidar_rotation", "sensor2lidar_translation", "cam_intrinsic",
}  # fmt: skip


@pytest.fixture
def world(synthetic_root: Path, tmp_path: Path) -> Path:
    """A copy of the tiny world, images and lidar linked, to be damaged."""
    root = tmp_path / "nuscenes"
    shutil.copytree(synthetic_root, root, copy_function=os.link)
    return root


def rewrite(path: Path, data) -> None:
    path.unlink()  # it is linked to the fixture's own
    path.write_text(json.dumps(data))


def test_frames_have_the_upstream_keys_in_time_order(synthetic_infos):
    data = load(synthetic_infos / "nuscenes_infos_temporal_train.pkl")
    assert data["metadata"]["version"] == "v1.0-trainval" and len(data["infos"]) == 6
    for number, info in enumerate(data["infos"]):
        assert set(info) >= UPSTREAM and info["frame_idx"] == number
        assert tuple(info["cams"]) == CAMERAS  # their order is the order of the model's images
        assert all(set(cam) >= UPSTREAM_CAM for cam in info["cams"].values())
        count = len(info["gt_boxes"])
        assert info["fut_traj"].shape == info["fut_traj_valid_mask"].shape == (count, 16, 2)
        assert info["valid_flag"].dtype == bool and {len(info[k]) for k in ("gt_names", "gt_inds", "gt_ins_tokens")} == {count}


def test_any_number_of_workers_writes_the_same_bytes(synthetic_root, synthetic_infos, tmp_path):
    create_infos(synthetic_root, tmp_path, workers=2, progress=False)
    for split in ("train", "val"):
        name = f"nuscenes_infos_temporal_{split}.pkl"
        assert (tmp_path / name).read_bytes() == (synthetic_infos / name).read_bytes()


def test_the_upstream_command_line_works(synthetic_root, tmp_path):
    done = create_data("nuscenes", "--root-path", synthetic_root, "--out-dir", tmp_path / "infos", "--extra-tag", "nuscenes",
               "--version", "v1.0", "--canbus", synthetic_root)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "6 frames of 1 scenes" in done.stdout
    assert sorted(p.name for p in (tmp_path / "infos").iterdir()) == [
        "nuscenes_infos_temporal_train.pkl",
        "nuscenes_infos_temporal_val.pkl",
    ]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("kitti",), "unknown dataset 'kitti'"),
        (("nuscenes", "--version", "v9"), "unknown --version 'v9': choose from v1.0, v1.0-trainval"),
        (("nuscenes", "--workers", "0"), "--workers 0"),
        (("nuscenes", "--max-sweeps", "-1"), "--max-sweeps -1"),
        (("nuscenes", "--extra-tag", "../../theirs"), "--extra-tag '../../theirs'"),
        (("nuscenes", "--extra-tag", ""), "--extra-tag ''"),
        (("nuscenes", "--root-path", "/nowhere"), "folder /nowhere does not exist"),
    ],
)
def test_bad_arguments_are_one_line_and_status_2(tmp_path, args, says):
    done = create_data(*args, "--out-dir", tmp_path / "out")
    assert done.returncode == 2 and says in done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_complete_dataset_has_no_problems(synthetic_root):
    assert dataset_problems(synthetic_root, "v1.0-trainval") == []


def test_everything_that_is_missing_is_listed_at_once(world, tmp_path):
    tables = world / "v1.0-trainval"
    (tables / "sample.json").unlink()
    (tables / "log.json").unlink()
    data = (tables / "ego_pose.json").read_bytes()
    (tables / "ego_pose.json").unlink()
    (tables / "ego_pose.json").write_bytes(data[: len(data) // 2])
    shutil.rmtree(world / "samples" / "CAM_BACK")
    shutil.rmtree(world / "can_bus")
    problems = "; ".join(dataset_problems(world, "v1.0-trainval"))
    for part in (
        "v1.0-trainval/log.json, v1.0-trainval/sample.json missing",
        "ego_pose.json is cut short",
        "CAM_BACK",
        "can_bus",
    ):
        assert part in problems
    done = create_data("nuscenes", "--root-path", world, "--out-dir", tmp_path / "out")
    assert done.returncode == 2 and problems in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_missing_maps_are_listed(world):
    shutil.rmtree(world / "maps")
    problems = "; ".join(dataset_problems(world, "v1.0-trainval"))
    assert "map images" in problems and "maps/expansion/" in problems


@pytest.mark.parametrize("name", TABLES)
def test_a_table_whose_middle_is_damaged_is_one_line(world, tmp_path, name):
    path = world / "v1.0-trainval" / f"{name}.json"
    text = path.read_text()
    middle = text.index("{", len(text) // 2) if "{" in text[len(text) // 2 :] else text.index("{")
    path.unlink()
    path.write_text(text[:middle] + "#" + text[middle + 1 :])
    with pytest.raises(UserError) as error:
        create_infos(world, tmp_path / "out", progress=False)
    assert "\n" not in str(error.value) and str(world) in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_tables_that_do_not_fit_each_other_are_one_line(world, tmp_path, workers):
    poses = load_table_of(world, "ego_pose")
    for pose in poses:
        pose["token"] = pose["token"][::-1]
    rewrite(world / "v1.0-trainval" / "ego_pose.json", poses)
    with pytest.raises(UserError, match="scene-.* refers to '[0-9a-f]+', which no table has; the tables do not fit"):
        create_infos(world, tmp_path / "out", workers=workers, progress=False)
    assert not (tmp_path / "out").exists()


def test_scenes_without_files_are_left_out_and_counted(world, tmp_path):
    table = load_table_of(world, "sample_data")
    victim = next(r for r in table if r["is_key_frame"] and "CAM_BACK_LEFT" in r["filename"])
    (world / victim["filename"]).unlink()
    result = create_infos(world, tmp_path, progress=False)
    assert result.absent_scenes == 1 and sorted(result.files.values()) == [0, 6]
    done = create_data("nuscenes", "--root-path", world, "--out-dir", tmp_path)
    assert "left out 1 scenes of v1.0-trainval" in done.stdout


def test_a_dataset_without_any_whole_scene_is_refused(world, tmp_path):
    for folder in (world / "samples" / "CAM_FRONT", world / "samples" / "LIDAR_TOP"):
        for path in folder.iterdir():
            path.unlink()
        (folder / "other.jpg").touch()
    with pytest.raises(UserError, match="none of the 2 scenes"):
        create_infos(world, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def load_table_of(root: Path, name: str):
    return json.loads((root / "v1.0-trainval" / f"{name}.json").read_text())


@pytest.mark.parametrize("of_one_s_own", [False, True])
def test_a_scene_without_can_bus_has_zeros_and_is_counted(world, tmp_path, of_one_s_own):
    """The scenes that nuScenes has none of; and, where that is asked for, a recording of one's own."""
    names = ("scene-0001", "scene-0003") if of_one_s_own else ("scene-0161", "scene-0003")
    as_version(world, "v1.0-trainval", names)
    messages = world / "can_bus" / f"{names[0]}_pose.json"
    messages.unlink()
    done = create_data("nuscenes", "--root-path", world, "--out-dir", tmp_path, *["--without-canbus"] * of_one_s_own)
    assert done.returncode == 0 and "6 frames have no CAN bus messages: zeros stand there" in done.stdout
    infos = load(tmp_path / "nuscenes_infos_temporal_train.pkl")["infos"]
    assert all(info["can_bus"].shape == (18,) and not info["can_bus"].any() for info in infos)


def message(time, value):
    return {"utime": time, "pos": [value] * 3, "orientation": [value] * 4, "accel": [value] * 3, "rotation_rate": [value] * 3, "vel": [value] * 3}  # fmt: skip # noqa: E501


@pytest.mark.parametrize(
    ("time", "pose", "rest"),
    [(5, 1, 1), (10, 1, 2), (15, 1, 2), (20, 2, 3), (30, 3, 3), (99, 3, 3)],
)
def test_can_bus_takes_the_pose_before_a_frame_and_motion_after_it(time, pose, rest):
    messages = [message(10, 1.0), message(20, 2.0), message(30, 3.0)]
    assert can_bus_vector(messages, time).tolist() == [pose] * 7 + [rest] * 9 + [0, 0]


def as_version(root: Path, version: str, names: tuple[str, str]) -> None:
    """Make a world's tables those of another version by renaming its two scenes."""
    (root / "v1.0-trainval").rename(root / version)
    path = root / version / "scene.json"
    scenes = json.loads(path.read_text())
    can_bus = root / "can_bus"
    for scene, name in zip(scenes, names):
        (can_bus / f"{scene['name']}_pose.json").rename(can_bus / f"{name}_pose.json")
        scene["name"] = name
    path.unlink()
    path.write_text(json.dumps(scenes))


def test_the_mini_version_has_its_own_splits(world, tmp_path):
    as_version(world, "v1.0-mini", ("scene-0061", "scene-0103"))
    done = create_data("nuscenes", "--root-path", world, "--out-dir", tmp_path, "--version", "v1.0-mini")
    assert done.returncode == 0, done.stderr
    for split in ("train", "val"):
        table = load_table(tmp_path / f"nuscenes_infos_temporal_{split}.pkl", world)
        assert len(table) == 6 and table.version == "v1.0-mini"


def test_the_test_version_has_one_file_without_annotations(world, tmp_path):
    as_version(world, "v1.0-test", ("scene-0077", "scene-0078"))
    for name in ("sample_annotation", "instance"):
        rewrite(world / "v1.0-test" / f"{name}.json", [])
    result = create_infos(world, tmp_path, version="v1.0-test", progress=False)
    assert [Path(path).name for path in result.files] == ["nuscenes_infos_temporal_test.pkl"]
    table = load_table(next(iter(result.files)), world)
    assert len(table) == 12 and len(table.boxes) == 0


def test_files_of_the_upstream_stack_are_read(synthetic_infos, synthetic_root, tmp_path):
    """No map location in it, paths with the root of whoever made it, frames of all scenes in table order."""
    parts = [load(synthetic_infos / f"nuscenes_infos_temporal_{split}.pkl") for split in ("train", "val")]
    for info in parts[0]["infos"] + parts[1]["infos"]:
        del info["map_location"]
        for cam in info["cams"].values():
            cam["data_path"] = f"./data/nuscenes/{cam['data_path']}"
    path = tmp_path / "theirs.pkl"
    data = {"infos": parts[1]["infos"] + parts[0]["infos"], "metadata": {"version": "v1.0-trainval"}}
    path.write_bytes(pickle.dumps(data, protocol=4))
    table = load_table(path, synthetic_root)
    assert len(table) == 12 and len(table.scene_token) == 2 and (np.diff(table.timestamp_us) > 0).all()
    assert all((synthetic_root / p).is_file() for p in table.img_path.ravel())
    ours = [load_table(synthetic_infos / f"nuscenes_infos_temporal_{split}.pkl", synthetic_root) for split in ("train", "val")]
    assert set(table.location) == set(np.concatenate([t.location for t in ours]))
    with pytest.raises(UserError, match=r"theirs\.pkl does not name its maps"):
        load_table(path, tmp_path)


@pytest.mark.parametrize(
    ("path", "want"),
    [
        ("samples/CAM_FRONT/a.jpg", "samples/CAM_FRONT/a.jpg"),
        ("./data/nuscenes/samples/CAM_FRONT/a.jpg", "samples/CAM_FRONT/a.jpg"),
        ("/mnt/samples/nuscenes/samples/CAM_FRONT/a.jpg", "samples/CAM_FRONT/a.jpg"),
        ("/data/sweeps/CAM_FRONT/a.jpg", "sweeps/CAM_FRONT/a.jpg"),
    ],
)
def test_paths_are_cut_to_the_datasets_root(path, want):
    assert relative_path(path) == want


def test_the_table_is_flat_arrays_that_processes_share(data_spec):
    table = open_table(data_spec, "train")
    plain = ("path", "version", "convention")
    of_driven_worlds = ("expert_plan", "expert_command")
    assert all(isinstance(value, np.ndarray) for name, value in vars(table).items() if name not in plain + of_driven_worlds)
    assert all(getattr(table, name) is None for name in of_driven_worlds)
    assert table.first_object[-1] == len(table.boxes) == len(table.name) and table.scene_frames.tolist() == [0, 6]
    assert np.isfinite(table.velocity).all()
