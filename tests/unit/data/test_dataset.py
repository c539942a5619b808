from __future__ import annotations

import dataclasses
import errno
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from helpers import specs
from uniad.data.collate import collate
from uniad.data.dataset import ClipDataset, SceneStream, scene_time
from uniad.data.labels import STRAIGHT
from uniad.data.unpickle import load
from uniad.errors import UserError
from uniad.interface.types import Clip, Targets

Q = 5  # frames of a clip; the tiny world's scenes have 6


@pytest.fixture(scope="module")
def dataset(data_spec):
    return ClipDataset(data_spec, "train", stage=2, seed=3)


@pytest.fixture(scope="module")
def clip(dataset) -> Clip:
    return dataset[(0, 5)]


def equal(a: Clip, b: Clip) -> bool:
    pairs = zip(*(tree_leaves([*c.frames, *c.targets]) for c in (a, b)), strict=True)
    return all((x is None and y is None) or torch.equal(x, y) for x, y in pairs)


def test_a_clip_is_consecutive_keyframes_that_end_at_its_index(dataset, clip):
    assert [meta["token"] for meta in clip.meta] == dataset.table.token[1:6].tolist()
    assert clip.frames.scene_start.tolist() == [True, False, False, False, False]
    spec = dataset.spec
    assert clip.frames.img.shape == (Q, 6, 3, spec.image.height, spec.image.width)
    assert torch.isfinite(clip.frames.img).all() and clip.frames.img[..., :200, :].std() > 0.1


def test_frames_carry_poses_as_in_upstream(dataset, clip):
    table = dataset.table
    for number, frame in enumerate(range(1, 6)):
        can_bus = clip.frames.can_bus[number].numpy()
        ego = table.global_from_ego[frame]
        assert np.allclose(can_bus[:3], ego[:3, 3], atol=1e-3)
        assert np.allclose(can_bus[3:7], table.ego_quaternion[frame, 0])  # the first component, four times
        heading = np.degrees(np.arctan2(ego[1, 0], ego[0, 0])) % 360
        assert np.isclose(can_bus[17], heading, atol=1e-3) and np.isclose(can_bus[16], np.radians(heading), atol=1e-5)
        point = np.array([3.0, 7.0, -1.0])
        there = point @ clip.frames.l2g_r[number].double().numpy() + clip.frames.l2g_t[number].double().numpy()
        assert np.allclose(there, table.global_from_lidar[frame, :3] @ [*point, 1.0], atol=1e-3)


def test_the_can_bus_quaternion_is_whole_where_its_fault_is_fixed(data_spec):
    fixed = ClipDataset(specs.edit(data_spec, compat__can_bus_quaternion="fixed"), "train")
    assert np.allclose(fixed[(0, 5)].frames.can_bus[:, 3:7], fixed.table.ego_quaternion[1:6], atol=1e-6)


def test_training_times_are_rounded_as_in_upstream_and_whole_where_that_is_fixed(data_spec, clip):
    table = ClipDataset(data_spec, "train").table
    exact = (table.timestamp_us[1:6] - table.timestamp_us[0]) / 1e6
    assert np.allclose(np.diff(clip.frames.time_s) % 128, 0)
    fixed = ClipDataset(specs.edit(data_spec, compat__timestamps="fixed"), "train")[(0, 5)]
    assert np.allclose(fixed.frames.time_s, exact, atol=1e-5)
    testing = ClipDataset(data_spec, "train", training=False)[(0, 5)]
    assert np.allclose(testing.frames.time_s, exact, atol=1e-5)


def test_rounding_times_is_what_float32_does_to_seconds_since_1970():
    times = np.array([1_533_151_603_047_590 + 500_000 * i for i in range(300)])
    want = torch.tensor([t / 1e6 for t in times], dtype=torch.float32)
    assert np.array_equal(np.diff(scene_time(times, int(times[0]), True)), np.diff(want.numpy()))
    assert set(np.diff(want.numpy())) == {0.0, 128.0}


