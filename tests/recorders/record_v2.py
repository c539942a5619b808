"""Records numbers of UniAD v2.0 for tests/golden/v2: a small model run by its own code, with seeded weights.

    python tests/recorders/record_v2.py UNIAD_CHECKOUT tests/golden/v2

Runs in an environment of UniAD v2.0 (tests/golden/v2/README.md), on the CPU, in about three minutes. Nothing of the checkout is
changed. What has no part in the numbers is stood in for: mmcv's compiled operators (never reached on the CPU: deformable
attention there is mmcv's own PyTorch version) and modules of the Lyft and Waymo data sets that mmdet3d imports.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import importlib.abc
import importlib.machinery
import json
import pickle
import sys
import tempfile
import types
from pathlib import Path

import numpy as np
import torch

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))
from helpers.weights import rule_state_dict  # noqa: E402

CELLS, HEIGHT, WIDTH, FRAMES = 40, 128, 224, 3  # BEV, image, clip
IMAGE_SEEDS, TRAIN_SEED = (501, 502), 601
PC_RANGE = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]


# Stand-ins ---------------------------------------------------------------------------------------------------------------


class _Absent(types.ModuleType):
    """A module whose every name is an empty class."""

    __path__: list = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    roots = ("lyft_dataset_sdk", "open3d", "waymo_open_dataset", "IPython")

    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in self.roots:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return _Absent(spec.name)

    def exec_module(self, module):
        pass


def stand_in() -> None:
    sys.modules["mmcv._ext"] = _Absent("mmcv._ext")
    sys.meta_path.insert(0, _Finder())
    torch.Tensor.cuda = lambda self, *args, **kwargs: self


# Model -------------------------------------------------------------------------------------------------------------------


def small_config(checkout: Path, anchors: Path):
    """v2.0's stage-2 config with a ResNet-18, one image level, a 40x40 BEV and two encoder layers."""
    from mmcv import Config

    cfg = Config.fromfile(str(checkout / "projects/configs/stage2_e2e/base_e2e.py"))
    model = cfg.model
    model.pretrained = None
    model.use_grid_mask = False
    model.img_backbone = dict(
        type="ResNet", depth=18, num_stages=4, out_indices=(3,), frozen_stages=1, norm_cfg=dict(type="BN", requires_grad=False),
        norm_eval=True, style="pytorch",
    )  # fmt: skip
    model.img_neck.update(in_channels=[512], num_outs=1)
    for name in ("pts_bbox_head", "seg_head", "motion_head", "planning_head"):
        model[name].update(bev_h=CELLS, bev_w=CELLS)
    head = model.pts_bbox_head
    head.positional_encoding.update(row_num_embed=CELLS, col_num_embed=CELLS)
    encoder = head.transformer.encoder
    encoder.num_layers = 2
    encoder.transformerlayers.attn_cfgs[1].deformable_attention.num_levels = 1
    model.seg_head.canvas_size = (CELLS, CELLS)
    model.seg_head.transformer.encoder.transformerlayers.attn_cfgs.num_levels = 1
    model.seg_head.transformer.decoder.transformerlayers.attn_cfgs[1].num_levels = 1
    step = 100.0 / CELLS
    model.occ_head.update(bev_size=(CELLS, CELLS))
    model.occ_head.grid_conf = dict(xbound=[-50.0, 50.0, step], ybound=[-50.0, 50.0, step], zbound=[-10.0, 10.0, 20.0])
    model.motion_head.anchor_info_path = str(anchors)
    return cfg


def build(cfg, kind: str):
    """The model with the seeded weights, and without anything random: no dropout, no dropped or false tracks."""
    from mmdet3d.models import build_model

    model = build_model(copy.deepcopy(cfg.model), train_cfg=cfg.get("train_cfg"), test_cfg=cfg.get("test_cfg"))
    values = rule_state_dict(model.state_dict(), kind)
    left = model.load_state_dict(values, strict=False)
    assert not left.unexpected_keys
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.MultiheadAttention):
            module.dropout = 0.0
    model.query_interact.random_drop = 0.0
    model.query_interact.fp_ratio = 0.0
    return model


