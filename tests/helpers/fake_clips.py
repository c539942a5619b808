"""Clips of random images with a few moving boxes: what the real model trains on where there is no data set."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from uniad.config.spec import Spec
from uniad.data.collate import collate
from uniad.data.sampler import TrainSampler
from uniad.geometry.grid import BevGrid
from uniad.interface.types import Clip, Frame, Stage2Targets, Targets
from uniad.training.distributed import World
from uniad.training.loader import ClipLoader, Position

OBJECTS = 6


class FakeClips:
    """``length`` clips of a spec's shapes; a clip follows from its position alone."""

    def __init__(self, spec: Spec, length: int = 8):
        self.spec, self.length = spec, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, position: Position) -> Clip:
        rng = np.random.default_rng(tuple(position))
        data, frames = self.spec.data, self.spec.model.queue_length
        image = data.image
        slots, lanes, (rows, cols) = data.max_objects, data.max_lanes, data.canvas_hw

        def normal(*shape: int) -> torch.Tensor:
            return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))

        can_bus = torch.zeros(frames, 18)
        can_bus[:, 1] = torch.arange(frames) * 2.0
        boxes = torch.zeros(frames, slots, 9)
        start = torch.from_numpy(rng.uniform(-30, 30, (OBJECTS, 2)).astype(np.float32))
        for t in range(frames):
            boxes[t, :OBJECTS, :2] = start + t
        boxes[:, :OBJECTS, 3:6] = torch.tensor([1.9, 4.5, 1.6])
        valid = (torch.arange(slots) < OBJECTS).expand(frames, slots).clone()
        masks = torch.zeros(lanes, rows, cols, dtype=torch.uint8)
        masks[:2, 3:6] = 1
        clip = Clip(
            Frame(
                img=normal(frames, 6, 3, image.height, image.width),
                lidar2img=projections(image.height, image.width).expand(frames, 6, 4, 4).clone(),
                can_bus=can_bus,
                l2g_r=torch.eye(3).expand(frames, 3, 3).clone(),
                l2g_t=torch.zeros(frames, 3),
                time_s=torch.arange(frames) * 0.5,
                scene_start=torch.arange(frames) == 0,
                command=torch.full((frames,), 2, dtype=torch.int32),
            ),
            Targets(
                boxes=boxes,
                labels=torch.zeros(frames, slots, dtype=torch.int64),
                ids=torch.where(valid, torch.arange(1, slots + 1), -1),
                valid=valid,
                past_traj=torch.zeros(frames, slots, 8, 2),
                past_traj_mask=torch.zeros(frames, slots, 8, 2),
                sdc_box=torch.tensor([0, 0, -0.8, 1.73, 4.08, 1.56, -3.14159, 0, 4]).expand(frames, 9).clone(),
                sdc_label=torch.zeros(frames, dtype=torch.int64),
                lane_labels=torch.tensor([0, 1] + [0] * (lanes - 2)),
                lane_boxes=torch.tensor([[0, 3, cols - 1, 5]] * 2 + [[0] * 4] * (lanes - 2)),
                lane_masks=masks,
                lane_valid=torch.arange(lanes) < 2,
                drivable=(torch.arange(rows * cols).reshape(rows, cols) % 2).to(torch.uint8),
            ),
            [{"token": f"{position.index}-{t}"} for t in range(frames)],
        )
        return clip._replace(targets=clip.targets._replace(stage2=self._future(clip.targets))) if self.spec.stage == 2 else clip

    def _future(self, targets: Targets) -> Stage2Targets:
        """All drive straight on; the first object fills some cells of the occupancy grid."""
        data, valid = self.spec.data, targets.valid[-1]
        boxes = targets.boxes[-1].expand(7, -1, -1).clone()
        boxes[:, :, :2] += torch.arange(7)[:, None, None] * 0.5
        fut_traj = targets.boxes[-1, :, None, :2] + 0.5 * torch.arange(1, 13)[:, None]
        known = valid[:, None, None].expand(-1, 12, 2).float()
        own = torch.stack([torch.zeros(12), torch.arange(1.0, 13)], -1)[None]
        instance = torch.zeros(7, *BevGrid.from_bounds(data.occ_xbound, data.occ_ybound).shape, dtype=torch.int64)
        instance[:, 2:5, 3:6] = 1
        return Stage2Targets(
            fut_traj=fut_traj * known, fut_traj_mask=known, sdc_fut_traj=own,
            sdc_fut_traj_mask=torch.ones_like(own), segmentation=instance.clone(), instance=instance,
            occ_img_is_valid=torch.ones(9, dtype=torch.bool), future_boxes=boxes,
            future_boxes_valid=valid.expand(7, -1).clone(), sdc_planning=torch.nn.functional.pad(own[:, :6], (0, 1)),
            sdc_planning_mask=torch.ones(1, 6, 2),
        )  # fmt: skip


def projections(height: int, width: int) -> torch.Tensor:
    """Six cameras around the car, 60 degrees apart: lidar frame -> pixels [6, 4, 4]."""
    out = []
    for k in range(6):
        yaw = torch.tensor(k * torch.pi / 3)
        forward = torch.stack([yaw.sin(), yaw.cos(), torch.zeros(())])
        right = torch.stack([yaw.cos(), -yaw.sin(), torch.zeros(())])
        rotation = torch.stack([right, torch.tensor([0.0, 0.0, -1.0]), forward])
        intrinsic = torch.tensor([[width * 0.8, 0, width / 2], [0, width * 0.8, height / 2], [0, 0, 1]])
        matrix = torch.eye(4)
        matrix[:3, :3] = intrinsic @ rotation
        out.append(matrix)
    return torch.stack(out)


def fake_loader(spec: Spec, world: World, seed: int, dataset: Any = None) -> ClipLoader:
    dataset = dataset or FakeClips(spec)
    batch = spec.data.samples_per_gpu
    sampler = TrainSampler(len(dataset), batch, world.rank, world.size, seed)
    return ClipLoader(dataset, sampler, batch_size=batch, workers=0, collate=collate, seed=seed)
