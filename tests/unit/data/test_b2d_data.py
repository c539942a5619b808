"""What Bench2Drive's data set hands to the model, frame by frame, against what Bench2DriveZoo's own made of the same files."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from helpers import b2d
from helpers.specs import CONFIGS
from uniad.config.read import load_spec
from uniad.data.bench2drive import RouteLabeller, load_routes
from uniad.data.targets import TargetMaker
from uniad.interface.types import Targets

scene = b2d.module("scene")
SIDE = 200


@pytest.fixture(scope="module")
def recorded() -> b2d.Numbers:
    return b2d.Numbers("data")


@pytest.fixture(scope="module")
def labeller(tmp_path_factory: pytest.TempPathFactory) -> RouteLabeller:
    folder = tmp_path_factory.mktemp("b2d_scene")
    infos = folder / "b2d_infos_val.pkl"
    infos.write_bytes(pickle.dumps(scene.infos()))
    (folder / "b2d_map_infos.pkl").write_bytes(pickle.dumps(scene.maps()))
    spec = load_spec(CONFIGS / "stage2_e2e/b2d-tiny_e2e.py", [f"b2d_info_root={folder}/"]).data
    return RouteLabeller(load_routes(spec, infos), spec)


@pytest.fixture(scope="module", params=scene.RECORDED)
def frame(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def targets(labeller: RouteLabeller, frame: int) -> Targets:
    return TargetMaker(labeller, need_stage2=True).clip([frame])


def same(got, want, tolerance: float = 1e-5) -> None:
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def test_pose_cameras_and_command(labeller: RouteLabeller, recorded: b2d.Numbers, frame: int) -> None:
    at, table = f"{frame}/", labeller.table
    same(labeller.can_bus(frame), recorded[at + "can_bus"], 1e-6)
    same(table.global_from_lidar[frame, :3, :3], recorded[at + "l2g_r_mat"], 1e-9)
    same(table.global_from_lidar[frame, :3, 3], recorded[at + "l2g_t"], 1e-9)
    same(table.timestamp_us[frame] / 1e6, recorded[at + "timestamp"], 1e-9)
    same(table.img_from_lidar[frame], recorded[at + "lidar2img"], 1e-9)
    assert labeller.command(frame) == int(recorded[at + "command"])


def test_objects_and_the_car_itself(targets: Targets, recorded: b2d.Numbers, frame: int) -> None:
    at, seen = f"{frame}/", targets.valid[0]
    assert targets.labels[0, seen].tolist() == recorded[at + "gt_labels_3d"].tolist()
    # Upstream adds one to the file's own ids at every look: here a second time, see the README beside the recording
    assert (targets.ids[0, seen] + 1).tolist() == recorded[at + "gt_inds"].tolist()
    same(targets.boxes[0, seen], recorded[at + "gt_bboxes_3d"])
    ahead = targets.stage2
    for name, got in (
        ("gt_past_traj", targets.past_traj[0, seen]), ("gt_past_traj_mask", targets.past_traj_mask[0, seen]),
        ("gt_fut_traj", ahead.fut_traj[seen]), ("gt_fut_traj_mask", ahead.fut_traj_mask[seen]),
        ("gt_sdc_bbox", targets.sdc_box), ("gt_sdc_label", targets.sdc_label), ("gt_sdc_fut_traj", ahead.sdc_fut_traj),
        ("gt_sdc_fut_traj_mask", ahead.sdc_fut_traj_mask), ("sdc_planning", ahead.sdc_planning),
        ("sdc_planning_mask", ahead.sdc_planning_mask),
    ):  # fmt: skip
        same(got, recorded[at + name], 2e-5)


def test_map_masks_cell_by_cell(targets: Targets, recorded: b2d.Numbers, frame: int) -> None:
    at, some = f"{frame}/gt_lane_", targets.lane_valid
    assert targets.lane_labels[some].tolist() == recorded[at + "labels"].tolist()
    assert targets.lane_boxes[some].tolist() == recorded[at + "bboxes"].tolist()
    masks = np.unpackbits(recorded.arrays[at + "masks"]).reshape(-1, SIDE, SIDE)
    assert masks.any() and np.array_equal(targets.lane_masks[some], masks)


def test_occupancy_and_the_boxes_of_coming_frames(targets: Targets, recorded: b2d.Numbers, frame: int) -> None:
    at, ahead = f"{frame}/", targets.stage2
    assert ahead.occ_img_is_valid.tolist() == recorded[at + "gt_occ_img_is_valid"].tolist()
    for name, got in (("gt_segmentation", ahead.segmentation), ("gt_instance", ahead.instance)):
        assert np.array_equal(got, recorded[at + name]), name
    assert (ahead.segmentation == 1).any()
    for step in range(7):
        name = f"{at}gt_future_boxes/{step}"
        found = ahead.future_boxes[step, ahead.future_boxes_valid[step]]
        if name in recorded.arrays:
            same(found, recorded[name], 2e-5)
        else:
            assert len(found) == 0, "after the end of the route"


def test_upstream_s_ids_drift_within_a_clip_and_ours_do_not(labeller: RouteLabeller, recorded: b2d.Numbers) -> None:
    frames = [int(name.removeprefix("clip/")) for name in recorded.arrays if name.startswith("clip/")]
    first = {frame: int(recorded[f"clip/{frame}"][0]) for frame in frames}
    assert [first[frame] - 100 for frame in frames] == [2, 3, 3]
    assert {int(labeller.objects(frame).ids[0]) for frame in frames} == {101}
