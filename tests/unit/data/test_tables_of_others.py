"""Tables of other recorders and converters: one line that names table, record and key; and what they rightly become."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.command_line import create_data
from uniad.data.check import dataset_problems
from uniad.data.infos import create_infos
from uniad.data.table import load_table
from uniad.data.tables import Tables
from uniad.data.unpickle import load
from uniad.errors import UserError
from uniad.formats.canbus import WITHOUT, is_without
from uniad.formats.layout import CAMERAS

VERSION = "v1.0-trainval"
Records = dict[str, list[dict[str, Any]]]


def read(root: Path, *names: str) -> Records:
    return {name: json.loads((root / VERSION / f"{name}.json").read_bytes()) for name in names}


def write(root: Path, **tables: list[dict[str, Any]]) -> None:
    for name, records in tables.items():
        path = root / VERSION / f"{name}.json"
        path.unlink(missing_ok=True)  # it is linked to the fixture's own
        path.write_text(json.dumps(records))


@pytest.fixture
def world(synthetic_root: Path, tmp_path: Path) -> Path:
    """A copy of the tiny world, to be damaged."""
    root = tmp_path / "nuscenes"
    shutil.copytree(synthetic_root, root, copy_function=os.link)
    return root


def first(table: str, key: str, value: Any) -> Callable[[Path], None]:
    """One record's key takes another value, or one made of its own."""

    def change(root: Path) -> None:
        records = read(root, table)[table]
        records[2][key] = value(records[2][key]) if callable(value) else value
        write(root, **{table: records})

    return change