def test_samples_follow_from_seed_epoch_and_index(data_spec, dataset, clip):
    assert equal(dataset[(0, 5)], clip)
    assert not torch.equal(dataset[(1, 5)].frames.img, clip.frames.img)  # another epoch, another distortion
    assert not torch.equal(ClipDataset(data_spec, "train", seed=4)[(0, 5)].frames.img, clip.frames.img)
    np.random.seed(1)
    first = dataset[5]
    np.random.seed(1)
    assert equal(dataset[5], first)


def test_an_index_too_early_in_its_scene_is_replaced_by_one_that_fits(dataset):
    for index in range(4):
        last = dataset.last_frame(index, np.random.default_rng(index))
        assert last in (4, 5)
    assert dataset.last_frame(4, np.random.default_rng(0)) == 4
    assert {dataset.last_frame(0, np.random.default_rng(seed)) for seed in range(20)} == {4, 5}


def test_a_clip_with_a_frame_without_objects_is_drawn_anew_in_training_only(data_spec, dataset):
    kept = dataset.labeller.label.copy()
    try:
        dataset.labeller.label[dataset.table.objects_of(0)] = -1
        assert dataset.last_frame(4, np.random.default_rng(0)) == 5
        dataset.labeller.label[:] = -1
        with pytest.raises(UserError, match="none has objects of the config's classes"):
            dataset.last_frame(4, np.random.default_rng(0))
    finally:
        dataset.labeller.label[:] = kept


def test_objects_are_of_known_class_in_range_and_seen(dataset, clip):
    targets, spec = clip.targets, dataset.spec
    info = {i["token"]: i for i in load(spec.ann_file_train)["infos"]}
    for number, meta in enumerate(clip.meta):
        row = info[meta["token"]]
        xy = row["gt_boxes"][:, :2]
        keep = row["valid_flag"] & np.isin(row["gt_names"], spec.class_names) & (np.abs(xy) < 51.2).all(axis=1)
        valid = targets.valid[number]
        assert valid.sum() == keep.sum() > 0
        assert targets.ids[number][valid].tolist() == (row["gt_inds"][keep] + 1).tolist()
        assert [spec.class_names[label] for label in targets.labels[number][valid]] == row["gt_names"][keep].tolist()
        boxes = targets.boxes[number][valid].numpy()
        assert np.allclose(boxes[:, :2], xy[keep], atol=1e-4)
        assert np.allclose(boxes[:, 2], (row["gt_boxes"][:, 2] - row["gt_boxes"][:, 5] / 2)[keep], atol=1e-4)
        assert (boxes[:, 6] >= -np.pi - 1e-5).all() and (boxes[:, 6] <= np.pi + 1e-5).all()
        assert (targets.ids[number][~valid] == -1).all() and not targets.boxes[number][~valid].any()


def test_boxes_of_a_still_world_stay_in_place_from_frame_to_frame(dataset, clip):
    """Standing objects, carried by l2g from each frame, meet in one global place: boxes, poses and ids belong together."""
    seen: dict[int, list[np.ndarray]] = {}
    for number in range(Q):
        valid = clip.targets.valid[number]
        for box, ident in zip(clip.targets.boxes[number][valid].double(), clip.targets.ids[number][valid]):
            if box[7:].norm() < 0.05:
                place = box[:3] @ clip.frames.l2g_r[number].double() + clip.frames.l2g_t[number].double()
                seen.setdefault(int(ident), []).append(place.numpy())
    places = [np.ptp(np.array(p), axis=0).max() for p in seen.values() if len(p) > 1]
    assert len(places) >= 3 and max(places) < 0.1


