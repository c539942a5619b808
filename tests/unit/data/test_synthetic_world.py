"""The synthetic data set: the unmodified devkit opens it, its parts agree with each other, and it is made reliably."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from nuscenes.can_bus.can_bus_api import NuScenesCanBus
from nuscenes.map_expansion.map_api import NuScenesMap
from nuscenes.nuscenes import NuScenes
from nuscenes.utils.data_classes import Box, LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box
from nuscenes.utils.splits import create_splits_scenes
from pyquaternion import Quaternion

import uniad.data.synthetic.record as record
from uniad.data.synthetic import WorldParams, generate, stamp_of
from uniad.data.synthetic.look import make_look
from uniad.data.synthetic.paint import Stage, View, make_item, paint, pixels
from uniad.data.synthetic.params import LOCATIONS, SCENES, scene_names, scene_specs
from uniad.data.synthetic.scene import Scene
from uniad.data.synthetic.sensors import CAMERAS, HEIGHT, LIDAR, WIDTH
from uniad.data.synthetic.shapes import SIZES, build_shape, draw_size
from uniad.data.synthetic.tables import TABLES, attribute_name, visibility_token
from uniad.errors import UserError

# Pixels that a filled polygon may lie outside its outline: OpenCV fills every pixel that an edge touches (0.5 across, 0.7
# to a corner).
SYNTHETIC_PIXEL = 0.75
SMALL = WorldParams(train_scenes=1, val_scenes=1, frames=3, seed=3, lidar_columns=540)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("world") / "nuscenes"
    assert generate(SMALL, out, workers=1)
    return out


@pytest.fixture(scope="module")
def nusc(world: Path) -> NuScenes:
    return NuScenes("v1.0-trainval", str(world), verbose=False)


@pytest.fixture(scope="module")
def scene() -> Scene:
    params = WorldParams(train_scenes=3, val_scenes=0, frames=20)
    return Scene(params, scene_specs(params)[1])


# What the devkit sees


def test_devkit_opens_all_tables(world: Path, nusc: NuScenes) -> None:
    assert {path.stem for path in (world / "v1.0-trainval").iterdir()} == set(TABLES)
    assert len(nusc.scene) == 2 and len(nusc.sample) == 6 and len(nusc.map) == 4
    for name in TABLES:
        tokens = [row["token"] for row in getattr(nusc, name)]
        assert len(set(tokens)) == len(tokens), name
    splits = create_splits_scenes()
    names = [s["name"] for s in nusc.scene]
    assert names[0] in splits["train"] and names[1] in splits["val"]


def test_every_sample_has_six_pictures_and_a_point_cloud(nusc: NuScenes) -> None:
    for sample in nusc.sample:
        assert set(sample["data"]) == {*CAMERAS, LIDAR}
    sample = nusc.sample[4]
    for channel in CAMERAS:
        path, _, intrinsic = nusc.get_sample_data(sample["data"][channel])
        assert cv2.imread(path).shape == (HEIGHT, WIDTH, 3)
        assert intrinsic.shape == (3, 3)
        assert Path(path).parts[-3:-1] == ("samples", channel)
    cloud = LidarPointCloud.from_file(nusc.get_sample_data_path(sample["data"][LIDAR]))
    assert 5_000 < cloud.nbr_points() <= 540 * 32


def test_chains_lead_through_every_scene(nusc: NuScenes) -> None:
    for scene in nusc.scene:
        for channel in (*CAMERAS, LIDAR):
            token = nusc.get("sample", scene["first_sample_token"])["data"][channel]
            times = []
            while token:
                row = nusc.get("sample_data", token)
                times.append(row["timestamp"])
                assert nusc.get("ego_pose", row["ego_pose_token"])["timestamp"] == row["timestamp"]
                token = row["next"]
            assert len(times) == SMALL.frames and np.allclose(np.diff(times), 500_000)
    for instance in nusc.instance:
        token, count = instance["first_annotation_token"], 0
        while token:
            row = nusc.get("sample_annotation", token)
            assert row["instance_token"] == instance["token"]
            last, token, count = token, row["next"], count + 1
        assert last == instance["last_annotation_token"] and count == instance["nbr_annotations"]


def test_lidar_sits_and_looks_as_in_the_genuine_set(nusc: NuScenes) -> None:
    row = nusc.get("sample_data", nusc.sample[0]["data"][LIDAR])
    mount = nusc.get("calibrated_sensor", row["calibrated_sensor_token"])
    forward_in_ego = Quaternion(mount["rotation"]).rotate(np.array([0.0, 1.0, 0.0]))  # lidar y is the car's x
    assert np.allclose(forward_in_ego, [1, 0, 0], atol=0.03)
    assert np.allclose(mount["translation"], [0.943, 0.0, 1.84], atol=0.01)


def test_lidar_counts_are_those_of_the_devkit(nusc: NuScenes) -> None:
    checked = 0
    for sample in nusc.sample[::4]:
        path, boxes, _ = nusc.get_sample_data(sample["data"][LIDAR])
        cloud = LidarPointCloud.from_file(path).points[:3]
        for box in boxes:
            want = nusc.get("sample_annotation", box.token)["num_lidar_pts"]
            assert abs(int(points_in_box(box, cloud).sum()) - want) <= max(1, 0.02 * want)  # float32 at the box's faces
            checked += 1
    assert checked > 30


def test_what_cameras_see_well_the_lidar_hits(nusc: NuScenes) -> None:
    near = []
    for sample in nusc.sample:
        ego = nusc.get("ego_pose", sample["data"][LIDAR])["translation"]
        for token in sample["anns"]:
            row = nusc.get("sample_annotation", token)
            if row["visibility_token"] == "4" and np.linalg.norm(np.subtract(row["translation"], ego)[:2]) < 25:
                near.append(row["num_lidar_pts"] > 0)
    assert len(near) > 12 and np.mean(near) > 0.97


def test_annotations_use_known_classes_and_fitting_attributes(nusc: NuScenes) -> None:
    for row in nusc.sample_annotation:
        names = [nusc.get("attribute", token)["name"] for token in row["attribute_tokens"]]
        family = row["category_name"].split(".")[0:2]
        if family[0] == "human":
            assert names[0].startswith("pedestrian.")
        elif family[1] in ("bicycle", "motorcycle"):
            assert names[0].startswith("cycle.")
        elif family[0] == "vehicle":
            speed = np.linalg.norm(nusc.box_velocity(row["token"])[:2])
            assert names[0].startswith("vehicle.")
            assert not (names[0] == "vehicle.parked" and speed > 0.1)
        else:
            assert names == []
    assert attribute_name("car", "driving", 0.0) == "vehicle.stopped"
    assert attribute_name("car", "driving", 3.0) == "vehicle.moving"


@pytest.mark.parametrize("location", LOCATIONS)
def test_devkit_opens_the_vector_map(world: Path, location: str) -> None:
    town = NuScenesMap(str(world), location)
    width, height = town.canvas_edge
    layers = ["road_divider", "lane_divider", "ped_crossing", "drivable_area", "walkway", "stop_line", "lane"]
    masks = town.get_map_mask((width / 2, height / 2, 102.4, 102.4), 30.0, layers, (200, 200))
    assert masks.shape == (7, 200, 200) and masks[3].mean() > 0.05
    whole = dict(zip(layers, town.get_map_mask(None, 0, layers, (300, 300))))
    assert all(mask.any() for mask in whole.values())
    for line in town.discretize_centerlines(0.5):
        assert np.linalg.norm(np.diff(line[:, :2], axis=0), axis=1).max() < 0.52
    for record_ in town.lane + town.road_segment + town.ped_crossing:
        assert town.extract_polygon(record_["polygon_token"]).is_valid
    ends = {token: paths for token, paths in town.arcline_path_3.items()}
    for token, links in town.connectivity.items():
        for after in links["outgoing"]:
            gap = np.subtract(ends[token][-1]["end_pose"][:2], ends[after][0]["start_pose"][:2])
            assert np.linalg.norm(gap) < 0.1, "a lane's successor begins where the lane ends"


def test_devkit_finds_the_mask_and_the_car_drives_on_it(nusc: NuScenes) -> None:
    for scene in nusc.scene:
        log = nusc.get("log", scene["log_token"])
        mask = nusc.get("map", log["map_token"])["mask"]
        pose = nusc.get("ego_pose", nusc.get("sample", scene["first_sample_token"])["data"][LIDAR])
        assert mask.is_on_mask(pose["translation"][0], pose["translation"][1])
        assert not mask.is_on_mask(1.0, 1.0)


def test_devkit_opens_the_can_bus_and_it_follows_the_ego_pose(world: Path, nusc: NuScenes) -> None:
    can = NuScenesCanBus(str(world))
    for scene in nusc.scene:
        for name in can.all_messages:
            assert can.get_messages(scene["name"], name, print_warnings=False)
        rows = can.get_messages(scene["name"], "pose")
        # Upstream's reader takes the values in the file's own order of keys.
        assert list(rows[0]) == ["accel", "orientation", "pos", "rotation_rate", "utime", "vel"]
        assert np.allclose(np.diff([row["utime"] for row in rows]), 20_000, atol=1)
        times = np.array([row["utime"] for row in rows])
        sample = nusc.get("sample", scene["last_sample_token"])
        pose = nusc.get("ego_pose", sample["data"][LIDAR])
        nearest = rows[int(np.argmin(np.abs(times - sample["timestamp"])))]
        assert np.linalg.norm(np.subtract(nearest["pos"], pose["translation"])) < 0.15
        assert np.allclose(nearest["orientation"], pose["rotation"], atol=0.02)
        speed = np.linalg.norm(np.subtract(rows[-1]["pos"], rows[-2]["pos"])) / 0.02
        assert abs(speed - rows[-1]["vel"][0]) < 0.2


# Pictures and labels agree


def test_boxes_agree_with_pixels(scene: Scene) -> None:
    """Rendered with and without an object, the pixels that change lie in its projected box and reach its sides."""
    t_s, checked = 3.0, 0
    full = scene.stage(t_s)
    for channel in ("CAM_FRONT", "CAM_BACK_LEFT", "CAM_BACK"):
        picture, painted = scene.render(channel, full, t_s)
        view = scene.camera_view(channel, t_s)
        for label, alone, seen in painted:
            actor = scene.actors[label - 1]
            x, y, yaw, _ = actor.at(t_s)
            box = Box([x, y, actor.size[2] / 2], list(actor.size), Quaternion(axis=[0, 0, 1], angle=yaw)).corners()
            corners = (view.cam_from_global[:3, :3] @ box + view.cam_from_global[:3, 3:]).T
            if seen < 40 or (corners[:, 2] < 1.0).any():
                continue
            without, _ = scene.render(channel, scene.stage(t_s, frozenset([label])), t_s, measure=False)
            rows, columns = np.nonzero((picture != without).any(-1))
            spots = np.stack([columns, rows], axis=1).astype(np.float32)
            flat = pixels(corners, view.k)
            hull = cv2.convexHull(flat.astype(np.float32))
            inside = min(cv2.pointPolygonTest(hull, (float(u), float(v)), True) for u, v in spots[:: max(1, len(spots) // 400)])
            assert inside > -SYNTHETIC_PIXEL
            low, high = flat.min(axis=0), flat.max(axis=0)
            if seen == alone and (low > 0).all() and (high < [WIDTH - 1, HEIGHT - 1]).all():
                # A round or slim figure does not reach its box's corners: a fifth of the side, and never short on a car.
                slack = 0.0 if actor.kind in ("car", "bus") else 0.2 * (high - low).max()
                assert (spots.min(axis=0) - low < 1.6 + slack).all() and (high - spots.max(axis=0) < 1.6 + slack).all()
                checked += 1
    assert checked >= 8


@pytest.mark.parametrize("kind", sorted(SIZES))
def test_shapes_fill_their_boxes(kind: str) -> None:
    for seed in range(3):
        w, l, h = draw_size(kind, np.random.default_rng(seed))
        for rider in (True, False):
            mesh = build_shape(kind, (w, l, h), seed, rider=rider)
            assert np.allclose(mesh.low, [-l / 2, -w / 2, 0]) and np.allclose(mesh.high, [l / 2, w / 2, h])
            assert (mesh.verts >= mesh.low - 1e-9).all() and (mesh.verts <= mesh.high + 1e-9).all()


def _camera() -> View:
    """Looks along +x from 1.5 m above the origin."""
    rotation = np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = rotation, -rotation @ [0, 0, 1.5]
    return View(np.array([[1260.0, 0, 800], [0, 1260, 450], [0, 0, 1]]), pose)


def _look():
    return make_look(np.random.default_rng(0))


def test_visibility_falls_as_something_moves_in_front() -> None:
    car = build_shape("car", SIZES["car"][0], 1)
    truck = build_shape("truck", SIZES["truck"][0], 2)
    shares = []
    for across in np.linspace(9.0, 0.0, 10):
        items = [make_item(car, (30.0, 0.0, np.pi / 2), _look(), 1), make_item(truck, (15.0, across, np.pi / 2), _look(), 2)]
        seen = {p.label: p for p in paint(np.zeros((HEIGHT, WIDTH, 3), np.uint8), Stage(items), _camera(), _look())}
        shares.append(seen[1].seen / seen[1].alone)
        assert seen[2].seen == seen[2].alone, "nothing stands in front of the truck"
    assert shares[0] == 1.0 and shares[-1] == 0.0
    assert all(b <= a for a, b in zip(shares, shares[1:])) and len(set(shares)) > 3
    assert [visibility_token(s, 100) for s in (0, 39, 40, 60, 80, 100)] == ["1", "1", "2", "3", "4", "4"]


def test_a_small_car_beside_a_long_bus_is_painted_in_front() -> None:
    """Order by distance of the middles would fail here: the bus's middle is nearer than the car's, the car is in front."""
    bus = make_item(build_shape("bus", (2.9, 18.0, 3.4), 1), (14.0, -4.5, 0.0), _look(), 1)
    car = make_item(build_shape("car", SIZES["car"][0], 1), (17.0, 0.2, 0.0), _look(), 2)
    seen = {p.label: p for p in paint(np.zeros((HEIGHT, WIDTH, 3), np.uint8), Stage([car, bus]), _camera(), _look())}
    assert seen[2].seen == seen[2].alone


# What happens in the world


def test_the_car_turns_left_right_and_goes_straight() -> None:
    """By upstream's rule: over 2 m to a side after three seconds is a turn."""
    params = WorldParams(train_scenes=3, val_scenes=0, frames=20)
    for spec in scene_specs(params):
        scene = Scene(params, spec)
        commands = []
        for t_s in np.arange(0.0, 6.5, 0.5):
            (a, yaw), (b, _) = scene.ego_pose(t_s), scene.ego_pose(t_s + 3.0)
            left = np.array([-np.sin(yaw), np.cos(yaw)]) @ (b - a)
            commands.append("left" if left > 2 else "right" if left < -2 else "straight")
        assert spec.manoeuvre in commands
        assert not {"left", "right"} - {spec.manoeuvre} & set(commands)


