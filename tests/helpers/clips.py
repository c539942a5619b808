"""A model and clips small enough to take a training clip forward and back in a fraction of a second."""

from __future__ import annotations

import numpy as np
import torch

from helpers.specs import edit, nano_spec
from uniad.config.spec import ModelSpec
from uniad.interface.types import Clip, Frame, Stage2Targets, Targets
from uniad.models.uniad import UniAD
from uniad.training.regularisation import without_dropout

HEIGHT, WIDTH, CAMERAS = 64, 96, 6


def small_spec(**changes) -> ModelSpec:
    """Nano, smaller still, without anything random."""
    spec = nano_spec().model
    quiet = {
        "use_grid_mask": False, "bev__height": 10, "bev__width": 10, "bev__embed_dims": 32, "bev__ffn_dims": 32,
        "bev__dropout": 0.0, "bev__ffn_dropout": 0.0, "bev__sca_capacity": 1.0, "neck__out_channels": 32,
        "backbone__norm_eval": True, "decoder__num_layers": 2, "decoder__embed_dims": 32, "decoder__ffn_dims": 32,
        "decoder__dropout": 0.0, "decoder__ffn_dropout": 0.0, "track__num_query": 20, "track__embed_dims": 32,
        "track__capacity": 6, "track__fp_ratio": 0.0, "track__random_drop": 0.0, "map__embed_dims": 32,
        "map__bev_hw": (10, 10), "map__canvas_hw": (10, 10), "map__num_query": 12, "map__ffn_dims": 32, "map__top_k": 6,
        "map__dropout": 0.0, "map__ffn_dropout": 0.0,
    }  # fmt: skip
    return edit(spec, **(quiet | changes))


def small_stage2_spec(**changes) -> ModelSpec:
    """The same with motion, occupancy and planning, nothing frozen."""
    grid = {"occ__xbound": (-50.0, 50.0, 10.0), "occ__ybound": (-50.0, 50.0, 10.0)}
    small = {
        "motion__embed_dims": 32, "motion__bev_hw": (10, 10), "motion__ffn_dims": 32, "motion__det_layers": 2,
        "motion__ffn_dropout": 0.0, "occ__bev_hw": (10, 10), "occ__bev_dims": 32, "occ__proj_dims": 32, "occ__embed_dims": 32,
        "occ__ffn_dims": 32, "occ__query_dims": 32, "plan__embed_dims": 32, "plan__bev_hw": (10, 10), "plan__dropout": 0.0,
        "plan__image_patch": None,  # images are of several sizes
        "agent_capacity": 6, "motion__use_nonlinear_optimizer": True,  # nano takes futures as they are; upstream smooths them
    }  # fmt: skip
    heads = edit(nano_spec(2).model.stage2, **(grid | small))
    return edit(small_spec(), **{"stage2": heads} | changes)


def anchors(spec: ModelSpec) -> torch.Tensor | None:
    """Ways ahead, some of them turning: [groups, K, F, 2]; None in stage 1."""
    if spec.stage2 is None:
        return None
    rng, motion = torch.Generator().manual_seed(3), spec.stage2.motion
    groups, modes, steps = len(motion.group_ids), motion.predict_modes, motion.predict_steps
    return torch.randn(groups, modes, 1, 2, generator=rng) * torch.arange(1, steps + 1)[:, None]


def small_model(spec: ModelSpec, seed: int = 0) -> UniAD:
    """In training mode, with weights that differ from zero everywhere and no dropout left at a fixed rate."""
    torch.manual_seed(seed)
    model = UniAD(spec, anchors(spec)).train()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    without_dropout(model)
    return model


