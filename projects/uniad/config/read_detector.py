"""Stage 0's schema, upstream's BEVFormer: a detector on a temporal queue, and its data."""

from __future__ import annotations

from typing import Any, cast

from uniad.config import spec as S
from uniad.config.file import ConfigError
from uniad.config.layers import focal_loss, weight
from uniad.config.node import Node
from uniad.config.read_data import image_of, loading_of, read_steps
from uniad.config.read_track import read_backbone, read_bev, read_coder, read_decoder, read_neck

CODE_WEIGHTS = (1.0,) * 8 + (0.2, 0.2)  # of box10; velocity counts a fifth


def is_detector(cfg: Node) -> bool:
    """Whether a config is of stage 0."""
    model = cfg.data.get("model")
    return isinstance(model, dict) and model.get("type") == "BEVFormer"


def read_detector(cfg: Node, native: Node, compat: S.CompatSpec) -> S.ModelSpec:
    """The model of stage 0. What only tracking and map need is left at what it is without them; the map head is None."""
    queue_length = cfg.sub("data").sub("train").integer("queue_length")
    with cfg.sub("model") as n:
        n.type("BEVFormer")
        n.only(video_test_mode=True)
        n.skip("pretrained", "test_cfg")
        with n.sub("pts_bbox_head") as head:
            head.type("BEVFormerHead")
            head.only(with_box_refine=True, as_two_stage=False, sync_cls_avg_factor=True)
            dims, queries, classes = head.integer("in_channels"), head.integer("num_query"), head.integer("num_classes")
            pc_range, post_range, max_num = read_coder(head, classes)
            backbone = read_backbone(n)
            neck = read_neck(n, backbone, dims)
            bev = read_bev(head, native, pc_range, dims, neck.num_outs, compat)
            decoder = read_decoder(head, pc_range, dims, classes, compat)
            focal, weight_box = focal_loss(head.sub("loss_cls")), weight(head.sub("loss_bbox"), "L1Loss")
            if weight(head.sub("loss_iou"), "GIoULoss"):
                raise head.fail("loss_iou", "native has no IoU loss of rotated boxes; its loss_weight must be 0")
            code_weights = head.numbers("code_weights", 10, CODE_WEIGHTS)
        with n.sub("train_cfg") as t, t.sub("pts") as pts:
            pts.skip("grid_size", "voxel_size", "point_cloud_range", "out_size_factor")
            with pts.sub("assigner") as a:
                a.type("HungarianAssigner3D")
                a.must_equal("pc_range", list(pc_range), "model.pts_bbox_head.bbox_coder.pc_range")
                a.skip("iou_cost")
                cost_cls = weight(a.sub("cls_cost"), "FocalLossCost", key="weight")
                cost_box = weight(a.sub("reg_cost"), "BBox3DL1Cost", key="weight")
        return S.ModelSpec(
            backbone=backbone,
            neck=neck,
            bev=bev,
            decoder=decoder,
            track=S.TrackSpec(
                num_query=queries, num_classes=classes, embed_dims=dims, pc_range=pc_range, post_center_range=post_range,
                capacity=0, score_thresh=0.0, filter_score_thresh=0.0, gt_iou_threshold=0.0, max_num=max_num,
            ),  # fmt: skip
            # A detector has no map head. Nothing that takes one asks for it, so the type stays what it is for all others.
            map=cast(S.MapSpec, None),
            map_loss=cast(S.MapLossSpec, None),
            track_loss=S.TrackLossSpec(
                num_classes=classes, code_weights=code_weights, pc_range=pc_range, cost_cls=cost_cls, cost_box=cost_box,
                focal_gamma=focal.gamma, focal_alpha=focal.alpha, weight_cls=focal.weight, weight_box=weight_box,
            ),  # fmt: skip
            freeze=S.FreezeSpec(img_backbone=False, img_neck=False, bn=False),
            use_grid_mask=n.boolean("use_grid_mask", False),
            queue_length=queue_length,
            compat=compat,
        )  # fmt: skip


def read_detector_data(cfg: Node, native: Node, model: S.ModelSpec, compat: S.CompatSpec) -> S.DataSpec:
    """Stage 0's data: images, poses and boxes. What only later stages' labels need is as small as it goes."""
    with cfg.sub("data") as data:
        data.skip("shuffler_sampler", "nonshuffler_sampler")
        shared: dict[str, Any] = {}
        steps, ann_files, use_valid_flag = {}, {}, False
        for key in ("train", "val", "test"):
            with data.sub(key) as n:
                n.type("CustomNuScenesDataset")
                n.skip("file_client_args", "modality", "box_type_3d", "samples_per_gpu", "test_mode")
                n.must_equal("bev_size", (model.bev.height, model.bev.width), "the BEV size of model.pts_bbox_head")
                classes = tuple(n.get("classes"))
                if len(classes) != model.track.num_classes:
                    raise n.fail("classes", f"model.pts_bbox_head.num_classes is {model.track.num_classes}")
                for name, value in (("data_root", n.text("data_root")), ("class_names", classes)):
                    if shared.setdefault(name, value) != value:
                        raise ConfigError(f"{n.file}: {name} is {value!r} in data.{key} but {shared[name]!r} in data.train")
                steps[key] = read_steps(n.subs("pipeline"), classes, model.bev.pc_range)
                ann_files[key] = n.text("ann_file")
                if key == "train":
                    n.skip("queue_length")
                    use_valid_flag = n.boolean("use_valid_flag", False)
        x0, y0, _, x1, y1, _ = model.bev.pc_range
        return S.DataSpec(
            **shared,
            ann_file_train=ann_files["train"],
            ann_file_val=ann_files["test"],
            image=image_of(steps["train"], steps["test"], data),
            pc_range=model.bev.pc_range,
            patch_size=(y1 - y0, x1 - x0),
            canvas_hw=(1, 1),
            bev_hw=(model.bev.height, model.bev.width),
            queue_length=model.queue_length,
            **loading_of(data, native),
            use_valid_flag=use_valid_flag,
            predict_steps=1,
            past_steps=model.decoder.past_steps,
            fut_steps=model.decoder.fut_steps,
            planning_steps=1,
            use_nonlinear_optimizer=False,
            occ_receptive_field=3,
            occ_n_future=4,
            occ_xbound=(-50.0, 50.0, 0.5),
            occ_ybound=(-50.0, 50.0, 0.5),
            eval_mod=("det",),
            max_lanes=1,
            compat=compat,
        )