def full_size_keys(checkout: Path, anchors: Path) -> dict:
    """Digests of names, shapes, types and requires_grad of the published models' entries, as tests/golden/state_dict.json has
    them of v1; without what v1 lacks, which is told by name."""
    from mmcv import Config
    from mmdet3d.models import build_model

    found = {}
    for stage, path in ((1, "stage1_track_map/base_track_map.py"), (2, "stage2_e2e/base_e2e.py")):
        cfg = Config.fromfile(str(checkout / "projects/configs" / path))
        cfg.model.pretrained = None
        if stage == 2:
            cfg.model.motion_head.anchor_info_path = str(anchors)
        model = build_model(cfg.model, train_cfg=cfg.get("train_cfg"), test_cfg=cfg.get("test_cfg")).train()
        grads = {k: p.requires_grad for k, p in model.named_parameters()}
        entries = {
            k: [k, list(v.shape), str(v.dtype).replace("torch.", ""), grads.get(k, "buffer")]
            for k, v in model.state_dict().items()
        }
        unused = sorted(k for k in entries if k.startswith("pts_bbox_head.transformer.reference_points."))
        kept = sorted(v for k, v in entries.items() if k not in unused)
        found[f"base_stage{stage}"] = {
            "entries": len(kept),
            "sha256": hashlib.sha256(json.dumps(kept).encode()).hexdigest(),
            "unused": [entries[k] for k in unused],
        }
    return found


# Scene -------------------------------------------------------------------------------------------------------------------


def turn(angle: float) -> np.ndarray:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def cameras() -> np.ndarray:
    """lidar2img [6, 4, 4] of six pinholes, 60 degrees apart, in the order of nuScenes' infos, for images at an eighth."""
    intrinsic = np.eye(4)
    intrinsic[0, 0] = intrinsic[1, 1] = 1266.0 / 8
    intrinsic[:2, 2] = 100.0, 56.25
    out = []
    for angle in np.deg2rad([0.0, -60.0, 60.0, 180.0, 120.0, -120.0]):
        ahead = np.array([-np.sin(angle), np.cos(angle), 0.0])
        axes = np.stack([[np.cos(angle), np.sin(angle), 0.0], [0.0, 0.0, -1.0], ahead])
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = axes, -axes @ (0.6 * ahead + [0.0, 0.0, -0.3])
        out.append(intrinsic @ pose)
    return np.stack(out)


def drive(count: int) -> list[dict]:
    """Poses of a car that drives a bend, half a second apart, as v2.0's data set gives them: a true quaternion, matrices
    transposed."""
    rng = np.random.RandomState(11)
    lidar_r, lidar_t = turn(-np.pi / 2), np.array([0.94, 0.0, 1.84])
    place, yaw, frames = np.array([600.0, 1600.0, 0.0]), 0.6, []
    for i in range(count):
        ego_r = turn(yaw)
        bus = np.zeros(18)
        bus[:3], bus[3:7] = place, [np.cos(yaw / 2), 0.0, 0.0, np.sin(yaw / 2)]
        bus[7:10] = rng.normal(size=3) * 0.3 + [0.0, 0.0, 9.8]
        bus[10:13], bus[13:16] = [0.0, 0.0, 0.16], [6.0, 0.0, 0.0]
        bus[16], bus[17] = yaw, np.rad2deg(yaw)
        frames.append(dict(
            can_bus=bus,
            l2g_r_mat=(lidar_r.T @ ego_r.T).astype(np.float32),
            l2g_t=(lidar_t @ ego_r.T + place).astype(np.float32),
            timestamp=1533151603.5 + 0.5 * i,
        ))  # fmt: skip
        place, yaw = place + ego_r @ [3.0, 0.0, 0.0], yaw + 0.08
    return frames


def noise(seed: int, *shape: int) -> np.ndarray:
    return np.random.RandomState(seed).standard_normal(int(np.prod(shape))).astype(np.float32).reshape(shape)


def meta_of(frame: dict, lidar2img: np.ndarray) -> dict:
    from mmdet3d.core.bbox import LiDARInstance3DBoxes

    return dict(
        can_bus=frame["can_bus"].copy(), lidar2img=list(lidar2img), img_shape=[(HEIGHT, WIDTH, 3)] * 6, scene_token="scene",
        box_type_3d=LiDARInstance3DBoxes, l2g_r_mat=frame["l2g_r_mat"], sample_idx="sample",
        pts_filename="a/b.bin", ori_shape=(HEIGHT, WIDTH, 3), scale_factor=1.0,
    )  # fmt: skip


# Recordings --------------------------------------------------------------------------------------------------------------