def test_stage_2_targets_agree_with_each_other(dataset, clip):
    targets, spec = clip.targets, dataset.spec
    assert targets.stage2.occ_img_is_valid.tolist() == [True, True, True] + [False] * 6  # the clip ends with its scene
    assert (targets.stage2.segmentation[1:] == 255).all() and not (targets.stage2.segmentation[0] == 255).any()
    assert (targets.stage2.segmentation[0] == 1).sum() == (targets.stage2.instance[0] != 0).sum() > 0
    assert targets.stage2.future_boxes_valid.any(dim=1).tolist() == [True] + [False] * 6
    assert clip.frames.command[-1] == STRAIGHT and not targets.stage2.sdc_planning_mask.any()
    earlier = dataset.targets.clip(range(0, 1)).stage2
    assert earlier.occ_img_is_valid.tolist() == [False, False] + [True] * 6 + [False]
    assert earlier.sdc_planning_mask[0, :, 0].tolist() == [1, 1, 1, 1, 1, 0]
    vehicles = set(targets.stage2.instance[0].unique().tolist()) - {0}
    known = {int(i) for i, label in zip(targets.ids[-1], targets.labels[-1]) if spec.class_names[label] != "pedestrian"}
    assert vehicles and len(vehicles & known) > 0


def test_stage_1_leaves_the_second_stages_targets_out(data_spec, clip):
    stage1 = ClipDataset(data_spec, "train", stage=1, seed=3)[(0, 5)]
    for name in Targets._fields:
        value = getattr(stage1.targets, name)
        assert value is None if name == "stage2" else torch.equal(value, getattr(clip.targets, name))


def test_collate_adds_the_batch_axis_and_keeps_meta(dataset, clip):
    other = dataset[(0, 4)]
    batch = collate([clip, other])
    assert batch.frames.img.shape[:2] == (2, Q) and batch.targets.boxes.shape[:3] == (2, Q, dataset.spec.max_objects)
    assert torch.equal(batch.targets.stage2.segmentation[1], other.targets.stage2.segmentation)
    assert [len(metas) for metas in batch.meta] == [Q, Q]


def test_too_many_objects_keep_the_nearest_and_warn_once(data_spec, clip):
    small = ClipDataset(specs.edit(data_spec, max_objects=4, max_lanes=2), "train", stage=2, seed=3)
    with pytest.warns(UserWarning, match="the farthest are left out; raise max_") as caught:
        few = small[(0, 5)].targets
        small[(0, 4)]
    assert len({str(w.message).split()[1] for w in caught}) == len(caught)
    valid = clip.targets.valid[-1]
    distance = clip.targets.boxes[-1][valid][:, :2].norm(dim=1)
    nearest = clip.targets.ids[-1][valid][distance.argsort()[:4]]
    assert set(few.ids[-1].tolist()) == set(nearest.tolist()) and few.valid.all() and few.lane_valid.all()
    assert few.stage2.fut_traj.shape[0] == 4


@pytest.mark.parametrize("mode", ["exact", "scaled"])
def test_cached_images_equal_decoded_ones(data_spec, tmp_path, mode, clip):
    cached = specs.edit(data_spec, image_cache=mode, image_cache_dir=str(tmp_path))
    first, second = (ClipDataset(cached, "train", stage=2, seed=3)[(0, 5)] for _ in range(2))
    assert equal(first, second)  # filled by the one, read by the other
    plain, stored = (ClipDataset(s, "train", training=False)[(0, 5)].frames.img for s in (data_spec, cached))
    grey_levels = (plain - stored).abs().max() * max(data_spec.image.std)
    if mode == "exact":
        assert equal(first, clip) and grey_levels == 0
    else:
        assert 0 < grey_levels <= 0.52  # half a level, times the ratio of two standard deviations