def test_motion_is_plausible(scene: Scene) -> None:
    vehicles = [a for a in scene.actors if a.mode == "driving"]
    assert len(vehicles) >= 3
    for actor in [scene.ego, *vehicles]:
        track = actor.track
        assert (track.v >= 0).all() and track.v.max() < 13 and np.abs(track.a).max() <= 7.01
        bend = np.abs(track.path.curvature(track.s))
        assert (track.v**2 * bend).max() < 4.5, "lateral acceleration"
    moved = scene.ego.track.s[-1] - scene.ego.track.s[0]
    assert moved > 40


def test_vehicles_do_not_drive_through_each_other(scene: Scene) -> None:
    from shapely.geometry import Polygon

    bodies = [a for a in [scene.ego, *scene.actors] if a.kind in ("car", "truck", "bus")]
    for t_s in np.arange(0.0, scene.duration_s, 1.5):
        outlines = []
        for actor in bodies:
            x, y, yaw, _ = actor.at(t_s)
            w, l, _ = actor.size
            turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
            outlines.append(Polygon(np.array([[l, w], [-l, w], [-l, -w], [l, -w]]) / 2 @ turn + [x, y]))
        for i, a in enumerate(outlines):
            for b in outlines[i + 1 :]:
                assert a.intersection(b).area < 0.3


