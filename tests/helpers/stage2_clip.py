"""The recorded stage-2 training clip (UniAD-tiny, 3 frames, one sample) as a Clip, images and targets of all heads."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from helpers.train_clip import pad
from uniad.interface.types import Clip, Frame, Stage2Targets, Targets

FRAMES, HEIGHT, WIDTH, STEPS = 3, 256, 416, 12


def images(seed: int) -> Tensor:
    """[1, T, 6, 3, H, W] noise."""
    shape = (1, FRAMES, 6, 3, HEIGHT, WIDTH)
    return torch.from_numpy(np.random.RandomState(seed).standard_normal(np.prod(shape)).astype(np.float32).reshape(shape))


def targets(given: Mapping[str, Tensor], max_objects: int = 12, max_lanes: int = 8) -> Targets:
    """Ground truth, padded to the given capacities. given: the golden training inputs by name."""

    def objects(name: str, fill: float = 0) -> Tensor:
        return torch.stack([pad(given[f"f{t}/{name}"], max_objects, fill) for t in range(FRAMES)])[None]

    future = [given[f"gt_future_boxes/{t}"] for t in range(7)]
    things = given["gt_lane_labels"] < 3
    return Targets(
        boxes=objects("gt_boxes"),
        labels=objects("gt_labels"),
        ids=objects("gt_inds", -1),
        valid=objects("gt_inds", -1) >= 0,
        past_traj=objects("gt_past_traj").float(),
        past_traj_mask=objects("gt_past_traj_mask").float(),
        sdc_box=given["sdc_box"].expand(1, FRAMES, -1),
        sdc_label=torch.zeros(1, FRAMES, dtype=torch.int64),
        lane_labels=pad(given["gt_lane_labels"][things], max_lanes, 0)[None],
        lane_boxes=pad(given["gt_lane_bboxes"][things], max_lanes, 0)[None],
        lane_masks=pad(given["gt_lane_masks"][things], max_lanes, 0)[None],
        lane_valid=(torch.arange(max_lanes) < things.sum())[None],
        drivable=given["gt_lane_masks"][~things],
        stage2=Stage2Targets(
            fut_traj=pad(given["gt_fut_traj"], max_objects, 0)[None].float(),
            fut_traj_mask=pad(given["gt_fut_traj_mask"], max_objects, 0)[None].float(),
            sdc_fut_traj=given["gt_sdc_fut_traj"][None].float(),
            sdc_fut_traj_mask=given["gt_sdc_fut_traj_mask"][None].float(),
            segmentation=given["gt_segmentation"][None].long(),
            instance=given["gt_instance"][None].long(),
            occ_img_is_valid=given["gt_occ_img_is_valid"][None],
            future_boxes=torch.stack([pad(boxes, max_objects, 0) for boxes in future])[None],
            future_boxes_valid=torch.stack([torch.arange(max_objects) < len(boxes) for boxes in future])[None],
            sdc_planning=given["sdc_planning"][None].float(),
            sdc_planning_mask=given["sdc_planning_mask"][None].float(),
        ),
    )


def clip(given: Mapping[str, Tensor], image_seed: int) -> Clip:
    """The recorded clip with its images."""
    img = images(image_seed)
    assert torch.equal(img.flatten()[:64], given["img_first64"]), "images differ from the recorded ones"
    frames = Frame(
        img=img,
        lidar2img=given["lidar2img"].float().expand(1, FRAMES, -1, -1, -1),
        can_bus=given["can_bus_absolute"].float()[None],
        l2g_r=given["l2g_r_mat"][None],
        l2g_t=given["l2g_t"][None],
        time_s=(given["timestamp"] - given["timestamp"][0]).float()[None],
        scene_start=(torch.arange(FRAMES) == 0)[None],
        command=given["command"].int().expand(1, FRAMES),
    )
    return Clip(frames, targets(given), [[{} for _ in range(FRAMES)]])
