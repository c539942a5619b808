"""Bench2Drive's info and map files become the arrays and targets that everything else reads; values worked out by hand."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch

from helpers.command_line import tool
from helpers.pictures import painted
from helpers.specs import CONFIGS, config_path, edit
from helpers.weights import rule_state_dict
from uniad.backends.open import Model
from uniad.backends.torch import TorchRunner
from uniad.config.presets import BENCH2DRIVE, PRESETS
from uniad.config.read import load_spec
from uniad.config.spec import BENCH2DRIVE_WORDS, NUSCENES_WORDS, DataSpec
from uniad.data import packs, unpickle
from uniad.data.anchors import save_motion_anchors
from uniad.data.bench2drive import RouteLabeller, load_routes, town_maps
from uniad.data.collate import collate
from uniad.data.dataset import ClipDataset, SceneStream, open_table, pose_tensors
from uniad.data.packs import write_pack
from uniad.data.synthetic.bench2drive import FOLDERS
from uniad.deploy.runtime import Runtime
from uniad.deploy.sources import DatasetFrames
from uniad.errors import UserError
from uniad.formats import bench2drive as schema
from uniad.formats.layout import CAMERAS
from uniad.interface.contract import contract_for, unpack_inputs
from uniad.interface.types import Frame
from uniad.models.bev_model import BevModel
from uniad.models.uniad import UniAD
from uniad.training.packed import packed_loader
from uniad.viz import page
from uniad.viz.page import render as real
from uniad.viz.palette import map_colour

FRAMES = 40
SPEED = 10.0


def frame(folder: str, index: int, x0: float = 0.0) -> dict:
    """A car that drives along the world's +y at 10 m/s, and another 20 m ahead that keeps its distance; lidar over the axle."""
    yaw = np.pi / 2
    world_from_ego = np.array([[0.0, -1, 0, x0], [1, 0, 0, SPEED * index / 10], [0, 0, 1, 0], [0, 0, 0, 1]])
    ego_from_lidar = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 1.8], [0, 0, 0, 1]])
    other = np.array([[0.0, -1, 0, x0], [1, 0, 0, SPEED * index / 10 + 20], [0, 0, 1, 0], [0, 0, 0, 1]])
    cam = {"cam2ego": np.array([[0.0, 0, 1, 1], [-1, 0, 0, 0], [0, -1, 0, 1.6], [0, 0, 0, 1]]),
           "intrinsic": np.array([[1142.0, 0, 800], [0, 1142, 450], [0, 0, 1]])}  # fmt: skip
    sensors = {name: {**cam, "data_path": f"{folder}/camera/{FOLDERS[name]}/{index:05d}.jpg"} for name in schema.CAMERAS}
    sensors["LIDAR_TOP"] = {"lidar2ego": ego_from_lidar, "world2lidar": np.linalg.inv(world_from_ego @ ego_from_lidar)}
    return {
        "folder": folder, "town_name": "Town01", "frame_idx": index, "command_near": (-1, 1, 2, 3, 4, 5, 6)[index % 7],
        "ego_yaw": yaw, "ego_translation": np.array([x0, SPEED * index / 10, 0.0]), "ego_vel": np.array([SPEED, 0.0, 0.0]),
        "ego_accel": np.array([0.5, -0.25, 9.8]), "ego_rotation_rate": np.array([0.0, 0.0, 0.125]),
        "ego_size": np.array([1.85, 4.9, 1.5]), "world2ego": np.linalg.inv(world_from_ego), "sensors": sensors,
        "gt_ids": np.array([7]), "gt_boxes": np.array([[0.0, 20.0, -1.05, 2.0, 4.5, 1.5, -np.pi, 0.0, SPEED]]),
        "gt_names": np.array(["vehicle.ford.ambulance"]), "num_points": np.array([-1]), "npc2world": other[None],
    }  # fmt: skip


