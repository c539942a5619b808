"""The recorded stage-1 training clip (UniAD-tiny, 5 frames, one sample) as a Clip, with what was recorded for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from helpers import TESTS
from helpers.tolerances import CLIP_IOU
from uniad.interface.types import Clip, Frame, Stage2Targets, Targets
from uniad.training.clip import ClipOutput

FRAMES, CAMERAS, HEIGHT, WIDTH = 5, 6, 256, 416
COMPACT = TESTS / "golden" / "stage1_train.npz"


def record() -> dict[str, np.ndarray]:
    """The committed extract, by name (see tests/golden/make_stage1_train.py)."""
    with np.load(COMPACT) as data:
        return {k: data[k] for k in data.files}


def images(seed: int, frames: int = FRAMES) -> Tensor:
    """[1, T, N, 3, H, W] noise."""
    shape = (1, frames, CAMERAS, 3, HEIGHT, WIDTH)
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(np.prod(shape)).astype(np.float32).reshape(shape))


def clip(data: dict[str, np.ndarray]) -> Clip:
    """The recorded clip. Its images have the seed that the rule ``synth.images(seed, ...)`` names."""
    given = {k.removeprefix("in/"): torch.from_numpy(v) for k, v in data.items() if k.startswith("in/") and v.dtype.kind != "U"}
    seed = int(re.search(r"images\((\d+)", str(data["in/images_rule"]))[1])
    return given_clip(given, images(seed), given_targets(given, FRAMES))


def given_clip(given: Mapping[str, Tensor], img: Tensor, targets: Targets) -> Clip:
    """A clip of recorded inputs, by name, with its images [1, T, N, 3, H, W]."""
    assert torch.equal(img.flatten()[:64], given["img_first64"]), "images differ from the recorded ones"
    count = img.shape[1]
    frames = Frame(
        img=img,
        lidar2img=given["lidar2img"].float().expand(1, count, -1, -1, -1),
        can_bus=given["can_bus_absolute"].float()[None],
        l2g_r=given["l2g_r_mat"][None],
        l2g_t=given["l2g_t"][None],
        time_s=(given["timestamp"] - given["timestamp"][0]).float()[None],
        scene_start=(torch.arange(count) == 0)[None],
        command=given["command"].int().expand(1, count),
    )
    return Clip(frames, targets, [[{} for _ in range(count)]])


def given_targets(
    given: Mapping[str, Tensor],
    frames: int,
    stage2: Stage2Targets | None = None,
    max_objects: int = 12,
    max_lanes: int = 8,
    num_things: int = 3,
) -> Targets:
    """Ground truth of recorded inputs, padded to the given capacities. Map elements of other labels are the drivable area."""

    def objects(name: str, fill: float = 0) -> Tensor:
        return torch.stack([pad(given[f"f{t}/{name}"], max_objects, fill) for t in range(frames)])[None]

    labels = given["gt_lane_labels"]
    things = labels < num_things
    return Targets(
        boxes=objects("gt_boxes"),
        labels=objects("gt_labels"),
        ids=objects("gt_inds", -1),
        valid=objects("gt_inds", -1) >= 0,
        past_traj=objects("gt_past_traj").float(),
        past_traj_mask=objects("gt_past_traj_mask").float(),
        sdc_box=given["sdc_box"].expand(1, frames, -1),
        sdc_label=torch.zeros(1, frames, dtype=torch.int64),
        lane_labels=pad(labels[things], max_lanes, 0)[None],
        lane_boxes=pad(given["gt_lane_bboxes"][things], max_lanes, 0)[None],
        lane_masks=pad(given["gt_lane_masks"][things], max_lanes, 0)[None],
        lane_valid=(torch.arange(max_lanes) < things.sum())[None],
        drivable=given["gt_lane_masks"][~things],
        stage2=stage2,
    )


def pad(x: Tensor, capacity: int, fill: float) -> Tensor:
    """x [n, ...] -> [capacity, ...]."""
    return torch.cat([x, x.new_full((capacity - len(x), *x.shape[1:]), fill)])


def repeat(one: Clip, times: int) -> Clip:
    """The same clip several times as one batch."""
    def again(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.repeat(times, *[1] * (x.dim() - 1))

    return Clip(Frame(*map(again, one.frames)), Targets(*map(again, one.targets)), one.meta * times)


def check_matches(record: Mapping[str, np.ndarray], out: ClipOutput) -> None:
    """Each frame's matches, ids and overlaps are those that upstream's training recorded."""
    for t, match in enumerate(out.match):
        num_rows, rows = int(record[f"f{t}/num_rows"]), torch.from_numpy(record[f"f{t}/rows"])
        assert out.rows[t].valid[0].sum() == num_rows
        for layer in range(6):
            wanted = torch.full((num_rows,), -1)
            pairs = torch.from_numpy(record[f"f{t}/matched_{layer}"]).long()
            wanted[pairs[:, 0]] = pairs[:, 1]
            assert torch.equal(match.gt_of_row[layer, 0, :num_rows], wanted), (t, layer)
        wanted = torch.full((num_rows,), -1).index_copy(0, rows, torch.from_numpy(record[f"f{t}/ids"]))
        assert torch.equal(match.obj_id[0, :num_rows].long(), wanted)
        torch.testing.assert_close(match.iou[0, rows], torch.from_numpy(record[f"f{t}/iou"]), rtol=0, atol=CLIP_IOU)


def check_matches_by_row(record: Any, out: ClipOutput, at: str = "") -> None:
    """The same for records whose objects fill the first rows; at: before the names."""
    for t, match in enumerate(out.match):
        ids = record[f"{at}f{t}/ids"].long()
        count = len(ids)
        assert out.rows[t].valid[0].sum() == count
        for layer in range(6):
            wanted = torch.full((count,), -1)
            pairs = record[f"{at}f{t}/matched_{layer}"].long()
            wanted[pairs[:, 0]] = pairs[:, 1]
            assert torch.equal(match.gt_of_row[layer, 0, :count], wanted), (t, layer)
        assert torch.equal(match.obj_id[0, :count].long(), ids)
        tracked = ids >= 0
        torch.testing.assert_close(match.iou[0, :count][tracked], record[f"{at}f{t}/iou"][tracked], rtol=0, atol=CLIP_IOU)


def check_bevs(record: Mapping[str, np.ndarray], out: ClipOutput, frames: int) -> None:
    """BEVs with and without gradient. The record has a frame's history made anew, from its first frame on, then that frame."""
    call = 0
    for t in range(frames):
        call += max(t, 1)
        for bev, index in ((out.history, call - 1), (out.bev, call)):
            wanted = torch.from_numpy(record[f"bev_norms_{index:02d}"])
            torch.testing.assert_close(bev[0, t].detach().norm(dim=-1)[::25], wanted, rtol=1e-5, atol=0)
        call += 1
