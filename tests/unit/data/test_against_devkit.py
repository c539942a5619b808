"""Labels made from the info table alone equal those that the official devkit gives from the tables."""

from __future__ import annotations

import json
import math
import os
import shutil

import numpy as np
import pytest
import torch
from nuscenes.eval.common.utils import quaternion_yaw
from nuscenes.map_expansion.map_api import NuScenesMap
from nuscenes.nuscenes import NuScenes
from nuscenes.prediction import PredictHelper, convert_global_coords_to_local, convert_local_coords_to_global
from pyquaternion import Quaternion

from helpers import specs
from uniad.config.spec import UPSTREAM
from uniad.data.dataset import open_table
from uniad.data.infos import create_infos
from uniad.data.labels import Labeller
from uniad.data.maps import CONTOUR, CROSSING, DIVIDER, rasterise, vector_map
from uniad.data.targets import TargetMaker
from uniad.data.unpickle import load
from uniad.geometry import transforms as tf

SIZE = (102.4, 102.4)


@pytest.fixture(scope="module", params=["flat", "hilly"])
def data_spec(request, data_spec, tmp_path_factory):
    """The tiny world, and one whose ego car pitches and rolls: headings then differ by which axis they are read from."""
    if request.param == "flat":
        return data_spec
    root = tmp_path_factory.mktemp("hilly") / "world"
    shutil.copytree(data_spec.data_root, root, copy_function=os.link)
    path = root / "v1.0-trainval" / "ego_pose.json"
    poses = json.loads(path.read_text())
    for number, pose in enumerate(poses):
        tilt = Quaternion(axis=(1, 0, 0), degrees=4 * math.sin(number)) * Quaternion(axis=(0, 1, 0), degrees=5 * math.cos(number))
        pose["rotation"] = (Quaternion(pose["rotation"]) * tilt).elements.tolist()
    path.unlink()  # it is linked to the other world's own
    path.write_text(json.dumps(poses))
    create_infos(root, root / "infos", workers=1, progress=False)
    names = {f"ann_file_{split}": str(root / "infos" / f"nuscenes_infos_temporal_{split}.pkl") for split in ("train", "val")}
    return specs.edit(data_spec, data_root=str(root), **names)


@pytest.fixture(scope="module")
def nusc(data_spec):
    return NuScenes("v1.0-trainval", data_spec.data_root, verbose=False)


@pytest.fixture(scope="module")
def labeller(data_spec):
    return Labeller(open_table(data_spec, "train"), data_spec)


@pytest.fixture(scope="module")
def maps(labeller):
    """Our map and the devkit's of the first scene."""
    root, location = labeller.spec.data_root, str(labeller.table.location[0])
    return vector_map(root, location), NuScenesMap(root, location)


def sample_of(nusc, table, frame):
    return nusc.get("sample", str(table.token[frame]))


def lidar_boxes(nusc, sample):
    return nusc.get_sample_data(sample["data"]["LIDAR_TOP"])[1]


def test_info_boxes_velocities_and_points_are_the_devkits(nusc, data_spec):
    for info in load(data_spec.ann_file_train)["infos"]:
        sample = nusc.get("sample", info["token"])
        boxes = lidar_boxes(nusc, sample)
        centres, yaw = np.array([b.center for b in boxes]), np.array([b.orientation.yaw_pitch_roll[0] for b in boxes])
        assert np.allclose(info["gt_boxes"][:, :3], centres, atol=1e-9)
        assert np.array_equal(info["gt_boxes"][:, 3:6], np.array([b.wlh for b in boxes]))
        assert np.allclose(info["gt_boxes"][:, 6], -yaw - np.pi / 2, atol=1e-9)
        to_lidar = Quaternion(info["lidar2ego_rotation"]).inverse * Quaternion(info["ego2global_rotation"]).inverse
        for token, velocity in zip(sample["anns"], info["gt_velocity"]):
            want = to_lidar.rotate([*nusc.box_velocity(token)[:2], 0.0])[:2]
            assert np.allclose(velocity, want, atol=1e-9, equal_nan=True)
        records = [nusc.get("sample_annotation", token) for token in sample["anns"]]
        assert info["num_lidar_pts"].tolist() == [r["num_lidar_pts"] for r in records]
        assert info["gt_ins_tokens"].tolist() == [r["instance_token"] for r in records]
        assert info["gt_inds"].tolist() == [nusc.getind("instance", r["instance_token"]) for r in records]


