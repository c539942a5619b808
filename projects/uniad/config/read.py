"""Upstream's config schema, key by key: the one adapter from config dicts to specs.

Every key is either read, or named here as one that only the upstream stack reads, or an error. Values that must agree
in several places (BEV size, query counts, ranges) are compared, because each is restated in a config and a forgotten one
would otherwise train a model nobody meant.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from uniad.config import spec as S
from uniad.config.file import ConfigError, load_config
from uniad.config.node import Node
from uniad.config.presets import FIXED, PRESETS
from uniad.config.read_data import read_data
from uniad.config.read_detector import is_detector, read_detector, read_detector_data
from uniad.config.read_heads import read_grid, read_map, read_motion, read_occ, read_plan
from uniad.config.read_track import read_backbone, read_bev, read_decoder, read_neck, read_track, read_track_loss
from uniad.config.variants import variant_of_name

# Key of a CompatSpec -> the generations that have a way of their own
_COMPAT_KEYS: dict[str, tuple[str, ...]] = {f.name: f.metadata.get("also", ()) for f in fields(S.CompatSpec)}

# A config's word for one key -> the spec's. Earlier configs say "documented" for upstream.
_COMPAT: dict[str, S.CompatChoice] = {"upstream": S.UPSTREAM, "fixed": "fixed", S.UPSTREAM: S.UPSTREAM}


def _preset(node: Node, key: str) -> dict[str, Any]:
    """Every key of ``CompatSpec`` as the preset that ``key`` names has it. "upstream" where nothing is named."""
    name = node.choice(key, (*PRESETS, FIXED), "upstream")
    return dict.fromkeys(_COMPAT_KEYS, FIXED) if name == FIXED else {**dict.fromkeys(_COMPAT_KEYS, S.UPSTREAM), **PRESETS[name]}


def _compat(native: Node) -> S.CompatSpec:
    """``compat`` of a config: a preset's name, or a dict of single keys, beside which ``preset`` says what the others are."""
    if isinstance(native.get("compat", "upstream"), str):
        return S.CompatSpec(**_preset(native, "compat"))
    with native.sub("compat") as n:
        values = _preset(n, "preset")
        for name, also in _COMPAT_KEYS.items():
            words = {**_COMPAT, **dict.fromkeys(also)}
            if name in n.data:
                word = n.choice(name, words)
                values[name] = words[word] or word
        return S.CompatSpec(**values)


def _model(cfg: Node, native: Node, compat: S.CompatSpec) -> S.ModelSpec:
    with cfg.sub("model") as n:
        n.type("UniAD")
        n.only(video_test_mode=True, upsample_if_tiny=False)
        # torchvision's backbone is overwritten by load_from; the assigner of train_cfg is built and never used
        n.skip("pretrained", "train_cfg", "test_cfg", "upsample_scale_factor", "vehicle_id_list")
        pc_range = n.numbers("pc_range", 6)
        dims = n.integer("embed_dims", 256)
        backbone = read_backbone(n)
        neck = read_neck(n, backbone, dims)
        with n.sub("pts_bbox_head") as head:
            head.type("BEVFormerTrackHead")
            head.only(with_box_refine=True, as_two_stage=False, sync_cls_avg_factor=True)
            head.must_equal("in_channels", dims, "model.embed_dims")
            head.skip("loss_cls", "loss_bbox", "loss_iou")
            bev = read_bev(head, native, pc_range, dims, neck.num_outs, compat)
            track = read_track(n, head, native, pc_range, dims)
            decoder = read_decoder(head, pc_range, dims, track.num_classes, compat)
        grid = read_grid(n, bev)
        map_spec, map_loss = read_map(n, pc_range, dims, grid)
        freeze_bn = n.boolean("freeze_bn", False)
        if freeze_bn and not backbone.norm_eval:
            raise n.fail("freeze_bn", "native keeps norms as they are by model.img_backbone.norm_eval=True, which is False")
        stage2 = {"motion_head", "occ_head", "planning_head"}
        present = stage2 & n.data.keys()
        if present and present != stage2:
            raise ConfigError(f"{n.file}: model has {', '.join(sorted(present))} without {', '.join(stage2 - present)}")
        return S.ModelSpec(
            backbone=backbone, neck=neck, bev=bev, decoder=decoder, track=track, map=map_spec,
            track_loss=read_track_loss(n, native, pc_range, track.num_classes, compat),
            map_loss=map_loss,
            freeze=S.FreezeSpec(
                img_backbone=n.boolean("freeze_img_backbone", False),
                img_neck=n.boolean("freeze_img_neck", False),
                bn=freeze_bn,
                bev_encoder=n.boolean("freeze_bev_encoder", False),
                stage1=native.boolean("freeze_stage1", False),
            ),
            use_grid_mask=n.boolean("use_grid_mask", False),
            queue_length=n.integer("queue_length", 3),
            compat=compat,
            bev_upsample=grid.height // bev.height,
            prev_frame_num=n.integer("prev_frame_num", 0, low=0, high=S.MOST_FRAMES_BACK),
            stage2=S.Stage2Spec(
                motion=read_motion(n, pc_range, grid, decoder, compat),
                occ=read_occ(n, native, grid, compat),
                plan=read_plan(n, native, grid),
                agent_capacity=native.integer("agent_capacity", min(128, track.capacity)),
            )
            if present
            else None,
        )  # fmt: skip


