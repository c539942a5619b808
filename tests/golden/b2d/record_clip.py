"""clip.npz: one training iteration of each stage by Bench2DriveZoo's own code; called by record.py."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import small
import torch

TESTS = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TESTS / "recorders"))
from record_v2 import Truth, grow_truth, learn, watch_matches  # noqa: E402

LAST = small.CLIP_FRAMES - 1
GRADIENTS = ("pts_bbox_head.reg_branches.", "pts_bbox_head.transformer.encoder.layers.0.", "img_backbone.layer3.0.conv1",
             "img_neck", "seg_head.cls_branches.1", "motion_head.agent_level", "motion_head.scene_level", "motion_head.traj_reg",
             "occ_head.query_to_occ_feat", "planning_head.reg_branch", "planning_head.navi_embed", "query_embedding")  # fmt: skip


def small_model(config, stage: int):
    """A config of tiny, stage 1 or 2, for a BEV of 40x40 cells and one image scale."""
    model = config.model
    model.pretrained = None
    model.update(use_grid_mask=False, queue_length=small.CLIP_FRAMES)
    model.img_backbone.update(depth=18, out_indices=(3,))
    model.img_neck.update(in_channels=[512], num_outs=1)
    for name in ("pts_bbox_head", "seg_head", "motion_head", "planning_head")[: 2 * stage]:
        model[name].update(bev_h=small.CELLS, bev_w=small.CELLS)
    head = model.pts_bbox_head
    head.positional_encoding.update(row_num_embed=small.CELLS, col_num_embed=small.CELLS)
    head.transformer.encoder.transformerlayers.attn_cfgs[1].deformable_attention.num_levels = 1
    model.seg_head.canvas_size = (small.CELLS, small.CELLS)
    if stage == 2:
        half, step = small.HALF_M, 2 * small.HALF_M / small.CELLS
        model.occ_head.update(bev_size=(small.CELLS, small.CELLS))
        model.occ_head.grid_conf = dict(xbound=[-half, half, step], ybound=[-half, half, step], zbound=[-10.0, 10.0, 20.0])
    return config


def without_chance(model):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    model.query_interact.random_drop = model.query_interact.fp_ratio = 0.0
    return model


def straight(boxes: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Places [n, 12, 2] of boxes (w, l, h, yaw = -heading - pi/2) that drive ahead and bend a little."""
    step = np.arange(1, 13) * 0.5
    heading = -np.pi / 2 - boxes[:, 6:7] + 0.02 * step
    way = speed[:, None] * 0.5
    return boxes[:, None, :2] + np.cumsum(np.stack([way * np.cos(heading), way * np.sin(heading)], -1), 1)


def clip_inputs(truth: Truth) -> dict:
    """The clip as plain arrays, in Bench2Drive's conventions."""
    rng, plain = np.random.RandomState(31), {"lidar2img": small.lidar2img()}
    for t in range(small.CLIP_FRAMES):
        n = len(truth.ids[t])
        mask = (rng.uniform(size=(n, 8, 1)) > 0.3).repeat(2, -1).astype(np.float64)
        plain.update({
            f"f{t}/gt_boxes": truth.boxes[t], f"f{t}/gt_labels": truth.labels[t], f"f{t}/gt_inds": truth.ids[t],
            f"f{t}/gt_past_traj": rng.normal(size=(n, 8, 2)), f"f{t}/gt_past_traj_mask": mask,
        })  # fmt: skip
    plain["sdc_box"] = np.array([[0, 0, -0.75, 1.85, 4.9, 1.5, -np.pi, 0.0, 6.0]], np.float32)
    poses = [small.pose(t) for t in range(small.CLIP_FRAMES)]
    plain["can_bus"] = np.stack([pose["can_bus"] for pose in poses])
    plain["l2g_r_mat"] = np.stack([pose["l2g_r"] for pose in poses])
    plain["l2g_t"] = np.stack([pose["l2g_t"] for pose in poses])
    plain["timestamp"] = np.float32(2.0 + 0.5 * np.arange(small.CLIP_FRAMES))
    boxes, vehicles = truth.boxes[LAST], truth.labels[LAST] < 4
    plain["gt_fut_traj"] = straight(boxes, np.linalg.norm(boxes[:, 7:], axis=1) + 1.0)
    plain["gt_fut_traj_mask"] = np.ones((len(boxes), 12, 2))
    if len(boxes) > 1:
        plain["gt_fut_traj_mask"][1, 8:] = 0.0
    plain["gt_sdc_fut_traj"] = np.cumsum(np.tile([0.05, 3.0], (12, 1)), 0)[None, None]
    plain["gt_sdc_fut_traj_mask"] = np.ones((1, 1, 12, 2))
    places = np.array([[5, 2, 6, 38], [2, 20, 38, 23], [30, 3, 31, 36], [8, 0, 29, 39], [12, 12, 16, 15], [20, 26, 22, 29]])
    lanes = np.zeros((len(places), small.CELLS, small.CELLS), np.uint8)
    for mask, (x0, y0, x1, y1) in zip(lanes, places):
        mask[y0 : y1 + 1, x0 : x1 + 1] = 1
    plain["gt_lane_masks"], plain["gt_lane_bboxes"], plain["gt_lane_labels"] = lanes, places, np.arange(6)
    segmentation = np.zeros((7, small.CELLS, small.CELLS), np.int64)
    instance = np.zeros_like(segmentation)
    for box, number in zip(boxes[vehicles], truth.ids[LAST][vehicles]):
        column, row = ((box[:2] + small.HALF_M) * small.CELLS / (2 * small.HALF_M)).astype(int).clip(1, small.CELLS - 2)
        cells = (slice(None), slice(row - 1, row + 2), slice(column - 1, column + 1))
        segmentation[cells], instance[cells] = 1, number
    plain["gt_segmentation"], plain["gt_instance"] = segmentation, instance
    plain["gt_occ_img_is_valid"] = np.ones(9, bool)
    # Others near where the seeded weights plan to stay: beside the ego car, ahead across its way, behind askew
    others = np.array([
        [2.6, 0.5, -1.0, 1.9, 4.5, 1.6, -np.pi, 0, 4.0], [-1.0, 3.2, -1.0, 2.2, 6.0, 2.5, -1.87, 2.0, 0],
        [-3.4, -2.0, -1.0, 1.8, 4.2, 1.5, 2.31, -1.0, 1.0],
    ])  # fmt: skip
    for future in range(7):
        moved = others + [[0, 0.3 * future, 0, 0, 0, 0, 0.02 * future, 0, 0]]
        plain[f"gt_future_boxes/{future}"] = moved.astype(np.float32)
    steps = np.arange(1, 7)
    plain["sdc_planning"] = np.stack([0.04 * steps, 2.9 * steps, -np.pi + 0.03 * steps], -1)[None, None]
    plain["sdc_planning_mask"] = np.ones((1, 1, 6, 2))
    plain["sdc_planning_mask"][..., 5:, :] = 0.0
    plain["command"] = np.array([small.COMMANDS[0]])
    return plain


