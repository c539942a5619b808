"""The recorded stage-2 training clip (UniAD-tiny, 3 frames, one sample) as a Clip, images and targets of all heads."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from helpers.train_clip import given_clip, given_targets, images, pad
from uniad.interface.types import Clip, Stage2Targets, Targets

FRAMES = 3


def stage2_targets(given: Mapping[str, Tensor], max_objects: int = 12) -> Stage2Targets:
    """Ground truth of the second stage's heads. given: the golden training inputs by name."""
    future = [given[f"gt_future_boxes/{t}"] for t in range(7)]
    return Stage2Targets(
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
    )


def targets(given: Mapping[str, Tensor], max_objects: int = 12) -> Targets:
    """Ground truth of all heads, padded to the given capacity."""
    return given_targets(given, FRAMES, stage2_targets(given, max_objects), max_objects)


def clip(given: Mapping[str, Tensor], image_seed: int) -> Clip:
    """The recorded clip with its images."""
    return given_clip(given, images(image_seed, FRAMES), targets(given))