def read_train(cfg: Node, native: Node) -> S.TrainSpec:
    with cfg.sub("optimizer") as n:
        n.type("AdamW")
        lr, decay, mult = n.number("lr", low=0), n.number("weight_decay", 0.01, low=0), 1.0
        if "paramwise_cfg" in n.data:
            with n.sub("paramwise_cfg") as p, p.sub("custom_keys") as keys:
                if "img_backbone" in keys.data:
                    with keys.sub("img_backbone") as backbone:
                        mult = backbone.number("lr_mult", 1.0, low=0)
                keys.skip("img_backbone")
    with cfg.sub("optimizer_config") as n, n.sub("grad_clip") as clip:
        clip.only(norm_type=2)
        norm = clip.number("max_norm", low=0)
    with cfg.sub("lr_config") as n:
        n.only(policy="CosineAnnealing", warmup="linear")
        by_epoch = n.boolean("by_epoch", True)
        warmup_iters, warmup_ratio = n.integer("warmup_iters", low=0), n.number("warmup_ratio")
        min_ratio = n.number("min_lr_ratio")
    epochs = cfg.integer("total_epochs")
    with cfg.sub("runner") as n:
        n.type("EpochBasedRunner")
        n.must_equal("max_epochs", epochs, "total_epochs")
    with cfg.sub("log_config") as n:
        n.skip("hooks")
        interval = n.integer("interval", 10)
    with cfg.sub("checkpoint_config") as n:
        n.skip("max_keep_ckpts", "by_epoch")
        keep = n.integer("interval", 1)
    load_from = cfg.get("load_from", None)
    if load_from is not None and not isinstance(load_from, str):
        raise cfg.fail("load_from", "it must be a file name or None")
    return S.TrainSpec(
        lr=lr, weight_decay=decay, backbone_lr_mult=mult, clip_norm=norm, warmup_iters=warmup_iters,
        warmup_ratio=warmup_ratio, min_lr_ratio=min_ratio, total_epochs=epochs, log_interval=interval,
        checkpoint_interval=keep, load_from=load_from, lr_by_epoch=by_epoch,
        regularise=native.boolean("regularise", True),
        clip_by_head=native.boolean("clip_by_head", False),
        shared_history=native.boolean("shared_history", False),
    )  # fmt: skip


def _check_image_patch(native: Node, model: S.ModelSpec, data: S.DataSpec) -> None:
    """Weights of ``plan_image_patch`` are for cells of one number: another one would end in the middle of a forward pass."""
    patch = model.stage2.plan.image_patch if model.stage2 is not None else None
    stride = 4 * 2 ** model.backbone.out_indices[model.neck.start_level]
    cells = -(-data.image.height // stride), -(-data.image.width // stride)
    if patch not in (None, cells):
        size = f"{data.image.width}x{data.image.height}"
        raise native.fail("plan_image_patch", f"the finest features of images of {size} have (rows, columns) {cells}")


def load_spec(path: str | Path, overrides: Iterable[str] = ()) -> S.Spec:
    """``load_config`` and ``from_config`` in one. overrides: ``key.sub=value`` texts."""
    return from_config(load_config(path, overrides), path)


def from_config(cfg: dict[str, Any], path: str | Path = "config") -> S.Spec:
    """Turns a config dict of upstream's schema into specs. path: where it came from, for messages and the name.

    A key or value that native does not support is a ``ConfigError`` that names the file, the key and what is supported.
    """
    path = str(path)
    top = Node(cfg, "", path)  # not a context manager: a config's own variables are top-level keys too
    for key, why in {
        "fp16": "precision is an argument of training: --precision fp16",
        "custom_hooks": "native has no hooks",
        "resume_from": "resuming is an argument of training: --resume auto",
    }.items():
        if top.data.get(key):
            raise ConfigError(f"{path}: native does not support {key}; {why}")
    native_dict = top.get("native", {})
    with Node(native_dict, "native", path) as native:
        compat = _compat(native)
        if is_detector(top):
            model = read_detector(top, native, compat)
            data = read_detector_data(top, native, model, compat)
        else:
            model = _model(top, native, compat)
            data = read_data(top, native, model, compat)
            _check_image_patch(native, model, data)
        train = read_train(top, native)
        scratch = native.boolean("from_scratch", False)
    stem = Path(path).stem
    stage = 0 if is_detector(top) else 1 if model.stage2 is None else 2
    result = S.Spec(stem, path, variant_of_name(stem), stage, model, data, train)
    return S.from_scratch(result) if scratch else result