def test_a_damaged_entry_of_the_cache_is_decoded_anew(data_spec, tmp_path):
    cached = specs.edit(data_spec, image_cache="exact", image_cache_dir=str(tmp_path))
    want = ClipDataset(cached, "train", training=False)[(0, 5)].frames.img
    (pixels,) = tmp_path.glob("*.u8")
    whole = pixels.read_bytes()
    with open(pixels, "r+b") as handle:
        for place in range(0, len(whole), len(whole) // 50):
            handle.seek(place)
            handle.write(bytes([whole[place] ^ 1]))
    damaged = pixels.read_bytes()
    assert damaged != whole
    assert torch.equal(ClipDataset(cached, "train", training=False)[(0, 5)].frames.img, want)
    assert pixels.read_bytes() != damaged, "and stored"


def test_a_cache_that_does_not_fit_the_disk_is_refused(data_spec, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    with pytest.raises(UserError, match=r"the image cache needs .* GB, .* has 0\.0 GB free"):
        ClipDataset(specs.edit(data_spec, image_cache="exact", image_cache_dir=str(tmp_path / "c")), "train")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_scene_stream_gives_whole_scenes_in_order(data_spec, workers):
    stream = SceneStream(data_spec, "val", stage=1, workers=workers)
    samples = list(stream)
    assert len(samples) == len(stream) == 6 and stream.version == "v1.0-trainval"
    assert [bool(s.frame.scene_start) for s in samples] == [True] + [False] * 5
    assert [s.info["token"] for s in samples] == stream.table.token.tolist()
    assert samples[0].frame.img.shape[0] == 1 and samples[0].targets.boxes.shape[:2] == (1, 1)
    assert np.allclose([float(s.frame.time_s) for s in samples], np.arange(6) * 0.5, atol=0.1)
    assert samples[0].previous_can_bus is None
    assert np.array_equal(samples[1].previous_can_bus, samples[0].frame.can_bus.numpy())
    assert np.array_equal(samples[5].previous_can_bus, np.concatenate([s.frame.can_bus for s in samples[:5]])), "oldest first"


def test_processes_share_out_scenes(data_spec, synthetic_infos, tmp_path):
    both = [load(synthetic_infos / f"nuscenes_infos_temporal_{split}.pkl")["infos"] for split in ("train", "val")]
    path = tmp_path / "both.pkl"
    path.write_bytes(pickle.dumps({"infos": both[1] + both[0], "metadata": {"version": "v1.0-trainval"}}))
    spec = specs.edit(data_spec, ann_file_val=str(path))
    streams = [SceneStream(spec, "val", stage=1, rank=rank, world_size=2) for rank in range(2)]
    assert [len(s) for s in streams] == [6, 6] and not set(streams[0].frames) & set(streams[1].frames)


def test_a_truncated_image_ends_the_stream_with_one_line_that_names_it(data_spec, synthetic_root, tmp_path):
    root = tmp_path / "world"
    shutil.copytree(synthetic_root, root, ignore=shutil.ignore_patterns("LIDAR_TOP"))
    spec = specs.edit(data_spec, data_root=str(root))
    victim = root / ClipDataset(spec, "val").table.img_path[0, 2]
    victim.write_bytes(victim.read_bytes()[:5000])
    for workers in (0, 1):
        with pytest.raises(UserError, match=f"{victim.name} is cut short") as error:
            list(SceneStream(spec, "val", stage=1, workers=workers))
        assert "\n" not in str(error.value)


def test_clips_longer_than_every_scene_are_refused(data_spec):
    with pytest.raises(UserError, match="a clip takes 7 frames, the longest scene has 6"):
        ClipDataset(dataclasses.replace(data_spec, queue_length=7), "train")


def test_a_missing_map_is_named(data_spec, synthetic_root, tmp_path):
    root = tmp_path / "world"
    shutil.copytree(synthetic_root, root, ignore=shutil.ignore_patterns("samples", "expansion"))
    with pytest.raises(UserError, match=r"maps/expansion/.*\.json is missing"):
        ClipDataset(specs.edit(data_spec, data_root=str(root)), "train")


def test_the_cache_has_its_room_before_it_is_used_and_a_full_disk_is_one_line(data_spec, tmp_path, monkeypatch):
    """Pages of a sparse file that the disk has no room for end the process at a memory access."""
    cached = specs.edit(data_spec, image_cache="exact", image_cache_dir=str(tmp_path))
    ClipDataset(cached, "train")
    (pixels,) = tmp_path.glob("*.u8")
    assert pixels.stat().st_blocks * 512 >= pixels.stat().st_size > 0

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    other = tmp_path / "other"
    with pytest.raises(UserError, match="the image cache needs .* GB, .* choose another image_cache_dir"):
        ClipDataset(specs.edit(data_spec, image_cache="exact", image_cache_dir=str(other)), "train")
    assert not list(other.iterdir())