class Watch:
    """Keeps what methods return, as arrays that nobody changes later."""

    def __init__(self) -> None:
        self.seen: dict = {}

    def on(self, owner, name: str, keep) -> None:
        """keep: what a method returned -> arrays by name."""
        original = getattr(owner, name)

        def wrapped(*args, **kwargs):
            out = original(*args, **kwargs)
            self.seen.update(keep(out))
            return out

        setattr(owner, name, wrapped)


def array(x) -> np.ndarray:
    x = x.detach().cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)
    return np.array(x)


@torch.no_grad()
def record_frames(cfg) -> dict:
    """Two frames of a scene through ``forward_test``: one without a BEV before it, one with."""
    model, watch = build(cfg, "base").eval(), Watch()
    encoder = model.pts_bbox_head.transformer.encoder
    first_layer = encoder.layers[0]

    def refs(module, args, kwargs):
        watch.seen["enc/ref_2d"] = array(kwargs["ref_2d"])

    first_layer.register_forward_pre_hook(refs, with_kwargs=True)
    encoder.register_forward_pre_hook(
        lambda module, args, kwargs: watch.seen.update({"enc/shift": array(kwargs["shift"])}), with_kwargs=True
    )
    watch.on(model.pts_bbox_head, "get_bev_features", lambda out: {"bev_embed": array(out[0])})
    watch.on(model.pts_bbox_head, "get_detections", lambda out: {
        "dec/all_cls_scores": array(out["all_cls_scores"]), "dec/all_bbox_preds": array(out["all_bbox_preds"]),
        "dec/last_ref_points": array(out["last_ref_points"]),
    })  # fmt: skip
    watch.on(model, "select_active_track_query", lambda out: {
        "trk/result_bboxes": array(out["boxes_3d"].tensor), "trk/result_scores": array(out["scores_3d"]),
        "trk/result_labels": array(out["labels_3d"]), "trk/result_track_ids": array(out["track_ids"]),
    })  # fmt: skip
    watch.on(model, "select_sdc_track_query", lambda out: {"trk/sdc_bbox": array(out["sdc_boxes_3d"].tensor)})
    watch.on(model.motion_head, "forward", lambda out: {
        "mot/all_traj_scores": array(out["all_traj_scores"]), "mot/all_traj_preds": array(out["all_traj_preds"]),
    })  # fmt: skip
    watch.on(model.occ_head, "forward_test", lambda out: {
        "occ/ins_occ_logits": array(out["pred_ins_logits"][:, :, :5]), "occ/seg_out": array(out["seg_out"]),
        "occ/ins_seg_out": array(out["ins_seg_out"]),
    })  # fmt: skip
    watch.on(model.planning_head, "forward", lambda out: {"plan/after_collision_optim": array(out["sdc_traj"])})
    model.planning_head.reg_branch.register_forward_hook(
        lambda module, args, out: watch.seen.update({"plan/steps": array(out)})
    )
    lidar2img = cameras()
    kept = {"lidar2img": lidar2img, "image_seeds": np.array(IMAGE_SEEDS), "image_shape": np.array([6, 3, HEIGHT, WIDTH])}
    for i, frame in enumerate(drive(2)):
        watch.seen.clear()
        img = torch.from_numpy(noise(IMAGE_SEEDS[i], 1, 6, 3, HEIGHT, WIDTH))
        blank = torch.zeros(1, 7, CELLS, CELLS, dtype=torch.long)
        out = model.forward_test(
            img=[img], img_metas=[[meta_of(frame, lidar2img)]],
            l2g_t=torch.from_numpy(frame["l2g_t"])[None], l2g_r_mat=torch.from_numpy(frame["l2g_r_mat"])[None],
            timestamp=[torch.tensor([frame["timestamp"]], dtype=torch.float64)],
            gt_lane_labels=[torch.tensor([[0, 3]])], gt_lane_masks=[torch.zeros(1, 2, CELLS, CELLS, dtype=torch.uint8)],
            gt_segmentation=[blank], gt_instance=[blank], gt_occ_img_is_valid=[torch.ones(1, 9, dtype=torch.bool)],
            sdc_planning=[torch.zeros(1, 1, 6, 3)], sdc_planning_mask=[torch.ones(1, 1, 6, 2)], command=[torch.tensor([i % 3])],
        )[0]  # fmt: skip
        at = f"f{i}/"
        kept.update({at + k: v for k, v in watch.seen.items()})
        kept.update({at + k: array(v) for k, v in frame.items()})
        kept[at + "command"] = np.array(i % 3)
        kept[at + "res/scores_3d_det"] = array(out["scores_3d_det"])
        kept[at + "res/labels_3d_det"] = array(out["labels_3d_det"])
        kept[at + "res/boxes_3d_det"] = array(out["boxes_3d_det"].tensor)
        tracks = model.test_track_instances
        kept[at + "qim/out_obj_idxes"] = array(tracks.obj_idxes[model.num_query + 1 :])
        print(at, "tracks", len(watch.seen["trk/result_scores"]), "occ cells", int(watch.seen["occ/seg_out"].sum()), flush=True)
        # The two submissions' boxes: size order and heading as v2.0 hands them to nuScenes
        if i == 0:
            from projects.mmdet3d_plugin.datasets.data_utils.data_utils import output_to_nusc_box_det

            boxes = output_to_nusc_box_det(out)
            kept["f0/nusc/wlh"] = np.array([b.wlh for b in boxes])
            kept["f0/nusc/yaw"] = np.array([b.orientation.yaw_pitch_roll[0] for b in boxes])
            kept["f0/nusc/center"] = np.array([b.center for b in boxes])
    return kept