def test_things_come_into_view_and_leave_it(nusc: NuScenes) -> None:
    lengths = [instance["nbr_annotations"] for instance in nusc.instance]
    assert min(lengths) < SMALL.frames and max(lengths) == SMALL.frames


# How it is made


def _digests(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*")) if path.is_file()
    }  # fmt: skip


def test_files_depend_on_the_seed_and_not_on_the_workers(world: Path, tmp_path: Path) -> None:
    done: list[tuple[int, int]] = []
    assert generate(SMALL, tmp_path / "two", workers=2, progress=lambda *state: done.append(state))
    assert done[-1] == (6, 6)
    assert _digests(tmp_path / "two") == _digests(world)
    other = replace(SMALL, seed=4)
    starts = [Scene(params, scene_specs(params)[0]).ego_pose(0.0)[0] for params in (SMALL, other)]
    assert not np.allclose(*starts)


def test_an_interrupted_run_goes_on_where_it_stopped(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    save = record._save

    def failing(root, kind, scene, log, channel, *rest):
        calls.append(scene.spec.name)
        if len(calls) > 10:  # in the second keyframe of the first scene
            raise KeyboardInterrupt
        return save(root, kind, scene, log, channel, *rest)

    out = tmp_path / "nuscenes"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(record, "_save", failing)
        generate(SMALL, out)
    assert not out.exists(), "nothing half-made is ever at the final place"
    calls.clear()

    def counting(root, kind, scene, log, channel, *rest):
        calls.append(scene.spec.name)
        return save(root, kind, scene, log, channel, *rest)

    monkeypatch.setattr(record, "_save", counting)
    assert generate(SMALL, out)
    assert len(calls) == 7 * (6 - 1), "the finished keyframe is not made again"
    assert _digests(out) == _digests(world)
    assert [p.name for p in tmp_path.iterdir()] == ["nuscenes"], "no leftovers"


def test_the_same_request_again_does_nothing(world: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in world.rglob("*")}
    assert not generate(SMALL, world)
    assert {p: p.stat().st_mtime_ns for p in world.rglob("*")} == before


def test_another_request_replaces_a_synthetic_set(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world, tmp_path / "set")
    params = WorldParams(train_scenes=0, val_scenes=1, frames=2, lidar_columns=90)
    assert generate(params, tmp_path / "set")
    assert stamp_of(tmp_path / "set") == params.as_dict()
    assert len(json.loads((tmp_path / "set" / "v1.0-trainval" / "scene.json").read_text())) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["set"], "no leftovers"


def test_sweeps_fill_the_time_between_keyframes(tmp_path: Path) -> None:
    params = WorldParams(version="v1.0-mini", train_scenes=1, val_scenes=0, frames=2, sweeps="all", lidar_columns=90)
    generate(params, tmp_path / "mini")
    nusc = NuScenes("v1.0-mini", str(tmp_path / "mini"), verbose=False)
    assert nusc.scene[0]["name"] in create_splits_scenes()["mini_train"]
    row, steps = nusc.get("sample_data", nusc.sample[1]["data"][LIDAR]), []
    while row["prev"]:
        before = nusc.get("sample_data", row["prev"])
        steps.append(row["timestamp"] - before["timestamp"])
        row = before
        assert (tmp_path / "mini" / row["filename"]).is_file()
        assert row["filename"].startswith("samples/" if row["is_key_frame"] else "sweeps/")
    assert steps == [50_000] * 10
    cameras = [r for r in nusc.sample_data if r["channel"] == "CAM_FRONT"]
    assert len(cameras) == 7


# Bad input


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "nuscenes" / "samples").mkdir(parents=True)
    (tmp_path / "nuscenes" / "samples" / "mine.jpg").write_text("precious")
    with pytest.raises(UserError, match="was not made by this generator"):
        generate(SMALL, tmp_path / "nuscenes")
    assert (tmp_path / "nuscenes" / "samples" / "mine.jpg").read_text() == "precious"
    assert not list(tmp_path.glob(".nuscenes*"))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file"):
        generate(SMALL, tmp_path / "file" / "nuscenes")