def small_clip(samples: int = 1, frames: int = 3, objects: tuple[int, ...] | None = None, seed: int = 0) -> Clip:
    """Noise images, a car that turns, objects that stand around; ``objects`` is their number in each sample."""
    rng = np.random.default_rng(seed)
    capacity, lanes = 5, 4

    def real(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.standard_normal((samples, *shape))).float()

    yaws = np.deg2rad([0.0, -60.0, 60.0, 180.0, 120.0, -120.0])
    cameras = []
    for yaw in yaws:
        right, down, ahead = [np.cos(yaw), np.sin(yaw), 0], [0, 0, -1], [-np.sin(yaw), np.cos(yaw), 0]
        intrinsic = np.array([[50.0, 0, WIDTH / 2], [0, 50.0, HEIGHT / 2], [0, 0, 1]])
        projection = np.eye(4)
        projection[:3, :3] = intrinsic @ np.array([right, down, ahead])
        cameras.append(projection)
    can_bus = real(frames, 18) * 0.1
    can_bus[..., 0] = 600 + 2.5 * torch.arange(frames)
    can_bus[..., 17] = 30 + 2.0 * torch.arange(frames)
    can_bus[..., 16] = can_bus[..., 17].deg2rad()
    frame = Frame(
        img=real(frames, CAMERAS, 3, HEIGHT, WIDTH),
        lidar2img=torch.from_numpy(np.stack(cameras)).float().expand(samples, frames, -1, -1, -1),
        can_bus=can_bus,
        l2g_r=torch.eye(3).expand(samples, frames, -1, -1),
        l2g_t=torch.stack([torch.tensor([600 + 2.5 * t, 0, 0]) for t in range(frames)]).expand(samples, -1, -1),
        time_s=(0.5 * torch.arange(frames)).expand(samples, -1),
        scene_start=(torch.arange(frames) == 0).expand(samples, -1),
        command=torch.zeros(samples, frames, dtype=torch.int32),
    )
    counts = torch.tensor(objects if objects is not None else (3,) * samples)
    valid = (torch.arange(capacity) < counts[:, None])[:, None].expand(-1, frames, -1)
    boxes = real(1, capacity, 9).repeat(1, frames, 1, 1)
    boxes[..., :2] *= 15
    boxes[..., 3:6] = boxes[..., 3:6].exp() * 3
    masks = (real(lanes, 10, 10) > 0).to(torch.uint8)
    targets = Targets(
        boxes=torch.where(valid[..., None], boxes, 0.0),
        labels=torch.from_numpy(rng.integers(0, 10, (samples, 1, capacity))).expand(-1, frames, -1),
        ids=torch.where(valid, torch.arange(1, capacity + 1), -1),
        valid=valid,
        past_traj=real(frames, capacity, 8, 2),
        past_traj_mask=(real(frames, capacity, 8, 2) > 0).float(),
        sdc_box=torch.tensor([0, 0, -0.8, 1.73, 4.08, 1.56, -3.1, 1, 1]).expand(samples, frames, -1),
        sdc_label=torch.zeros(samples, frames, dtype=torch.int64),
        lane_labels=torch.from_numpy(rng.integers(0, 3, (samples, lanes))),
        lane_boxes=torch.tensor([1, 2, 6, 7]).expand(samples, lanes, -1),
        lane_masks=masks,
        lane_valid=(torch.arange(lanes) < counts[:, None]),
        drivable=masks[:, 0],
    )
    return Clip(frame, targets, [[{} for _ in range(frames)] for _ in range(samples)])


def with_future(clip: Clip, grid: tuple[int, int] = (10, 10), seed: int = 1) -> Clip:
    """The clip with what stage 2 learns from: objects and the car drive straight on, the first object fills some cells."""
    now, (samples, _, capacity) = clip.targets, clip.targets.valid.shape
    rng = torch.Generator().manual_seed(seed)
    valid, boxes = now.valid[:, -1], now.boxes[:, -1]
    speed = 4 * torch.randn(samples, capacity, 1, 2, generator=rng)
    path = boxes[:, :, None, :2] + speed * 0.5 * torch.arange(1, 13)[:, None]
    known = (torch.rand(samples, capacity, 1, 1, generator=rng) * 16 > torch.arange(12)[:, None]) & valid[..., None, None]
    own = torch.stack([torch.zeros(12), 2.0 * torch.arange(1, 13)], -1).expand(samples, 1, -1, -1)
    future = boxes[:, None].repeat(1, 7, 1, 1)
    future[..., :2] += speed.transpose(1, 2) * 0.5 * torch.arange(7)[:, None, None]
    instance = torch.zeros(samples, 7, *grid, dtype=torch.int64)
    for g in range(capacity):
        instance[:, :, g, : g + 3] = torch.where(valid[:, g], now.ids[:, -1, g], 0)[:, None, None]
    return clip._replace(
        targets=now._replace(stage2=Stage2Targets(
            fut_traj=path * known, fut_traj_mask=known.float().expand(-1, -1, -1, 2), sdc_fut_traj=own,
            sdc_fut_traj_mask=torch.ones(samples, 1, 12, 2), segmentation=(instance > 0).long(), instance=instance,
            occ_img_is_valid=torch.ones(samples, 9, dtype=torch.bool), future_boxes=future,
            future_boxes_valid=valid[:, None].expand(-1, 7, -1),
            sdc_planning=torch.cat([own[:, :, :6], torch.zeros(samples, 1, 6, 1)], -1),
            sdc_planning_mask=torch.ones(samples, 1, 6, 2),
        ))
    )  # fmt: skip