def without(table: str, key: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        records = read(root, table)[table]
        del records[1][key]
        write(root, **{table: records})

    return change


def record_twice(root: Path) -> None:
    records = read(root, "ego_pose")["ego_pose"]
    write(root, ego_pose=[*records, records[0]])


def loop_of_samples(root: Path) -> None:
    samples = read(root, "sample")["sample"]
    last = next(s for s in samples if not s["next"])
    last["next"] = next(s for s in samples if s["scene_token"] == last["scene_token"] and not s["prev"])["token"]
    write(root, sample=samples)


def loop_of_annotations(root: Path) -> None:
    annotations = read(root, "sample_annotation")["sample_annotation"]
    one = next(a for a in annotations if a["next"])
    other = next(a for a in annotations if a["token"] == one["next"])
    other["next"] = one["token"]
    write(root, sample_annotation=annotations)


def equal_times(root: Path) -> None:
    samples = read(root, "sample")["sample"]
    one = next(s for s in samples if s["next"])
    next(s for s in samples if s["token"] == one["next"])["timestamp"] = one["timestamp"]
    write(root, sample=samples)


def scaled(factor: float) -> Callable[[Path], None]:
    """All times since the first frame of each scene, in another unit."""

    def change(root: Path) -> None:
        tables = read(root, "sample", "sample_data")
        scene = {sample["token"]: sample["scene_token"] for sample in tables["sample"]}
        start = {sample["scene_token"]: sample["timestamp"] for sample in tables["sample"] if not sample["prev"]}
        for record in (*tables["sample"], *tables["sample_data"]):
            begin = start[scene[record.get("sample_token", record["token"])]]
            record["timestamp"] = begin + (record["timestamp"] - begin) * factor
        write(root, **tables)

    return change


def camera_dropped(root: Path) -> None:
    records = read(root, "sample_data")["sample_data"]
    gone = next(r for r in records if r["is_key_frame"] and "CAM_BACK/" in r["filename"])["token"]
    kept = [r for r in records if r["token"] != gone]
    for record in kept:
        for key in ("prev", "next"):
            record[key] = "" if record[key] == gone else record[key]
    write(root, sample_data=kept)


def keyframe_twice(root: Path) -> None:
    records = read(root, "sample_data")["sample_data"]
    key = next(r for r in records if r["is_key_frame"] and "CAM_BACK/" in r["filename"])
    write(root, sample_data=[*records, {**key, "token": "0" * 32, "prev": "", "next": ""}])


def no_intrinsic(root: Path) -> None:
    tables = read(root, "calibrated_sensor", "sensor")
    camera = next(s["token"] for s in tables["sensor"] if s["channel"] == "CAM_BACK")
    next(c for c in tables["calibrated_sensor"] if c["sensor_token"] == camera)["camera_intrinsic"] = []
    write(root, **tables)


def focal(value: float) -> Callable[[Path], None]:
    """That of CAM_BACK, along the image's width."""

    def change(root: Path) -> None:
        tables = read(root, "calibrated_sensor", "sensor")
        camera = next(s["token"] for s in tables["sensor"] if s["channel"] == "CAM_BACK")
        next(c for c in tables["calibrated_sensor"] if c["sensor_token"] == camera)["camera_intrinsic"][0][0] = value
        write(root, **tables)

    return change


def poses_times(factor: float) -> Callable[[Path], None]:
    """Poses in another unit."""

    def change(root: Path) -> None:
        records = read(root, "ego_pose")["ego_pose"]
        for record in records:
            record["translation"] = [factor * x for x in record["translation"]]
        write(root, ego_pose=records)

    return change


NAN, INF = float("nan"), float("inf")
CASES = {
    "pose NaN": (first("ego_pose", "translation", [NAN, 0, 0]), r"ego_pose\.json: record \w+: translation is \[nan"),
    "pose infinite": (first("ego_pose", "translation", [INF, 0, 0]), r"ego_pose\.json: record \w+: translation is \[inf"),
    "pose on its side": (first("ego_pose", "rotation", [0.7071, 0.7071, 0, 0]), r"ego_pose\.json.*rotation is .*w first"),
    "pose of 3 numbers": (first("ego_pose", "rotation", [1, 0, 0]), r"ego_pose\.json.*rotation is \[1, 0, 0\]; needed is"),
    "box NaN": (first("sample_annotation", "translation", [NAN] * 3), r"sample_annotation\.json: record \w+: translation"),
    "box flat": (first("sample_annotation", "size", [1, 1, 0]), r"size is \[1.*; needed is width, length, height"),
    "box turned by zero": (first("sample_annotation", "rotation", [0, 0, 0, 0]), r"sample_annotation\.json.*rotation"),
    "points a text": (first("sample_annotation", "num_lidar_pts", "5"), "num_lidar_pts is '5'; needed is a number of points"),
    "two attributes": (first("sample_annotation", "attribute_tokens", ["a", "b"]), r"attribute_tokens is \['a', 'b'\]; needed"),
    "an attribute of none": (first("sample_annotation", "attribute_tokens", ["a"]), "attribute_tokens refers to 'a', which no"),
    "own visibility": (
        first("sample_annotation", "visibility_token", "high"),
        "visibility_token refers to 'high', which no table",
    ),
    "a visibility of none": (first("visibility", "token", "high"), r"visibility_token refers to '3', which no table"),
    "a key missing": (without("sample_data", "filename"), r"sample_data\.json: record \w+ lacks filename"),
    "a path a number": (first("sample_data", "filename", 5), r"sample_data\.json: record \w+: filename is 5"),
    "a flag a number": (first("sample_data", "is_key_frame", 1), "is_key_frame is 1; needed is true or false"),
    "a time a text": (first("sample", "timestamp", str), "timestamp is '1.*needed is a time in microseconds"),
    "a record twice": (record_twice, r"ego_pose\.json: record \w+ is there twice"),
    "samples in a loop": (loop_of_samples, r"sample\.json: record \w+: next is \w+, whose time is no later .*: a loop"),
    "annotations in a loop": (loop_of_annotations, r"sample_annotation\.json: record \w+: (next|prev) is .*: a loop"),
    "one time twice": (equal_times, r"sample\.json.* whose time is no later"),
    "seconds": (scaled(1e-6), "timestamp steps by 0.5, so it is in seconds; needed are microseconds"),
    "nanoseconds": (scaled(1000), "timestamp steps by 5e.08, so it is in nanoseconds; needed are microseconds"),
    "10 Hz": (scaled(0.2), r"scene-\d+: record \w+: .*\(10 Hz\); needed is 2 Hz .*--every 5.*make data EVERY=5"),
    "a camera missing": (camera_dropped, r"scene-\d+: sample \w+ has no key frame of CAM_BACK; each needs LIDAR_TOP and the six"),
    "a camera twice": (
        keyframe_twice,
        r"sample_data\.json: sample \w+ has two key frames of CAM_BACK, \w+ and 0{32}; needed is one",
    ),
    "no camera matrix": (no_intrinsic, r"calibrated_sensor\.json: record \w+ of CAM_BACK: camera_intrinsic is empty"),
    "a focal length in millimetres": (focal(5.5), r"of CAM_BACK: a focal length of 5\.5 on images 1600 wide; needed are pixels"),
    "a focal length of another image": (focal(1e5), r"of CAM_BACK: a focal length of 1e\+05 on images 1600 wide"),
    "poses in millimetres": (poses_times(1000), r"ego_pose\.json: record \w+: the car is .* m from where it was 0\.5 s before"),
    "a table that is none": (lambda root: write(root, sample={"a": 1}), r"sample\.json is cut short"),  # type: ignore
    "a record that is none": (lambda root: write(root, sample=[1]), r"sample\.json is no list of records"),  # type: ignore
}


@pytest.mark.parametrize("name", CASES)
def test_what_does_not_fit_is_one_line_and_writes_nothing(world: Path, tmp_path: Path, name: str) -> None:
    change, says = CASES[name]
    change(world)
    with pytest.raises(UserError) as error:
        create_infos(world, tmp_path / "out", workers=1, progress=False)
    message = str(error.value)
    assert re.search(says, message) and message.startswith(str(world)) and "\n" not in message, message
    assert not (tmp_path / "out").exists()


def infos(root: Path, out: Path, **options: Any) -> list[dict[str, Any]]:
    create_infos(root, out, workers=1, progress=False, **options)
    return load(out / "nuscenes_infos_temporal_train.pkl")["infos"]


def test_paths_of_windows_are_those_of_this_system(world: Path, synthetic_infos: Path, tmp_path: Path) -> None:
    tables = read(world, "sample_data", "map")
    for record in (*tables["sample_data"], *tables["map"]):
        record["filename"] = record["filename"].replace("/", "\\")
    write(world, **tables)
    create_infos(world, tmp_path, workers=1, progress=False)
    name = "nuscenes_infos_temporal_train.pkl"
    assert (tmp_path / name).read_bytes() == (synthetic_infos / name).read_bytes()


def test_visibility_of_one_s_own_tokens_is_read_by_its_level(world: Path, synthetic_infos: Path, tmp_path: Path) -> None:
    tables = read(world, "visibility", "sample_annotation")
    own = {record["token"]: f"own-{record['token']}" for record in tables["visibility"]}
    for record in tables["visibility"]:
        record["token"] = own[record["token"]]
    for record in tables["sample_annotation"]:
        record["visibility_token"] = own.get(record["visibility_token"], "")
    write(world, **tables)
    want = load(synthetic_infos / "nuscenes_infos_temporal_train.pkl")["infos"]
    for info, other in zip(infos(world, tmp_path / "out"), want, strict=True):
        assert np.array_equal(info["visibility_tokens"], other["visibility_tokens"])
    tables["visibility"][0]["level"] = "hardly"
    write(world, visibility=tables["visibility"])
    with pytest.raises(UserError, match="level is 'hardly'; needed is one of v0-40"):
        infos(world, tmp_path / "out")


def test_denser_keyframes_are_thinned_as_if_they_had_been_recorded_so(world: Path, tmp_path: Path) -> None:
    """Six frames at 10 Hz; each fifth is a keyframe, what lies between them are sweeps."""
    scaled(0.2)(world)
    dense = Tables(world, VERSION)
    scene = next(s for s in dense.scene if s["name"] == "scene-0001")
    chain = [dense.get("sample", scene["first_sample_token"])]
    while chain[-1]["next"]:
        chain.append(dense.get("sample", chain[-1]["next"]))
    begin, end = chain[0], chain[5]
    thin = infos(world, tmp_path / "out", every=5)
    assert load(tmp_path / "out" / "nuscenes_infos_temporal_train.pkl")["metadata"]["every"] == 5
    assert [info["token"] for info in thin] == [begin["token"], end["token"]]
    assert [(info["prev"], info["next"]) for info in thin] == [("", end["token"]), (begin["token"], "")]
    assert [info["frame_idx"] for info in thin] == [0, 1]
    # Sweeps before the second keyframe are lidar frames back to the first one and further, none left out.
    lidar = [dense.get("sample_data", sample["data"]["LIDAR_TOP"]) for sample in chain]
    sweeps = [sweep["data_path"] for sweep in thin[1]["sweeps"]]
    record, want = lidar[5], []
    while record["prev"] and len(want) < 10:
        record = dense.get("sample_data", record["prev"])
        want.append(record["filename"])
    assert sweeps == want and lidar[4]["filename"] in sweeps
    # Velocities and futures are those of half a second.
    checked = 0
    for number, token in enumerate(thin[0]["gt_ins_tokens"]):
        annotations = {}
        for sample in (begin, end):
            for annotation in map(lambda t: dense.get("sample_annotation", t), sample["anns"]):
                if annotation["instance_token"] == token:
                    annotations[sample["token"]] = np.array(annotation["translation"])
        if len(annotations) < 2:
            continue
        moved = (annotations[end["token"]] - annotations[begin["token"]])[:2]
        seconds = (end["timestamp"] - begin["timestamp"]) / 1e6
        assert np.hypot(*thin[0]["gt_velocity"][number]) == pytest.approx(np.hypot(*moved) / seconds, rel=1e-3, abs=1e-3)
        assert thin[0]["fut_traj_valid_mask"][number][:, 0].tolist() == [1.0] + [0.0] * 15
        assert np.hypot(*thin[0]["fut_traj"][number][0]) == pytest.approx(np.hypot(*moved), abs=1e-6)
        checked += 1
    assert checked > 3
    tables = Tables(world, VERSION, every=5)
    for record in tables.scene:
        assert record["nbr_samples"] == 2
        assert tables.get("sample", record["first_sample_token"])["next"] == record["last_sample_token"]
    assert {len([d for d in tables.sample_data if d["is_key_frame"] and d["channel"] == c]) for c in CAMERAS} == {4}


def test_all_frames_chosen_are_the_tables_themselves(synthetic_root: Path) -> None:
    whole = Tables(synthetic_root, VERSION)
    chosen = Tables(synthetic_root, VERSION, samples={record["token"] for record in whole.sample})
    for name in ("scene", "sample", "sample_data", "sample_annotation", "instance"):
        assert getattr(whole, name) == getattr(chosen, name), name
    with pytest.raises(UserError, match="has no sample abc; the infos were made from other tables"):
        Tables(synthetic_root, VERSION, samples={"abc"})


@pytest.mark.parametrize(("every", "says"), [(0, "--every 0"), (2, "interpolate")])
def test_every_that_does_not_fit_is_refused(synthetic_root: Path, tmp_path: Path, every: int, says: str) -> None:
    done = create_data("nuscenes", "--root-path", synthetic_root, "--out-dir", tmp_path / "out", "--every", str(every))
    assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_can_bus_at_another_place_is_told_before_anything_is_read(world: Path, tmp_path: Path) -> None:
    (world / "can_bus").rename(world / "messages")
    (world / "can_bus").mkdir()
    (problem,) = dataset_problems(world, VERSION)
    assert problem.startswith(f"{world}/can_bus holds no *_pose.json (CAN bus expansion") and "--without-canbus" in problem
    (world / "messages").rename(world / "can_bus" / "can_bus")
    (problem,) = dataset_problems(world, VERSION)
    assert "can_bus/can_bus does" in problem and f"--canbus {world}/can_bus" in problem
    assert dataset_problems(world, VERSION, world / "can_bus") == []
    assert not [i for i in infos(world, tmp_path / "out", can_bus_root=world / "can_bus") if not i["can_bus"].any()]


def damaged(text: Callable[[str], str]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = text(path.read_text())
        path.unlink()
        path.write_text(content)

    return change


def messages(change: Callable[[list[dict]], Any]) -> Callable[[Path], None]:
    def apply(text: str) -> str:
        records = json.loads(text)
        return json.dumps(change(records) or records)

    return damaged(apply)


@pytest.mark.parametrize(("change", "says"), [
    (damaged(lambda text: text[:2000]), "is damaged or cut short"),
    (damaged(lambda text: "[]"), "holds no messages"),
    (damaged(lambda text: "{}"), "holds no messages"),
    (messages(lambda m: m[3].update(vel=[1, 2])), r"message 3: vel is \[1, 2\]"),
    (messages(lambda m: m[3].update(accel=[float("nan")] * 3)), "message 3: accel is"),
    (messages(lambda m: m[3].pop("pos") and None), "message 3 lacks pos"),
    (messages(lambda m: m[::-1]), "message 1: utime is earlier than that of the message before it"),
    (messages(lambda m: [r.update(utime=r["utime"] // 1000) for r in m] and m), "is not the time of the scene's frames"),
    (lambda path: path.unlink(), "does not exist; unpack the CAN bus expansion there, or .*--without-canbus"),
])  # fmt: skip
def test_messages_that_are_damaged_or_absent_are_one_line(world: Path, tmp_path: Path, change: Any, says: str) -> None:
    path = world / "can_bus" / "scene-0001_pose.json"
    change(path)
    with pytest.raises(UserError, match=says) as error:
        infos(world, tmp_path / "out")
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_the_scenes_without_a_can_bus_are_those_of_the_devkit(synthetic_root: Path) -> None:
    from nuscenes.can_bus.can_bus_api import NuScenesCanBus

    assert sorted(WITHOUT) == sorted(NuScenesCanBus(str(synthetic_root)).can_blacklist)
    assert is_without("scene-0161") and not is_without("scene-0169") and not is_without("drive-0161")


def renamed(world: Path, names: list[str]) -> None:
    """Scenes with other names, their CAN bus messages with them."""
    scenes = read(world, "scene")["scene"]
    for scene, name in zip(scenes, names):
        (world / "can_bus" / f"{scene['name']}_pose.json").rename(world / "can_bus" / f"{name}_pose.json")
        scene["name"] = name
    write(world, scene=scenes)


def test_scenes_of_one_s_own_are_split_by_splits_json(world: Path, tmp_path: Path) -> None:
    renamed(world, ["drive-a", "drive-b"])
    own = world / VERSION / "splits.json"
    with pytest.raises(UserError, match=r"none of its 2 scenes \(drive-a, drive-b\) is in a split of the devkit; .*splits\.json"):
        infos(world, tmp_path / "out")
    for content, says in (
        ("{", "cannot be read"),
        ("[]", "is no mapping"),
        ('{"train": ["drive-a"]}', "has no 'val'"),
        ('{"trian": ["drive-a"], "val": []}', "has no 'train'; did you mean 'trian'"),
        ('{"train": ["drive-c"], "val": []}', "train names 'drive-c', which scene.json has not; did you mean 'drive-"),
        ('{"train": ["drive-a"], "val": ["drive-a"]}', "has 'drive-a' in train and in val"),
        ('{"train": "drive-a", "val": []}', "train is 'drive-a'; needed is a list of scene names"),
    ):
        own.write_text(content)
        with pytest.raises(UserError, match=says) as error:
            infos(world, tmp_path / "out")
        assert str(error.value).startswith(str(own))
    own.write_text('{"train": ["drive-b"], "val": [], "mine": ["drive-a"]}')
    result = create_infos(world, tmp_path / "out", workers=1, progress=False)
    assert list(result.files.values()) == [6, 0] and result.unlisted_scenes == ("drive-a",)
    done = create_data("nuscenes", "--root-path", world, "--out-dir", tmp_path / "out")
    assert done.returncode == 0 and "in none of its splits (drive-a)" in done.stdout
    assert "val.pkl is empty: no scene of this split is here" in done.stdout


def test_scenes_taken_out_of_their_table_are_gone_and_nothing_else_is(world: Path, synthetic_infos: Path, tmp_path: Path) -> None:
    """All scenes left are of one split; the other split's file is empty, and says so when it is read."""
    write(world, scene=[scene for scene in read(world, "scene")["scene"] if scene["name"] == "scene-0001"])
    result = create_infos(world, tmp_path, workers=1, progress=False)
    assert list(result.files.values()) == [6, 0]
    train, val = (tmp_path / f"nuscenes_infos_temporal_{split}.pkl" for split in ("train", "val"))
    assert len(load_table(train, world)) == 6
    with pytest.raises(UserError, match=r"val\.pkl lists no frames: no scene of the data set is in this split; splits\.json"):
        load_table(val, world)