def test_a_full_disk_is_told_before_work_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    with pytest.raises(UserError, match="0.0 GB free"):
        generate(SMALL, tmp_path / "nuscenes")
    assert not (tmp_path / "nuscenes").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "v1.0-test"}, "v1.0-test"),
        ({"train_scenes": 5000}, "685 usable train names"),
        ({"version": "v1.0-mini", "val_scenes": 3}, "v1.0-trainval has more"),
        ({"frames": 1}, "between 2 and 400"),
        ({"sweeps": "radar"}, "none, lidar or all"),
        ({"train_scenes": 0, "val_scenes": 0}, "at least one scene"),
    ],
)
def test_impossible_requests_say_what_would_work(change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        WorldParams(**change)


@pytest.mark.parametrize(("version", "counts"), SCENES.items())
def test_as_many_scenes_can_be_named_as_is_promised(version: str, counts: tuple[int, int], tmp_path: Path) -> None:
    names = scene_names(WorldParams(version=version, train_scenes=counts[0], val_scenes=counts[1]))
    assert tuple(len(names[split]) for split in ("train", "val")) == counts
    assert not set(names["train"]) & set(names["val"])
    (tmp_path / "can_bus").mkdir()
    without_can_bus = set(NuScenesCanBus(str(tmp_path)).can_blacklist)
    assert not {int(name[-4:]) for name in [*names["train"], *names["val"]]} & without_can_bus


def test_the_command_line_ends_with_one_line_and_status_2(repo: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "other.txt").write_text("")
    command = [sys.executable, str(repo / "tools" / "make_synthetic_nuscenes.py"), "--out", str(tmp_path / "x")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith("error: ") and run.stderr.count("\n") == 1