def straight_future(boxes: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """Absolute places [n, 12, 2] of boxes (l, w, h, heading) that drive along their heading and bend a little."""
    step = np.arange(1, 13) * 0.5
    heading = boxes[:, 6:7] + 0.02 * step
    way = speed[:, None] * 0.5
    return boxes[:, None, :2] + np.cumsum(np.stack([way * np.cos(heading), way * np.sin(heading)], -1), 1)


class Truth:
    """Ground truth of the recorded clip in v2.0's convention, grown frame by frame around what the model predicts there."""

    def __init__(self) -> None:
        self.rng = np.random.RandomState(21)
        # v2.0 cannot take a frame without objects: one until the first is added
        self.boxes = [np.array([[10, 50, -1, 4, 2, 1.5, 0, 0, 0]], np.float32) for _ in range(FRAMES)]
        self.labels = [np.zeros(1, np.int64) for _ in range(FRAMES)]
        self.ids = [np.full(1, 999, np.int64) for _ in range(FRAMES)]

    def clear(self, t: int) -> None:
        self.boxes[t], self.labels[t], self.ids[t] = self.boxes[t][:0], self.labels[t][:0], self.ids[t][:0]

    def add(self, t: int, predicted: np.ndarray, number: int, label: int) -> None:
        """An object beside a predicted code (x, y, log l, log w, z, log h, sin, cos, vx, vy)."""
        x, y, log_l, log_w, z, log_h, sin, cos, vx, vy = predicted
        box = np.array([x, y, z, np.exp(log_l), np.exp(log_w), np.exp(log_h), np.arctan2(sin, cos), vx, vy])
        box += self.rng.normal(size=9) * [0.03, 0.03, 0.02, 0.01, 0.01, 0.02, 0.02, 0.1, 0.1]
        self.boxes[t] = np.concatenate([self.boxes[t], box[None].astype(np.float32)])
        self.labels[t] = np.append(self.labels[t], label)
        self.ids[t] = np.append(self.ids[t], number)


def pick(codes: np.ndarray, count: int) -> list:
    """Rows of predicted codes [n, 10] that make plausible objects: apart from each other, inside, not too small or fast."""
    chosen: list = []
    for row, code in enumerate(codes):
        inside = np.abs(code[:2]).max() < 45 and -3 < code[4] < 1
        fits = np.abs(code[[2, 3, 5]]).max() < 1.2 and code[2] > 0.2
        apart = all(np.linalg.norm(code[:2] - codes[other][:2]) > 6 for other in chosen)
        if inside and fits and apart and np.linalg.norm(code[8:]) < 8:
            chosen.append(row)
        if len(chosen) == count:
            break
    return chosen


def clip_arguments(truth: Truth, frames: list, lidar2img: np.ndarray) -> tuple:
    """``forward_train``'s arguments, and the same as plain arrays."""
    from mmdet3d.core.bbox import LiDARInstance3DBoxes

    rng, plain = np.random.RandomState(31), {}
    boxes_of = lambda x: LiDARInstance3DBoxes(torch.from_numpy(np.asarray(x, np.float32)), box_dim=9)  # noqa: E731
    metas, previous = {}, None
    for t, frame in enumerate(frames):
        meta = meta_of(frame, lidar2img)
        if previous is None:
            meta["can_bus"][:3] = 0.0
            meta["can_bus"][-1] = 0.0
        else:
            meta["can_bus"][:3] -= previous["can_bus"][:3]
            meta["can_bus"][-1] -= previous["can_bus"][-1]
        previous = frame
        metas[t] = meta
        n = len(truth.ids[t])
        sdc = np.array([[0, 0, -0.78, 4.08, 1.73, 1.56, np.pi / 2, 0.0, 6.0]], np.float32)
        mask = (rng.uniform(size=(n, 8, 1)) > 0.3).repeat(2, -1).astype(np.float64)
        plain.update({
            f"f{t}/gt_boxes": truth.boxes[t], f"f{t}/gt_labels": truth.labels[t], f"f{t}/gt_inds": truth.ids[t],
            f"f{t}/gt_past_traj": rng.normal(size=(n, 8, 2)), f"f{t}/gt_past_traj_mask": mask, f"f{t}/can_bus": frame["can_bus"],
        })  # fmt: skip
        plain["sdc_box"] = sdc
    last = FRAMES - 1
    boxes, vehicles = truth.boxes[last], truth.labels[last] < 5
    plain["gt_fut_traj"] = straight_future(boxes, np.linalg.norm(boxes[:, 7:], axis=1) + 1.0)
    plain["gt_fut_traj_mask"] = np.ones((len(boxes), 12, 2))
    if len(boxes) > 1:
        plain["gt_fut_traj_mask"][1, 8:] = 0.0
    plain["gt_sdc_fut_traj"] = np.cumsum(np.tile([0.05, 3.0], (12, 1)), 0)[None, None]
    plain["gt_sdc_fut_traj_mask"] = np.ones((1, 1, 12, 2))
    lanes = np.zeros((4, CELLS, CELLS), np.uint8)
    for i, (x0, y0, x1, y1) in enumerate(((5, 2, 6, 38), (2, 20, 38, 23), (30, 3, 31, 36), (8, 0, 29, 39))):
        lanes[i, y0 : y1 + 1, x0 : x1 + 1] = 1
    plain["gt_lane_masks"], plain["gt_lane_labels"] = lanes, np.array([0, 1, 2, 3])
    plain["gt_lane_bboxes"] = np.array([[5, 2, 6, 38], [2, 20, 38, 23], [30, 3, 31, 36], [8, 0, 29, 39]])
    segmentation, instance = np.zeros((7, CELLS, CELLS), np.int64), np.zeros((7, CELLS, CELLS), np.int64)
    for box, number in zip(boxes[vehicles], truth.ids[last][vehicles]):
        column, row = ((box[:2] + 50.0) / 2.5).astype(int).clip(1, CELLS - 2)
        for future in range(7):
            cells = (future, slice(row - 1, row + 2), slice(column - 1, column + 1))
            segmentation[cells], instance[cells] = 1, number
    plain["gt_segmentation"], plain["gt_instance"] = segmentation, instance
    plain["gt_occ_img_is_valid"] = np.ones(9, bool)
    # Others near where the seeded weights plan to stay: beside the ego car, ahead across its way, behind askew
    others = np.array([
        [2.6, 0.5, -1.0, 4.5, 1.9, 1.6, np.pi / 2, 0, 4.0], [-1.0, 3.2, -1.0, 6.0, 2.2, 2.5, 0.3, 2.0, 0],
        [-3.4, -2.0, -1.0, 4.2, 1.8, 1.5, 2.4, -1.0, 1.0],
    ])  # fmt: skip
    for future in range(7):
        plain[f"gt_future_boxes/{future}"] = (others + [[0, 0.3 * future, 0, 0, 0, 0, 0.02 * future, 0, 0]]).astype(np.float32)
    steps = np.arange(1, 7)
    plain["sdc_planning"] = np.stack([0.04 * steps, 2.9 * steps, np.pi / 2 - 0.03 * steps], -1)[None, None]
    plain["sdc_planning_mask"] = np.ones((1, 1, 6, 2))
    plain["command"] = np.array([2])
    for name in ("l2g_r_mat", "l2g_t", "timestamp"):
        plain[name] = np.stack([frame[name] for frame in frames])

    tensor = lambda name: torch.from_numpy(np.array(plain[name]))  # noqa: E731
    each = lambda name: [[tensor(f"f{t}/{name}") for t in range(FRAMES)]]  # noqa: E731
    arguments = dict(
        img=torch.from_numpy(noise(TRAIN_SEED, 1, FRAMES, 6, 3, HEIGHT, WIDTH)),
        img_metas=[metas],
        gt_bboxes_3d=[[boxes_of(b) for b in truth.boxes]], gt_labels_3d=each("gt_labels"), gt_inds=each("gt_inds"),
        gt_past_traj=each("gt_past_traj"), gt_past_traj_mask=each("gt_past_traj_mask"),
        gt_sdc_bbox=[[boxes_of(plain["sdc_box"]) for _ in range(FRAMES)]],
        gt_sdc_label=[[torch.tensor([0]) for _ in range(FRAMES)]],
        l2g_r_mat=[list(tensor("l2g_r_mat"))], l2g_t=[list(tensor("l2g_t"))], timestamp=[list(tensor("timestamp")[:, None])],
        **{name: tensor(name)[None] for name in ("gt_lane_labels", "gt_lane_bboxes", "gt_lane_masks")},
        gt_fut_traj=[tensor("gt_fut_traj")], gt_fut_traj_mask=[tensor("gt_fut_traj_mask")],
        gt_sdc_fut_traj=tensor("gt_sdc_fut_traj"), gt_sdc_fut_traj_mask=tensor("gt_sdc_fut_traj_mask"),
        gt_segmentation=tensor("gt_segmentation")[None], gt_instance=tensor("gt_instance")[None],
        gt_occ_img_is_valid=tensor("gt_occ_img_is_valid")[None],
        gt_future_boxes=[[boxes_of(plain[f"gt_future_boxes/{i}"]) for i in range(7)]],
        sdc_planning=tensor("sdc_planning"), sdc_planning_mask=tensor("sdc_planning_mask"), command=tensor("command"),
    )  # fmt: skip
    return arguments, plain


TRACK = ("img", "gt_bboxes_3d", "gt_labels_3d", "gt_past_traj", "gt_past_traj_mask", "gt_inds", "gt_sdc_bbox", "gt_sdc_label",
         "l2g_t", "l2g_r_mat", "img_metas", "timestamp")  # fmt: skip


def grow_truth(model, frames: int, arguments_of, classes: tuple) -> Truth:
    """Ground truth beside what the model predicts, so that objects keep their tracks, miss a frame, and are born.

    arguments_of: what the model's training takes, of a truth. classes: of the objects that are born, in turn."""
    model, truth = model.train(), Truth()
    for t in range(frames):  # what a frame predicts depends on the truth of those before it alone
        seen: dict = {}
        watch_matches(model, seen)
        arguments = arguments_of(truth)
        with torch.no_grad():
            model.forward_track_train(*(arguments[name][:, : t + 1] if name == "img" else arguments[name] for name in TRACK))
        model = model.train()
        codes, ids = seen[f"f{t}/pred"], seen[f"f{t}/ids_before"]
        truth.clear(t)
        labels = {int(i): int(c) for ids_t, labels_t in zip(truth.ids, truth.labels) for i, c in zip(ids_t, labels_t)}
        for row in np.flatnonzero(ids >= 0):
            # The third object is not there in the second frame, and there again in the third
            if not (t == 1 and ids[row] == 3):
                truth.add(t, codes[row], int(ids[row]), labels[int(ids[row])])
        taken = truth.boxes[t][:, :2]
        fresh = codes[:900][[bool(np.all(np.linalg.norm(taken - c[:2], axis=1) > 6)) for c in codes[:900]]]
        born = 1 + max((int(i.max()) for i in truth.ids[:t]), default=0)
        for number, row in enumerate(pick(fresh, 9 if t == 0 else 2), born):
            truth.add(t, fresh[row], number, classes[number % len(classes)])
    return truth


def watch_matches(model, found: dict) -> None:
    """Keeps predictions, ids and matches of every frame of a clip."""
    criterion, frame = model.criterion, [0]
    original = type(criterion).match_for_single_frame

    def match(outputs, layer, if_step=False):
        at, tracks = f"f{frame[0]}/", outputs["track_instances"]
        if if_step:
            found[at + "pred"], found[at + "ids_before"] = array(tracks.pred_boxes), array(tracks.obj_idxes)
        tracks, matched = original(criterion, outputs, layer, if_step=if_step)
        found[f"{at}matched_{layer}"] = array(torch.as_tensor(matched)).astype(np.int16)
        if if_step:
            found[at + "ids"], found[at + "iou"] = array(tracks.obj_idxes).astype(np.int16), array(tracks.iou)
            frame[0] += 1
        return tracks, matched

    criterion.match_for_single_frame = match


def learn(model, losses: dict, chosen: tuple) -> dict:
    """The losses, and norms of the gradients of parameters whose names begin with one of ``chosen``."""
    sum(v for k, v in losses.items() if "loss" in k).backward()
    norms = {k: float(p.grad.norm()) for k, p in model.named_parameters() if p.grad is not None and k.startswith(chosen)}
    return {"loss_names": np.array(list(losses)), "losses": np.array([float(v) for v in losses.values()]),
            "grad_names": np.array(list(norms)), "grad_norms": np.array(list(norms.values()), np.float32)}  # fmt: skip


def record_clip(cfg, truth: Truth) -> dict:
    """One training iteration: losses, matches, some gradients."""
    from projects.mmdet3d_plugin.uniad.dense_heads import motion_head as motion_module

    model = build(cfg, "train").train()
    found: dict = {}
    watch_matches(model, found)
    smooth, plan = motion_module.nonlinear_smoother, model.planning_head.forward

    def smoother(*args):
        out = smooth(*args)
        found.update({f"smoother/in{i}": array(x) for i, x in enumerate(args)})
        found["smoother/out"], found["smoother/mask"] = array(out[0]), array(out[1])
        return out

    def planning(*args, **kwargs):
        out = plan(*args, **kwargs)
        found["planning_sdc_traj"] = array(out["sdc_traj"])
        return out

    motion_module.nonlinear_smoother, model.planning_head.forward = smoother, planning
    arguments, plain = clip_arguments(truth, drive(FRAMES), cameras())
    losses = model.forward_train(**arguments)
    motion_module.nonlinear_smoother = smooth
    chosen = ("pts_bbox_head.reg_branches.", "motion_head.agent_level", "motion_head.scene_level", "motion_head.traj_reg",
              "planning_head.reg_branch", "query_embedding")  # fmt: skip
    found.update(learn(model, losses, chosen))
    found.update({f"in/{k}": v for k, v in plain.items()})
    found["in/lidar2img"], found["in/image_seed"] = cameras(), np.array(TRAIN_SEED)
    return {k: v for k, v in found.items() if not k.endswith(("/pred", "/ids_before"))}


def record_ops() -> dict:
    """What v2.0's functions make of its own boxes, and the shift of the BEV at four headings."""
    from mmdet3d.core.bbox import LiDARInstance3DBoxes
    from projects.mmdet3d_plugin.core.bbox.util import normalize_bbox
    from projects.mmdet3d_plugin.models.utils.functional import anchor_coordinate_transform, trajectory_coordinate_transform
    from projects.mmdet3d_plugin.uniad.modules.transformer import PerceptionTransformer

    rng = np.random.RandomState(41)
    n = 12
    tensor = np.concatenate([
        rng.uniform(-40, 40, (n, 2)), rng.uniform(-3, 1, (n, 1)), rng.uniform([2, 1, 1], [8, 3, 3], (n, 3)),
        np.linspace(-3.1, 3.1, n)[:, None], rng.normal(size=(n, 2)),
    ], 1).astype(np.float32)  # fmt: skip
    boxes = LiDARInstance3DBoxes(torch.from_numpy(tensor), box_dim=9)
    anchors = torch.from_numpy(rng.normal(size=(2, 3, 12, 2)).astype(np.float32))
    trajectory = torch.from_numpy(rng.normal(size=(1, n, 2, 3, 12, 2)).astype(np.float32))
    result = [(boxes, None, None, None, None)]
    kept = {
        "box/tensor": tensor, "box/code": array(normalize_bbox(boxes.tensor, PC_RANGE)), "box/corners": array(boxes.corners),
        "box/nearest_bev": array(boxes.nearest_bev), "anchors": array(anchors), "trajectory": array(trajectory),
        "anchors_turned": array(anchor_coordinate_transform(anchors, result, with_translation_transform=False)),
        "trajectory_turned": array(trajectory_coordinate_transform(trajectory, result, with_translation_transform=False)),
    }  # fmt: skip

    from projects.mmdet3d_plugin.uniad.dense_heads.motion_head_plugin.motion_utils import nonlinear_smoother

    heading = np.array([-2.8, -1.0, 0.3, 1.2, 2.2, 3.0])
    objects = np.zeros((6, 9), np.float32)
    objects[:, :2], objects[:, 3:6], objects[:, 6] = rng.uniform(-8, 8, (6, 2)), [4.5, 1.9, 1.6], heading
    objects[:, 7], objects[:, 8] = 6 * np.cos(heading), 6 * np.sin(heading)
    seen = objects + (rng.normal(size=(6, 9)) * [0.3, 0.3, 0, 0, 0, 0, 0.05, 0.3, 0.3]).astype(np.float32)
    future, known = straight_future(objects, np.full(6, 6.0)), np.ones((6, 12, 2))
    known[1, 8:] = 0.0
    smooth, _ = nonlinear_smoother(*(torch.from_numpy(x) for x in (objects, future, known, seen)))
    kept.update({"smoother/gt": objects, "smoother/boxes": seen, "smoother/traj": future, "smoother/mask": known,
                 "smoother/out": array(smooth)})  # fmt: skip

    class Encoder(torch.nn.Module):
        def forward(self, *args, shift, **kwargs):
            return shift

    transformer = PerceptionTransformer.__new__(PerceptionTransformer)
    torch.nn.Module.__init__(transformer)
    transformer.encoder, transformer.use_shift, transformer.use_can_bus = Encoder(), True, True
    transformer.use_cams_embeds, transformer.rotate_prev_bev, transformer.fp16_enabled = False, True, False
    transformer.level_embeds, transformer.can_bus_mlp = torch.nn.Parameter(torch.zeros(1, 4)), torch.nn.Linear(18, 4)
    shifts = {"can_bus": [], "l2g_r_mat": [], "shift": []}
    for angle in (0.0, np.pi / 2, 2.5, -1.1):
        bus = np.zeros(18)
        bus[:3], bus[-2] = [0.4, -0.9, 0.02], angle
        matrix = turn(-np.pi / 2).T @ turn(angle).T
        out = transformer.get_bev_features(
            [torch.zeros(1, 1, 4, 1, 1)], torch.zeros(4, 4), 2, 2, 102.4, 102.4, bev_pos=torch.zeros(1, 4, 2, 2),
            img_metas=[dict(can_bus=bus, l2g_r_mat=matrix)],
        )  # fmt: skip
        for name, value in (("can_bus", bus), ("l2g_r_mat", matrix), ("shift", array(out)[0])):
            shifts[name].append(value)
    return {**kept, **{f"shift/{k}": np.array(v) for k, v in shifts.items()}}


# Files -------------------------------------------------------------------------------------------------------------------

THINNED = {"bev_embed": 61, "dec/all_cls_scores": 61, "dec/all_bbox_preds": 61, "dec/last_ref_points": 7,
           "mot/all_traj_preds": 11, "occ/ins_occ_logits": 61}  # fmt: skip


def small(arrays: dict, rules: dict) -> dict:
    """Thinned arrays in the smallest types, beside the rules: whole numbers and flags lose nothing."""
    meta, out = {}, {}
    for name, value in arrays.items():
        short = name[3:] if name[:2] in ("f0", "f1") else name
        if short in rules:
            value, meta[name] = value.reshape(-1)[:: rules[short]], f"flattened [::{rules[short]}]"
        elif short == "enc/ref_2d":
            value, meta[name] = value[:, ::25], "subsampled [::25] along dim 1"
        if value.dtype == np.int64:
            value = value.astype(np.int16)
        out[name] = value
    return {"meta": np.array(json.dumps(meta)), **out}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    checkout, out = args.checkout.resolve(), args.out.resolve()
    stand_in()
    sys.path.insert(0, str(checkout))
    import projects.mmdet3d_plugin  # noqa: F401

    anchors = np.load(TESTS / "golden" / "occ.npz")["anchors"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "anchors.pkl"
        file.write_bytes(pickle.dumps({"anchors_all": [group.astype(np.float64) for group in anchors]}))
        cfg = small_config(checkout, file)
        out.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(out / "ops.npz", **record_ops())
        np.savez_compressed(out / "frames.npz", **small(record_frames(cfg), THINNED))
        classes = (0, 0, 1, 8, 0, 3, 6, 0, 5)
        truth = grow_truth(build(cfg, "train"), FRAMES, lambda truth: clip_arguments(truth, drive(FRAMES), cameras())[0], classes)
        np.savez_compressed(out / "clip.npz", **small(record_clip(cfg, truth), {}))
        text = json.dumps(full_size_keys(checkout, file), indent=1)
        (out / "state_dict.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