def test_info_cameras_project_lidar_points_like_the_devkit(nusc, data_spec):
    table = open_table(data_spec, "train")
    points = np.random.default_rng(0).uniform(-30, 30, (20, 3))
    for frame in (0, len(table) - 1):
        sample = sample_of(nusc, table, frame)
        lidar = nusc.get("sample_data", sample["data"]["LIDAR_TOP"])
        for number, camera in enumerate(
            ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
        ):
            record = nusc.get("sample_data", sample["data"][camera])
            moved = points
            for data, back in ((lidar, False), (record, True)):
                steps = [
                    nusc.get("calibrated_sensor", data["calibrated_sensor_token"]),
                    nusc.get("ego_pose", data["ego_pose_token"]),
                ]
                for step in reversed(steps) if back else steps:
                    rotation, offset = Quaternion(step["rotation"]).rotation_matrix, np.array(step["translation"])
                    moved = (moved - offset) @ rotation if back else moved @ rotation.T + offset
            intrinsic = np.array(nusc.get("calibrated_sensor", record["calibrated_sensor_token"])["camera_intrinsic"])
            got = tf.apply(table.img_from_lidar[frame, number], points)
            assert np.allclose(got, moved @ intrinsic.T, atol=1e-6)


@pytest.mark.parametrize("absolute", [True, False])
def test_trajectories_are_the_predict_helpers(nusc, data_spec, absolute):
    spec = specs.edit(data_spec, use_nonlinear_optimizer=absolute)
    labeller = Labeller(open_table(spec, "train"), spec)
    helper = PredictHelper(nusc)
    compared = 0
    for frame in range(len(labeller.table)):
        sample = sample_of(nusc, labeller.table, frame)
        found = labeller.objects(frame)
        by_id = {nusc.getind("instance", nusc.get("sample_annotation", t)["instance_token"]) + 1: t for t in sample["anns"]}
        boxes = dict(zip(sample["anns"], lidar_boxes(nusc, sample)))
        for row, number in enumerate(found.ids):
            box, record = boxes[by_id[number]], nusc.get("sample_annotation", by_id[number])
            ask = (record["instance_token"], sample["token"])
            future = helper.get_future_for_agent(*ask, seconds=6, in_agent_frame=True)
            past = helper.get_past_for_agent(*ask, seconds=2, in_agent_frame=True)
            turn = Quaternion(matrix=box.rotation_matrix)
            origin = box.center if absolute else np.zeros(3)
            assert found.fut_traj_mask[row].sum() == 2 * len(future) and found.past_traj_mask[row, :4].sum() == 2 * len(past)
            if len(future):
                want = convert_local_coords_to_global(future, origin, turn)
                assert np.allclose(found.fut_traj[row, : len(future)], want, atol=1e-4)
                if len(past):  # the future half of the past is only filled where there is a past
                    assert np.allclose(found.past_traj[row, 4 : 4 + min(4, len(future))], want[:4], atol=1e-4)
                else:
                    assert not found.past_traj_mask[row].any()
            if len(past):
                assert np.allclose(
                    found.past_traj[row, : len(past)], convert_local_coords_to_global(past, np.zeros(3), turn), atol=1e-4
                )
            compared += len(future) + len(past)
    assert compared > 100


def test_past_traj_keeps_to_offsets_where_its_fault_is_fixed(data_spec):
    faulty, fixed = (specs.edit(data_spec, compat__past_traj_future=choice) for choice in (UPSTREAM, "fixed"))
    table = open_table(data_spec, "train")
    a, b = (Labeller(table, spec).objects(2) for spec in (faulty, fixed))
    offsets = a.fut_traj[:, :3] - a.boxes[:, None, :2]
    has = b.past_traj_mask[:, 4:7].astype(bool)
    assert has.any() and np.allclose(b.past_traj[:, 4:7][has], offsets[has], atol=1e-4)
    assert np.array_equal(a.past_traj[:, :4], b.past_traj[:, :4])


def test_the_ego_cars_future_and_plan_follow_its_poses(nusc, labeller):
    table, spec = labeller.table, labeller.spec
    for frame in range(len(table)):
        sample = sample_of(nusc, table, frame)
        pose = nusc.get("ego_pose", nusc.get("sample_data", sample["data"]["LIDAR_TOP"])["ego_pose_token"])
        later = [i for i in table.frames_of(int(table.scene[frame])) if i > frame]
        found = labeller.ego_future(frame)
        assert found.traj_mask.sum() == 2 * min(len(later), spec.predict_steps)
        assert found.planning_mask.sum() == 2 * min(len(later), spec.planning_steps)
        if not later:
            assert found.command == 2
            continue
        positions = table.global_from_ego[later, :2, 3]
        want = convert_global_coords_to_local(positions, pose["translation"], pose["rotation"])
        assert np.allclose(found.traj[0, : len(later)], want[: spec.predict_steps], atol=1e-4)
        # The plan is where the ego box's bottom will be, in today's lidar frame; 1e-3 m is float32 at global coordinates.
        bottom = table.global_from_lidar[later] @ (0.0, 0.0, -0.78, 1.0)
        lidar = tf.apply(tf.inverse(table.global_from_lidar[frame]), bottom[:, :3])[:6]
        assert np.allclose(found.planning[0, : len(lidar), :2], lidar[:, :2], atol=1e-3)
        side = lidar[-1, 0]
        assert found.command == (0 if side >= 2 else 1 if side <= -2 else 2)