def metas(plain: dict, box_class) -> dict:
    """Metadata of the clip's frames, with the car's motion since the frame before in can_bus."""
    out = {}
    for t, bus in enumerate(plain["can_bus"]):
        bus, before = bus.copy(), plain["can_bus"][t - 1] if t else plain["can_bus"][0]
        bus[:3] -= before[:3]
        bus[-1] -= before[-1]
        out[t] = {
            "can_bus": bus, "lidar2img": list(plain["lidar2img"]), "scene_token": "a", "folder": "a",
            "img_shape": [(*small.IMAGE, 3)] * 6, "box_type_3d": box_class, "prev_bev_exists": t > 0,
        }  # fmt: skip
    return out


def arguments(plain: dict, stage: int) -> dict:
    """What ``forward_train`` takes."""
    from mmcv.core.bbox.structures.lidar_box3d import LiDARInstance3DBoxes

    def tensor(name):
        return torch.from_numpy(np.array(plain[name]))

    def boxes(name):
        return LiDARInstance3DBoxes(tensor(name), box_dim=9)

    frames = range(small.CLIP_FRAMES)
    out = {key: [[tensor(f"f{t}/{name}") for t in frames]] for key, name in (
        ("gt_labels_3d", "gt_labels"), ("gt_inds", "gt_inds"), ("gt_past_traj", "gt_past_traj"),
        ("gt_past_traj_mask", "gt_past_traj_mask"),
    )}  # fmt: skip
    out.update(
        img=torch.from_numpy(small.clip_images()), img_metas=[metas(plain, LiDARInstance3DBoxes)],
        gt_bboxes_3d=[[boxes(f"f{t}/gt_boxes") for t in frames]], gt_sdc_bbox=[[boxes("sdc_box") for _ in frames]],
        gt_sdc_label=[[torch.tensor([0]) for _ in frames]], timestamp=[list(tensor("timestamp")[:, None])],
        l2g_r_mat=[list(tensor("l2g_r_mat"))], l2g_t=[list(tensor("l2g_t"))],
        **{name: tensor(name)[None] for name in ("gt_lane_labels", "gt_lane_bboxes", "gt_lane_masks")},
    )  # fmt: skip
    if stage == 2:
        out.update(
            {name: tensor(name)[None] for name in ("gt_segmentation", "gt_instance", "gt_occ_img_is_valid")},
            gt_fut_traj=[tensor("gt_fut_traj")], gt_fut_traj_mask=[tensor("gt_fut_traj_mask")],
            gt_future_boxes=[[boxes(f"gt_future_boxes/{i}") for i in range(7)]],
            **{name: tensor(name) for name in ("gt_sdc_fut_traj", "gt_sdc_fut_traj_mask", "sdc_planning", "sdc_planning_mask",
                                               "command")},
        )  # fmt: skip
    return out


CLASSES = (0, 1, 7, 3, 4, 2, 6, 0, 8)  # of objects that are born


def train(model, plain: dict, stage: int) -> dict:
    found: dict = {}
    model.train()
    watch_matches(model, found)
    losses = model.forward_train(**arguments(plain, stage))
    found.update(learn(model, losses, GRADIENTS))
    return {k: v for k, v in found.items() if not k.endswith(("/pred", "/ids_before"))}


def record(make) -> dict:
    """Arrays by name. make: of a stage, the model with seeded weights."""

    def fresh(stage):
        return without_chance(make(stage))

    plain = clip_inputs(grow_truth(fresh(2), small.CLIP_FRAMES, lambda truth: arguments(clip_inputs(truth), 1), CLASSES))
    found = {f"in/{k}": v.astype(np.int16) if v.dtype == np.int64 else v for k, v in plain.items()}
    for stage in (1, 2):
        model = fresh(stage)
        found.update({f"stage{stage}/{k}": v for k, v in train(model, copy.deepcopy(plain), stage).items()})
        names, values = found[f"stage{stage}/loss_names"], found[f"stage{stage}/losses"]
        print(stage, dict(zip(names.tolist(), values.round(4).tolist())))
    return found