TOWN = {
    "lane_points": [np.array([[-4.0, y, 0.0] for y in np.arange(-20.0, 60.0, 2.0)])] * 2,
    "lane_sample_points": [np.array([[-4.0, 0.0, 0.0]])] * 2,
    "lane_types": ["Broken", "NONE"],
    "trigger_volumes_points": [np.array([[3.0, 6, 0], [9, 6, 0], [9, 8, 0], [3, 8, 0]])],
    "trigger_volumes_sample_points": [np.array([6.0, 7.0, 0.0])],
    "trigger_volumes_types": ["StopSign"],
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("b2d")
    frames = [frame(f"v1/A_Town01_Route{r}_Weather0", i, 100.0 * r) for r in range(2) for i in range(FRAMES)]
    image = cv2.imencode(".jpg", np.full((900, 1600, 3), 90, np.uint8))[1].tobytes()
    for row in frames:
        for camera in schema.CAMERAS:
            path = folder / "bench2drive" / row["sensors"][camera]["data_path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(image)
    (folder / "infos").mkdir()
    for split in ("train", "val"):  # as Bench2DriveZoo writes them
        (folder / "infos" / f"b2d_infos_{split}.pkl").write_bytes(pickle.dumps(frames))
    (folder / "infos" / "b2d_map_infos.pkl").write_bytes(pickle.dumps({"Town01": TOWN}))
    return folder


def options(root: Path, *more: str) -> list[str]:
    return [f"b2d_data_root={root}/bench2drive/", f"b2d_info_root={root}/infos/", *more]


@pytest.fixture(scope="module")
def data(root: Path) -> DataSpec:
    return load_spec(CONFIGS / "stage2_e2e" / "b2d-base_e2e.py", options(root)).data


@pytest.fixture(scope="module")
def labeller(data: DataSpec) -> RouteLabeller:
    return RouteLabeller(load_routes(data, data.ann_file_val), data)


def test_the_preset_differs_from_v1_by_what_it_names(data: DataSpec) -> None:
    assert {key: getattr(data.compat, key) for key in PRESETS[BENCH2DRIVE]} == PRESETS[BENCH2DRIVE]
    assert BENCH2DRIVE_WORDS.cameras == schema.CAMERAS and NUSCENES_WORDS.cameras == CAMERAS


def test_classes_boxes_and_commands(labeller: RouteLabeller) -> None:
    objects = labeller.objects(3)
    assert objects.labels.tolist() == [labeller.spec.class_names.index("van")] and objects.ids.tolist() == [8]
    np.testing.assert_allclose(objects.boxes[0], [0, 20, -1.8, 2, 4.5, 1.5, -np.pi, 0, 10], atol=1e-6)
    # CARLA's number less one; no command is lane follow
    assert [labeller.command(i) for i in range(7)] == [3, 0, 1, 2, 3, 4, 5]


def test_can_bus_in_their_order(labeller: RouteLabeller, data: DataSpec) -> None:
    half = np.sqrt(0.5)
    want = [0, 3, 0, half, 0, 0, half, 10, 0, 0, 0.5, -0.25, 9.8, 0, 0, 0.125, np.pi / 2, 90]
    np.testing.assert_allclose(labeller.can_bus(3), want, atol=1e-5)
    fixed = RouteLabeller(labeller.table, edit(data, compat__can_bus_order="fixed"))
    np.testing.assert_allclose(fixed.can_bus(3)[7:16], [0.5, -0.25, 9.8, 0, 0, 0.125, 10, 0, 0], atol=1e-5)


def test_the_heading_is_wrapped_and_no_compass_is_half_a_turn_left(root: Path, data: DataSpec, tmp_path: Path) -> None:
    rows = [frame("v1/A_Town01_Route0_Weather0", i) for i in range(2)]
    rows[0]["ego_yaw"], rows[1]["ego_yaw"] = np.deg2rad(-22.9), float("nan")
    unpickle.save(tmp_path / "b2d_infos_val.pkl", rows)
    labeller = RouteLabeller(load_routes(data, tmp_path / "b2d_infos_val.pkl"), data)
    assert [round(float(labeller.can_bus(i)[17]), 1) for i in range(2)] == [337.1, 90.0]


def test_the_car_s_own_box_and_path(labeller: RouteLabeller) -> None:
    np.testing.assert_allclose(labeller.ego_box(10), [0, 0, -0.75, 1.85, 4.9, 1.5, -np.pi, 0, 10], atol=1e-6)
    future = labeller.ego_future(10)
    np.testing.assert_allclose(future.planning[0, :, 1], [5, 10, 15, 20, 25, 0], atol=1e-5)
    np.testing.assert_allclose(future.planning[0, :5, 2], -np.pi, atol=1e-6)
    assert future.planning_mask[0, :, 0].tolist() == [1, 1, 1, 1, 1, 0] and future.command == labeller.command(10)


def test_trajectories_step_half_a_second_and_end_with_the_route(labeller: RouteLabeller) -> None:
    objects = labeller.objects(10)
    # The other car keeps 20 m ahead of a car that drives 5 m a step.
    np.testing.assert_allclose(objects.fut_traj[0, :6, 1], [25, 30, 35, 40, 45, 0], atol=1e-5)
    assert objects.fut_traj_mask[0, :, 0].tolist() == [1] * 5 + [0] * 7
    np.testing.assert_allclose(objects.past_traj[0, :4, 1], [-5, -10, 0, 0], atol=1e-5)
    assert not labeller.objects(FRAMES - 1).fut_traj_mask.any(), "the next route is another one"


def test_occupancy_is_of_the_next_frames_as_published_and_of_the_plan_s_steps_put_right(labeller: RouteLabeller, data: DataSpec):
    ahead = [boxes[0, 1] for boxes in labeller.future_frames(5).boxes]
    np.testing.assert_allclose(ahead, [20 + k for k in range(7)], atol=1e-4)
    fixed = RouteLabeller(labeller.table, edit(data, compat__occ_steps="fixed")).future_frames(5)
    np.testing.assert_allclose([boxes[0, 1] for boxes in fixed.boxes], [20 + 5 * k for k in range(7)], atol=1e-4)
    assert labeller.future_frames(36).is_valid.tolist() == [True] * 6 + [False] * 3
    assert fixed.is_valid.tolist() == [False, *[True] * 8]


def test_map_elements_by_type_with_rows_ahead(labeller: RouteLabeller, data: DataSpec) -> None:
    found = labeller.map_labels(0)
    assert found.labels.tolist() == [0, 5], "a line of a type that has no class is left out"
    rows, columns = np.nonzero(found.masks[0])
    # x = -4 m is column (51.2 - 4) / 0.512 = 92; OpenCV draws a line of thickness 2 three cells wide
    assert set(columns.tolist()) <= {91, 92, 93} and rows.max() > 190
    assert found.boxes[1].tolist() == [105, 111, 117, 115] and not found.drivable.any()
    far = np.linalg.inv(np.array([[1.0, 0, 0, 5000], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]))
    assert town_maps(data.map_file, ("Town01",))["Town01"].labels(far, data).masks.shape == (0, 200, 200)


def test_the_pose_goes_in_as_published_and_transposed_where_it_is_put_right(data: DataSpec) -> None:
    for compat, turn in ((data, lambda r: r), (edit(data, compat__track_pose="fixed"), lambda r: r.T)):
        stream = SceneStream(edit(compat, image__scale=0.05, image__height=64, image__width=96), "val", stage=1, workers=0)
        sample = stream.sample(3)
        np.testing.assert_allclose(sample.frame.l2g_r[0].numpy(), turn(stream.table.global_from_lidar[3, :3, :3]), atol=1e-6)
        assert sample.frame.command.tolist() == [2] and sample.info["ego_velocity"] == [0.0, 10.0]


def test_clips_drop_a_frame_at_random_and_reach_into_the_route_before(data: DataSpec) -> None:
    dataset = ClipDataset(edit(data, queue_length=3), "train", stage=1, training=False)
    drawn = {tuple(dataset.clip_frames(30, np.random.default_rng(seed))) for seed in range(40)}
    assert drawn == {(15, 20, 30), (15, 25, 30), (20, 25, 30)}
    assert dataset._fits(FRAMES + 2), "a clip may begin in the route before"
    fixed = ClipDataset(edit(data, queue_length=3, compat__clip_frames="fixed"), "train", stage=1, training=False)
    assert list(fixed.clip_frames(30)) == [20, 25, 30] and not fixed._fits(FRAMES + 2)


def test_each_fifth_frame_can_be_read_alone(root: Path, data: DataSpec) -> None:
    spec = load_spec(CONFIGS / "stage2_e2e" / "b2d-base_e2e.py", options(root, "native.every=5")).data
    table = open_table(spec, "val")
    assert table.frame_idx.tolist() == [*range(0, FRAMES, 5)] * 2
    thin = RouteLabeller(table, spec)
    whole = RouteLabeller(open_table(data, "val"), data)
    np.testing.assert_allclose(thin.objects(2).fut_traj, whole.objects(10).fut_traj)
    with pytest.raises(UserError, match="must divide"):
        load_spec(CONFIGS / "stage2_e2e" / "b2d-base_e2e.py", options(root, "native.every=2"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda rows: {"infos": rows, "metadata": {"version": "v1.0-trainval"}}, "is an info file of nuScenes"),
        (lambda rows: [1, 2], "is not an info file of Bench2Drive"),
        (lambda rows: [{**rows[0], "command_near": 9}], "command_near is 9"),
        (lambda rows: [{**rows[0], "gt_boxes": rows[0]["gt_boxes"][:, :7]}], "gt_boxes"),
        (lambda rows: [rows[0], rows[0]], "rising order"),
        (lambda rows: [{**rows[0], "gt_names": np.array(["horse"])}], "none of its 1 objects has a class"),
        (lambda rows: [{k: v for k, v in rows[0].items() if k != "world2ego"}], "lacks world2ego"),
    ],
)
def test_what_does_not_fit_is_said_in_one_line(data: DataSpec, tmp_path: Path, spoil, message: str) -> None:
    path = tmp_path / "b2d_infos_val.pkl"
    unpickle.save(path, spoil(copy.deepcopy([frame("v1/A_Town01_Route0_Weather0", 0)])))
    with pytest.raises(UserError, match=message):
        load_routes(data, path)


def test_nuscenes_does_not_read_bench2drive_s_infos(root: Path) -> None:
    spec = load_spec(config_path("nano", 1), [f"info_root={root}/infos/", f"ann_file_val={root}/infos/b2d_infos_val.pkl"]).data
    with pytest.raises(UserError, match="Bench2Drive"):
        open_table(edit(spec, ann_file_val=f"{root}/infos/b2d_infos_val.pkl"), "val")


def turned(row: dict, angle: float) -> dict:
    """The same in a world that is turned: where the lidar's axes are the world's, a pose and its transpose turn alike."""
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    lidar = row["sensors"]["LIDAR_TOP"]
    lidar["world2lidar"] = lidar["world2lidar"] @ turn.T
    return {**row, "world2ego": row["world2ego"] @ turn.T, "npc2world": turn @ row["npc2world"],
            "ego_translation": turn[:3, :3] @ row["ego_translation"], "ego_yaw": row["ego_yaw"] + angle}  # fmt: skip


def test_both_poses_is_refused_before_a_frame_is_read_and_changes_that_convention_alone():
    module = tool("test")
    published = Model(Path("x.pth"), load_spec(CONFIGS / "stage2_e2e/b2d-tiny_e2e.py"), [], None)
    rightly = module.with_right_poses(published).spec
    assert rightly.data.compat.track_pose == "fixed" and rightly.model == published.spec.model
    assert replace(rightly.data, compat=published.spec.data.compat) == published.spec.data
    for other in (published._replace(spec=rightly), Model(Path("x.pth"), load_spec(config_path("nano", 2)), [], None)):
        with pytest.raises(UserError, match="--both-poses is for"):
            module.with_right_poses(other)


@pytest.fixture(scope="module")
def short(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Words for a tool: nano with random weights, sure of anything, on three frames half a second apart."""
    folder = tmp_path_factory.mktemp("short")
    rows = [turned(frame("v1/A_Town01_Route0_Weather0", i), 0.5) for i in range(11)]
    rows[10]["command_near"] = 5  # change lane left
    for split in ("train", "val"):
        unpickle.save(folder / f"b2d_infos_{split}.pkl", rows)
    shutil.copy(root / "infos/b2d_map_infos.pkl", folder)
    places = (f"b2d_data_root={root}/bench2drive/", f"b2d_info_root={folder}/", f"b2d_anchor_root={folder}/")
    # nano has nothing that Bench2DriveZoo's weights learnt: of their conventions it gets the one that is compared
    published = "native.compat={'preset':'fixed','track_pose':'bench2drive'}"
    sure = ("model.score_thresh=0.0", "model.filter_score_thresh=0.0", "native.every=5", "data.workers_per_gpu=0")
    words = [*places, published, *sure]
    config = CONFIGS / "stage2_e2e/b2d-nano_e2e.py"
    spec = load_spec(config, words)
    motion, rng = spec.model.stage2.motion, np.random.default_rng(0)
    shape = (motion.predict_modes, motion.predict_steps, 2)
    groups = [rng.normal(size=shape).cumsum(1) for _ in motion.group_ids]
    save_motion_anchors(folder / Path(motion.anchor_path).name, groups, motion, spec.data.class_names)
    state = UniAD(spec.model, torch.zeros(len(groups), *shape)).state_dict()
    state.update(rule_state_dict(state, "b2d"))
    torch.save({"state_dict": state}, folder / "weights.pth")
    return [str(config), str(folder / "weights.pth"), "--device", "cpu", "--cfg-options", *words]


def upstream_moves(poses: np.ndarray, look_back: int) -> np.ndarray:
    """Position and heading that Bench2DriveZoo's ``forward_test`` hands on, frame by frame: a queue that no route empties."""
    infos, moves = [], []
    last = np.zeros(poses.shape[1], np.float32)
    for pose in poses:
        if look_back:
            last = infos.pop(0) if len(infos) >= look_back else np.zeros_like(last)
        moves.append(pose - last)
        infos.append(pose)
        last = pose
    return np.array(moves)


@pytest.mark.parametrize(("look_back", "lengths"), [(0, (2, 3)), (3, (1, 5, 2, 4)), (10, (4, 9, 3)), (20, (1, 1, 21))])
def test_poses_of_the_routes_before_are_carried_over_as_upstream_does(
    short: list[str], tmp_path: Path, look_back: int, lengths: tuple[int, ...]
) -> None:
    """A route may begin with one pose before it, with many, or with none."""
    rows = [frame(f"v1/R{r}", i, 100.0 * r) for r, length in enumerate(lengths) for i in range(length)]
    unpickle.save(tmp_path / "b2d_infos_val.pkl", rows)
    shutil.copy(Path(short[1]).parent / "b2d_map_infos.pkl", tmp_path)
    words = [word for word in short[5:] if not word.startswith("native.")]
    spec = load_spec(short[0], [*words, f"b2d_info_root={tmp_path}/", "native.compat=bench2drive"])
    spec = edit(spec, model__prev_frame_num=look_back)
    stream, contract = DatasetFrames(spec.data), contract_for(spec)
    poses = np.stack([stream.labeller.can_bus(frame)[[0, 1, 2, 17]] for frame in range(len(rows))])
    runner = TorchRunner(contract, torch.nn.Identity())
    runtime, model, moves, bevs = Runtime(runner, spec), SimpleNamespace(spec=spec.model), [], []
    for route, length in enumerate(lengths):
        scene = stream.scene(str(route))
        assert len(scene) == length
        runtime.reset(scene.previous_can_bus)
        given = [*(np.zeros(port.shape, port.dtype) for port in contract.frame), *runner.state.values()]
        state = unpack_inputs(contract, map(torch.from_numpy, given))[1]
        for number, key in enumerate(scene.keys):
            poses_now = pose_tensors(range(key, key + 1), stream.labeller, False)
            now = Frame(img=torch.empty(1, 0), scene_start=torch.tensor([number == 0]), **poses_now)
            moves.append(BevModel.pose_delta(model, now, state)[0, [0, 1, 2, 17]].numpy())
            bevs.append(bool(state.has_prev_bev & ~now.scene_start))
            state = UniAD.next_state(model, now, state.prev_bev, state.tracks, state.next_id, state.past)
    assert bevs == [number >= max(1, look_back) for length in lengths for number in range(length)]
    np.testing.assert_array_equal(moves, upstream_moves(poses, look_back))


@pytest.mark.slow
def test_both_poses_are_printed_one_below_the_other_and_kept(short: list[str], tmp_path: Path, capsys, monkeypatch) -> None:
    out = tmp_path / "results.json"
    monkeypatch.setattr(sys, "argv", ["test.py", "--both-poses", "--out", str(out), *short])
    tool("test").main()
    found, shown = json.loads(out.read_text()), capsys.readouterr().out
    published, rightly = shown.split("\nwith tracks moved rightly (native.compat track_pose='fixed')\n")
    assert found["compat"]["track_pose"] == "bench2drive" and found["samples"] == 3
    for table, metrics in ((published, found), (rightly, found["track_pose_fixed"])):
        assert f"{metrics['planning']['model']['L2_1s']:.3f}" in table
    assert found["track_pose_fixed"]["planning"] != found["planning"], "tracks were moved another way"
    assert found["track_pose_fixed"]["map"] == found["map"], "and nothing else changed"


@pytest.mark.slow
def test_a_route_is_drawn_with_its_own_map_and_command(short: list[str], tmp_path: Path, monkeypatch) -> None:
    drawn = {}
    monkeypatch.setattr(page, "render", lambda content, *more: drawn.update(vars(content)) or real(content, *more))
    monkeypatch.setattr(sys, "argv", ["visualize.py", "--frame", "2", "--out", str(tmp_path / "a.png"), *short])
    tool("visualize").main()
    image = cv2.imread(str(tmp_path / "a.png"))[..., ::-1]
    assert "command: change lane left" in drawn["caption"] and "10.0 m/s" in drawn["caption"]
    assert drawn["map_things"] == BENCH2DRIVE_WORDS.map_things and len(drawn["gt_lanes"]) == len(drawn["lanes"]) == 6
    assert drawn["gt_lanes"][BENCH2DRIVE_WORDS.map_things.index("stop sign")].any()
    assert len(painted(image, map_colour("stop sign"))), "in its colour"


def test_packed_clips_are_those_of_the_data_set_half_a_second_apart(short: list[str], tmp_path: Path) -> None:
    words = [word for word in short[5:] if not word.startswith("native.every")]
    spec = load_spec(short[0], [*words, "data.samples_per_gpu=2"])
    spec = edit(spec, data__image__photometric=False, data__queue_length=2)
    write_pack(spec, tmp_path / "pack.pt", workers=0)
    world = SimpleNamespace(rank=0, size=1, device=torch.device("cpu"))
    packed, dataset = packed_loader([tmp_path / "pack.pt"])(spec, world, 5), ClipDataset(spec.data, "train", 2, seed=5)
    assert packed.fits.tolist() == [dataset._fits(n) for n in range(len(dataset))]
    got, wanted = next(packed.stream(0)), collate([dataset[p] for p in next(iter(packed.batches))])
    assert torch.equal(got.frames.time_s, wanted.frames.time_s) and torch.allclose(got.frames.time_s.diff(), torch.tensor(0.5))
    assert torch.equal(got.frames.can_bus, wanted.frames.can_bus) and torch.equal(got.targets.boxes, wanted.targets.boxes)
    published = edit(spec, data__compat=replace(spec.data.compat, clip_frames=BENCH2DRIVE))
    with pytest.raises(UserError, match="leave frames out"):
        packs.clip_step(published.data)