def test_the_ego_box_carries_its_velocity_in_lidar_axes(labeller):
    table = labeller.table
    box = labeller.ego_box(0)
    assert np.allclose(box[:7], (0, 0, -0.78, 1.73, 4.08, 1.56, -np.pi), atol=1e-6)
    step = table.global_from_ego[1, :3, 3] - table.global_from_ego[0, :3, 3]
    velocity = table.global_from_lidar[0, :3, :3].T @ step / (table.timestamp_us[1] - table.timestamp_us[0]) * 1e6
    assert np.allclose(box[7:], velocity[:2], atol=1e-4) and np.linalg.norm(box[7:]) > 0.5
    last = table.frames_of(0)[-1]
    assert np.array_equal(labeller.ego_box(last)[7:].round(5), labeller.ego_velocity[last - 1].astype(np.float32).round(5))


def poses(table):
    for frame in (0, len(table) - 1):
        ego = table.global_from_ego[frame]
        yield frame, (ego[0, 3], ego[1, 3]), float(np.degrees(tf.heading(ego)))


def test_map_lines_are_the_devkits(maps, labeller):
    """Every divider and crossing of a patch, in order, point by point."""
    ours, theirs = maps
    for _, xy, angle in poses(labeller.table):
        got = ours.vectors(xy, angle, SIZE)
        want = []
        for layer in ("road_divider", "lane_divider"):
            for geometry in theirs.explorer._get_layer_line((*xy, *SIZE), angle, layer):
                want += [g for g in getattr(geometry, "geoms", [geometry]) if g.length > 0]
        assert len(want) == sum(v.kind == DIVIDER for v in got) > 0
        for line, vector in zip(want, got):
            assert np.array_equal(vector.points, np.array([line.interpolate(d).coords[0] for d in np.arange(0, line.length, 1)]))
        assert {v.kind for v in got} <= {DIVIDER, CROSSING, CONTOUR} and any(v.kind == CONTOUR for v in got)


def test_the_drivable_area_is_the_devkits(maps, labeller):
    ours, theirs = maps
    for _, xy, angle in poses(labeller.table):
        for canvas in ((50, 50), (200, 200)):
            got = ours.drivable(xy, angle, SIZE, canvas)
            want = theirs.get_map_mask((*xy, *SIZE), angle, ["drivable_area"], canvas)[0]
            assert 0 < want.mean() < 1
            assert np.array_equal(got, want)


def test_map_labels_lie_on_the_bev_grid_of_the_lidar(maps, labeller):
    """The ego car is on a road: drivable about the grid's middle, and a box around every mask."""
    targets = TargetMaker(labeller, need_stage2=False).clip(range(0, 1))
    assert targets.drivable[23:27, 23:27].float().mean() > 0.9
    # Straight ahead of the lidar is up the rows: what lies ahead on the global map must be painted there.
    table = labeller.table
    ahead = tf.apply(table.global_from_lidar[0], np.array([[0.0, 20.0, 0.0]]))[0]
    patch = (ahead[0], ahead[1], 4.096, 4.096)
    want = maps[1].get_map_mask(patch, math.degrees(tf.heading(table.global_from_lidar[0])), ["drivable_area"], (2, 2))[0]
    assert torch.equal(targets.drivable[34:36, 24:26], torch.from_numpy(want))
    for label, box, mask in zip(*(t[targets.lane_valid] for t in (targets.lane_labels, targets.lane_boxes, targets.lane_masks))):
        rows, columns = mask.nonzero(as_tuple=True)
        assert [columns.min(), rows.min(), columns.max(), rows.max()] == box.tolist() and 0 <= label < 3


def test_lines_are_drawn_about_the_ego_pose_and_the_drivable_area_about_the_lidar(maps, data_spec):
    """A metre apart: cells of half a metre tell them from each other."""
    fine = Labeller(open_table(data_spec, "train"), specs.edit(data_spec, canvas_hw=(200, 200)))
    table = fine.table
    ego, lidar = table.global_from_ego[0], table.global_from_lidar[0]
    found = TargetMaker(fine, need_stage2=False).map_labels(0)
    turned = math.degrees(math.atan2(-lidar[0, 1], lidar[0, 0]))
    devkit = [maps[1].get_map_mask((*xy, *SIZE), turned, ["drivable_area"], (200, 200))[0] for xy in (lidar[:2, 3], ego[:2, 3])]
    assert np.array_equal(found.drivable, devkit[0]) and not np.array_equal(devkit[0], devkit[1])
    drawn = []
    for pose in (ego, lidar):
        lines = maps[0].vectors((pose[0, 3], pose[1, 3]), math.degrees(tf.heading(ego)), SIZE)
        drawn.append(rasterise(lines, SIZE, (200, 200), data_spec.lane_thickness) > 0)
    got = np.stack([found.masks[found.labels == kind].any(0) for kind in range(3)])
    assert np.array_equal(got, drawn[0]) and not np.array_equal(drawn[0], drawn[1])


def test_map_yaw_is_the_devkits(labeller):
    table = labeller.table
    for frame in range(len(table)):
        want = quaternion_yaw(Quaternion(table.ego_quaternion[frame]))
        assert abs(tf.heading(table.global_from_ego[frame]) - want) < 1e-12
