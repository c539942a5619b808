"""The documented config schema, key by key: the one adapter from config dicts to specs.

Every key is either read, or named here as one that only the documented stack reads, or an error. Values that must agree
in several places (BEV size, query counts, ranges) are compared, because each is restated in a config and a forgotten one
would otherwise train a model nobody meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from types import TracebackType
from typing import Any

from uniad import spec as S
from uniad.configfile import ConfigError, nearest

IMAGE_WIDTH, IMAGE_HEIGHT = 1600, 900  # of every nuScenes camera
_REQUIRED: Any = object()


class Node:
    """A dict of the config that remembers which keys were read. As a context manager it refuses what was not."""

    def __init__(self, data: Any, path: str, file: str):
        self.path, self.file = path, file
        if not isinstance(data, dict):
            raise ConfigError(f"{file}: {path} is {data!r}, it must be a dict")
        self.data = data
        self.read: set[str] = set()

    def __enter__(self) -> Node:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            for key in self.data:
                if key not in self.read:
                    hint = nearest(key, self.read) or f"; supported: {', '.join(sorted(self.read))}"
                    raise ConfigError(f"{self.file}: native does not support the key {self.at(key)}{hint}")

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def fail(self, key: str, why: str) -> ConfigError:
        return ConfigError(f"{self.file}: {self.at(key)} is {self.data.get(key)!r}; {why}")

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        self.read.add(key)
        if key in self.data:
            return self.data[key]
        if default is _REQUIRED:
            raise ConfigError(f"{self.file}: {self.at(key)} is missing{nearest(key, self.data)}")
        return default

    def number(self, key: str, default: Any = _REQUIRED, low: float | None = None) -> float:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.fail(key, "it must be a number")
        if low is not None and value < low:
            raise self.fail(key, f"it must be at least {low}")
        return float(value)

    def whole(self, key: str, default: Any = _REQUIRED, low: int = 1) -> int:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(key, "it must be a whole number")
        if value < low:
            raise self.fail(key, f"it must be at least {low}")
        return value

    def flag(self, key: str, default: Any = _REQUIRED) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "it must be True or False")
        return value

    def text(self, key: str, default: Any = _REQUIRED) -> str:
        value = self.get(key, default)
        if not isinstance(value, str):
            raise self.fail(key, "it must be a string")
        return value

    def numbers(self, key: str, count: int | None = None, default: Any = _REQUIRED) -> tuple[float, ...]:
        value = self.get(key, default)
        good = isinstance(value, (list, tuple)) and all(
            isinstance(v, (int, float)) and not isinstance(v, bool) for v in value
        )
        if not good or (count is not None and len(value) != count):
            raise self.fail(key, f"it must be a list of {count if count is not None else 'some'} numbers")
        return tuple(float(v) for v in value)

    def wholes(self, key: str, count: int | None = None, default: Any = _REQUIRED) -> tuple[int, ...]:
        value = self.numbers(key, count, default)
        if any(v != int(v) for v in value):
            raise self.fail(key, "it must be a list of whole numbers")
        return tuple(int(v) for v in value)

    def choice(self, key: str, allowed: Iterable[Any], default: Any = _REQUIRED) -> Any:
        value = self.get(key, default)
        allowed = list(allowed)
        if value not in allowed:
            names = ", ".join(repr(a) for a in allowed)
            raise self.fail(key, f"native supports {names}{nearest(value, allowed) if isinstance(value, str) else ''}")
        return value

    def fixed(self, **values: Any) -> None:
        """Keys for which native has one way; an absent key means that way."""
        for key, value in values.items():
            got = self.get(key, value)
            if isinstance(got, list):
                got = tuple(got)
            if got != value:
                raise self.fail(key, f"native supports {value!r} only")

    def same(self, key: str, value: Any, other: str) -> None:
        """A key that restates a value from elsewhere; absent is as good as equal."""
        got = self.get(key, value)
        if (tuple(got) if isinstance(got, (list, tuple)) else got) != (tuple(value) if isinstance(value, list) else value):
            raise self.fail(key, f"it must equal {other}, which is {value!r}")

    def type(self, *names: str) -> str:
        """The module's type. The documented export names its modules X + 'TRTP'; they hold the same weights."""
        value = self.text("type")
        for name in names:
            if re.fullmatch(f"{name}(UniAD)?(TRTP?)?", value):
                return name
        raise self.fail("type", f"native supports {', '.join(names)}{nearest(value, names)}")

    def skip(self, *keys: str) -> None:
        """Keys that only the documented stack reads."""
        self.read.update(keys)

    def sub(self, key: str) -> Node:
        return Node(self.get(key), self.at(key), self.file)

    def subs(self, key: str, count: int | None = None) -> list[Node]:
        value = self.get(key)
        if not isinstance(value, (list, tuple)) or (count is not None and len(value) != count):
            raise self.fail(key, f"it must be a list of {count if count is not None else 'some'} dicts")
        return [Node(v, f"{self.at(key)}.{i}", self.file) for i, v in enumerate(value)]


BEV_ORDER = ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm")
SELF_ORDER = ("self_attn", "norm", "ffn", "norm")
CROSS_ORDER = ("cross_attn", "norm", "ffn", "norm")


def _backbone(model: Node) -> S.BackboneSpec:
    with model.sub("img_backbone") as n:
        n.type("ResNet")
        depth = n.choice("depth", (18, 50, 101))
        stages_built = n.choice("num_stages", (3, 4), 4)
        # The documented class wants these spelt out when a stage is left off.
        n.fixed(strides=(1, 2, 2, 2)[:stages_built], dilations=(1, 1, 1, 1)[:stages_built])
        n.skip("init_cfg", "with_cp")
        with n.sub("norm_cfg") as norm:
            norm.choice("type", ("BN", "BN2d"))
            norm_requires_grad = norm.flag("requires_grad", True)
        dcn = n.get("dcn", None)
        stages = tuple(n.get("stage_with_dcn", (False,) * 4))
        groups = 1
        if dcn is None:
            if any(stages):
                raise n.fail("stage_with_dcn", "it needs dcn=dict(type='DCNv2', ...)")
        else:
            if depth == 18:
                raise n.fail("dcn", "native has deformable convolution in depth 50 and 101 only")
            with n.sub("dcn") as d:
                d.type("DCNv2")
                groups = d.whole("deform_groups", 1)
                d.fixed(fallback_on_stride=False)
        if len(stages) != 4 or not all(isinstance(s, bool) for s in stages):
            raise n.fail("stage_with_dcn", "it must be four times True or False")
        if max(n.wholes("out_indices")) >= stages_built:
            raise n.fail("out_indices", f"num_stages is {stages_built}, counted from 0")
        return S.BackboneSpec(
            depth=depth,
            style=n.choice("style", ("pytorch", "caffe"), "pytorch"),
            out_indices=n.wholes("out_indices"),
            frozen_stages=n.whole("frozen_stages", -1, low=-1),
            norm_eval=n.flag("norm_eval", True),
            norm_requires_grad=norm_requires_grad,
            stage_with_dcn=stages,
            dcn_groups=groups,
            num_stages=stages_built,
        )


def _neck(model: Node, backbone: S.BackboneSpec, dims: int) -> S.NeckSpec:
    with model.sub("img_neck") as n:
        n.type("FPN")
        n.same("out_channels", dims, "model.embed_dims")
        width = 1 if backbone.depth == 18 else 4
        expected = tuple(64 * width * 2**i for i in backbone.out_indices)
        if n.wholes("in_channels") != expected:
            raise n.fail("in_channels", f"the backbone's out_indices give {list(expected)}")
        extra = n.get("add_extra_convs", None) or None
        if extra not in (None, "on_output"):
            raise n.fail("add_extra_convs", "native supports 'on_output' or none")
        return S.NeckSpec(
            in_channels=expected,
            out_channels=dims,
            num_outs=n.whole("num_outs"),
            start_level=n.whole("start_level", 0, low=0),
            add_extra_convs=extra,
            relu_before_extra_convs=n.flag("relu_before_extra_convs", False),
        )


def _mha(n: Node, dims: int) -> tuple[int, float]:
    """Plain attention: (heads, dropout)."""
    with n:
        n.type("MultiheadAttention")
        n.same("embed_dims", dims, "model.embed_dims")
        return n.whole("num_heads", 8), n.number("dropout", 0.1)


def _deformable(n: Node, name: str, dims: int, levels: int | None) -> tuple[int, int, int, float]:
    """Deformable attention: (heads, points, levels, dropout)."""
    with n:
        n.type(name)
        n.same("embed_dims", dims, "model.embed_dims")
        if levels is not None:
            n.same("num_levels", levels, "the number of levels that it is fed")
        points = n.whole("num_points", 8 if name == "MSDeformableAttention3D" else 4)
        return n.whole("num_heads", 8), points, n.whole("num_levels", levels or 4), n.number("dropout", 0.1)


def _bev(model: Node, head: Node, pc_range: S.Range6, dims: int, levels: int) -> S.BevSpec:
    height, width = head.whole("bev_h"), head.whole("bev_w")
    with head.sub("positional_encoding") as n:
        n.type("LearnedPositionalEncoding")
        n.same("num_feats", dims // 2, "half of model.embed_dims")
        n.same("row_num_embed", height, "model.pts_bbox_head.bev_h")
        n.same("col_num_embed", width, "model.pts_bbox_head.bev_w")
    transformer = head.sub("transformer")
    transformer.skip("decoder")
    with transformer as t:
        t.type("PerceptionTransformer")
        t.same("embed_dims", dims, "model.embed_dims")
        t.fixed(can_bus_norm=True, use_cams_embeds=True, num_feature_levels=4)
        with t.sub("encoder") as n:
            n.type("BEVFormerEncoder")
            n.same("pc_range", list(pc_range), "model.pc_range")
            n.fixed(return_intermediate=False)
            with n.sub("transformerlayers") as layer:
                layer.type("BEVFormerLayer")
                layer.fixed(operation_order=BEV_ORDER)
                temporal, spatial = layer.subs("attn_cfgs", 2)
                heads, tsa_points, _, dropout = _deformable(temporal, "TemporalSelfAttention", dims, 1)
                with spatial:
                    spatial.type("SpatialCrossAttention")
                    spatial.same("pc_range", list(pc_range), "model.pc_range")
                    spatial.same("embed_dims", dims, "model.embed_dims")
                    spatial.same("num_cams", t.whole("num_cams", 6), "model.pts_bbox_head.transformer.num_cams")
                    spatial.same("dropout", dropout, "the temporal attention's dropout")
                    inner = spatial.sub("deformable_attention")
                    inner_heads, sca_points, _, _ = _deformable(inner, "MSDeformableAttention3D", dims, levels)
                if inner_heads != heads:
                    raise inner.fail("num_heads", f"it must equal the temporal attention's, which is {heads}")
                return S.BevSpec(
                    height=height,
                    width=width,
                    pc_range=pc_range,
                    embed_dims=dims,
                    num_layers=n.whole("num_layers"),
                    num_levels=levels,
                    ffn_dims=layer.whole("feedforward_channels"),
                    num_heads=heads,
                    num_cams=t.whole("num_cams", 6),
                    points_in_pillar=n.whole("num_points_in_pillar", 4),
                    sca_points=sca_points,
                    tsa_points=tsa_points,
                    dropout=dropout,
                    ffn_dropout=layer.number("ffn_dropout", 0.1),
                    rotate_prev_bev=t.flag("rotate_prev_bev", True),
                    use_shift=t.flag("use_shift", True),
                    use_can_bus=t.flag("use_can_bus", True),
                    rotate_center=t.wholes("rotate_center", 2, (100, 100)),
                )


def _decoder(head: Node, pc_range: S.Range6, dims: int, classes: int) -> S.DecoderSpec:
    with head.sub("transformer").sub("decoder") as n:
        n.type("DetectionTransformerDecoder")
        n.fixed(return_intermediate=True)
        with n.sub("transformerlayers") as layer:
            layer.type("DetrTransformerDecoderLayer")
            layer.fixed(operation_order=BEV_ORDER)
            attention, deformable = layer.subs("attn_cfgs", 2)
            heads, dropout = _mha(attention, dims)
            _, points, _, _ = _deformable(deformable, "CustomMSDeformableAttention", dims, 1)
            return S.DecoderSpec(
                num_layers=n.whole("num_layers"),
                embed_dims=dims,
                num_classes=classes,
                ffn_dims=layer.whole("feedforward_channels"),
                pc_range=pc_range,
                num_heads=heads,
                num_points=points,
                dropout=dropout,
                ffn_dropout=layer.number("ffn_dropout", 0.1),
                past_steps=head.whole("past_steps", 4),
                fut_steps=head.whole("fut_steps", 4),
            )


def _track(model: Node, head: Node, native: Node, pc_range: S.Range6, dims: int) -> S.TrackSpec:
    queries, classes = model.whole("num_query", 900), model.whole("num_classes", 10)
    head.same("num_query", queries, "model.num_query")
    head.same("num_classes", classes, "model.num_classes")
    with head.sub("bbox_coder") as coder:
        coder.type("NMSFreeCoder", "DETRTrack3DCoder")
        coder.same("pc_range", list(pc_range), "model.pc_range")
        coder.same("num_classes", classes, "model.num_classes")
        coder.skip("voxel_size", "score_threshold")
        post_range = coder.numbers("post_center_range", 6)
        max_num = coder.whole("max_num", 300)
    with model.sub("qim_args") as q, model.sub("mem_args") as m:
        q.fixed(qim_type="QIMBase")
        m.fixed(memory_bank_type="MemoryBank")
        return S.TrackSpec(
            num_query=queries,
            num_classes=classes,
            embed_dims=dims,
            pc_range=pc_range,
            post_center_range=post_range,  # type: ignore[arg-type]
            capacity=native.whole("track_capacity", 256),
            score_thresh=model.number("score_thresh"),
            filter_score_thresh=model.number("filter_score_thresh"),
            gt_iou_threshold=model.number("gt_iou_threshold"),
            miss_tolerance=model.whole("miss_tolerance", 5),
            max_num=max_num,
            update_query_pos=q.flag("update_query_pos"),
            merger_dropout=q.number("merger_dropout"),
            fp_ratio=q.number("fp_ratio"),
            random_drop=q.number("random_drop"),
            mem_len=m.whole("memory_bank_len"),
            mem_score_thresh=m.number("memory_bank_score_thresh"),
        )


def _focal(n: Node) -> tuple[float, float, float]:
    """(gamma, alpha, weight)"""
    with n:
        n.type("FocalLoss")
        n.fixed(use_sigmoid=True)
        return n.number("gamma", 2.0), n.number("alpha", 0.25), n.number("loss_weight", 1.0)


def _weight(n: Node, *types: str, key: str = "loss_weight") -> float:
    with n:
        n.type(*types)
        n.skip("reduction", "box_format", "iou_mode")
        return n.number(key, 1.0)


def _track_loss(model: Node, pc_range: S.Range6, classes: int) -> S.TrackLossSpec:
    with model.sub("loss_cfg") as n:
        n.type("ClipMatcher")
        n.same("num_classes", classes, "model.num_classes")
        n.fixed(weight_dict=None)
        gamma, alpha, weight_cls = _focal(n.sub("loss_cls"))
        with n.sub("assigner") as a:
            a.type("HungarianAssigner3DTrack")
            a.same("pc_range", list(pc_range), "model.pc_range")
            cost_cls = _weight(a.sub("cls_cost"), "FocalLossCost", key="weight")
            cost_box = _weight(a.sub("reg_cost"), "BBox3DL1Cost", key="weight")
        return S.TrackLossSpec(
            num_classes=classes,
            code_weights=n.numbers("code_weights", 10),
            pc_range=pc_range,
            cost_cls=cost_cls,
            cost_box=cost_box,
            focal_gamma=gamma,
            focal_alpha=alpha,
            weight_cls=weight_cls,
            weight_box=_weight(n.sub("loss_bbox"), "L1Loss"),
            # Stage 2 says nothing and means 1: that is the documented default.
            weight_past_traj=n.number("loss_past_traj_weight", 1.0),
        )


def _costs(n: Node, mask: bool) -> tuple[float, float, float, float]:
    with n:
        n.type("HungarianAssigner_multi_info" if mask else "HungarianAssigner")
        cls = _weight(n.sub("cls_cost"), "FocalLossCost", key="weight")
        box = _weight(n.sub("reg_cost"), "BBoxL1Cost", key="weight")
        iou = _weight(n.sub("iou_cost"), "IoUCost", key="weight")
        return cls, box, iou, _weight(n.sub("mask_cost"), "DiceCost", key="weight") if mask else 0.0


def _map(model: Node, pc_range: S.Range6, dims: int, bev: S.BevSpec) -> tuple[S.MapSpec, S.MapLossSpec]:
    with model.sub("seg_head") as n:
        n.type("PansegformerHead")
        n.same("bev_h", bev.height, "model.pts_bbox_head.bev_h")
        n.same("bev_w", bev.width, "model.pts_bbox_head.bev_w")
        n.same("pc_range", list(pc_range), "model.pc_range")
        n.fixed(with_box_refine=True, as_two_stage=False, sync_cls_avg_factor=True)
        n.skip("in_channels", "quality_threshold_things")  # the documented head overrides the second
        things, stuff = n.whole("num_things_classes"), n.whole("num_stuff_classes")
        n.same("num_classes", things + stuff, "num_things_classes + num_stuff_classes")
        with n.sub("positional_encoding") as p:
            p.type("SinePositionalEncoding")
            p.same("num_feats", dims // 2, "half of model.embed_dims")
            p.fixed(normalize=True, offset=-0.5)
        with n.sub("transformer") as t:
            t.type("SegDeformableTransformer")
            with t.sub("encoder") as encoder, t.sub("decoder") as decoder:
                encoder.type("DetrTransformerEncoder")
                decoder.type("DeformableDetrTransformerDecoder")
                decoder.fixed(return_intermediate=True)
                encoder_layers, decoder_layers = encoder.whole("num_layers"), decoder.whole("num_layers")
                with encoder.sub("transformerlayers") as layer:
                    layer.type("BaseTransformerLayer")
                    layer.fixed(operation_order=SELF_ORDER)
                    ffn, ffn_dropout = layer.whole("feedforward_channels"), layer.number("ffn_dropout", 0.1)
                    heads, points, levels, dropout = _deformable(
                        layer.sub("attn_cfgs"), "MultiScaleDeformableAttention", dims, None
                    )
                with decoder.sub("transformerlayers") as layer:
                    layer.type("DetrTransformerDecoderLayer")
                    layer.fixed(operation_order=BEV_ORDER)
                    layer.same("feedforward_channels", ffn, "the encoder's")
                    layer.same("ffn_dropout", ffn_dropout, "the encoder's")
                    attention, deformable = layer.subs("attn_cfgs", 2)
                    _mha(attention, dims)
                    got = _deformable(deformable, "MultiScaleDeformableAttention", dims, None)
                    if got[:3] != (heads, points, levels):
                        raise deformable.fail("num_levels", "heads, points and levels must equal the encoder's")
        masks = {}
        for key in ("thing_transformer_head", "stuff_transformer_head"):
            with n.sub(key) as h:
                h.type("SegMaskHead")
                h.same("d_model", dims, "model.embed_dims")
                h.fixed(nhead=heads)
                if h.flag("self_attn", False) != (key == "stuff_transformer_head"):
                    raise h.fail("self_attn", "native supports True for the stuff head and False for the thing head")
                masks[key] = h.whole("num_decoder_layers")
        top_k = 100
        if "test_cfg" in n.data:
            with n.sub("test_cfg") as test:
                top_k = test.whole("max_per_img", 100)
        spec = S.MapSpec(
            embed_dims=dims,
            bev_hw=(bev.height, bev.width),
            canvas_hw=n.wholes("canvas_size", 2),  # type: ignore[arg-type]
            pc_range=pc_range,
            num_query=n.whole("num_query"),
            num_things=things,
            num_stuff=stuff,
            encoder_layers=encoder_layers,
            decoder_layers=decoder_layers,
            ffn_dims=ffn,
            attn_levels=levels,
            things_mask_layers=masks["thing_transformer_head"],
            stuff_mask_layers=masks["stuff_transformer_head"],
            num_heads=heads,
            num_points=points,
            dropout=dropout,
            ffn_dropout=ffn_dropout,
            top_k=top_k,
            quality_threshold_stuff=n.number("quality_threshold_stuff", 0.25),
            overlap_threshold_things=n.number("overlap_threshold_things", 0.4),
            overlap_threshold_stuff=n.number("overlap_threshold_stuff", 0.2),
        )
        if top_k > spec.num_query * things:
            raise n.fail("test_cfg", f"it selects more than num_query x num_things_classes = {spec.num_query * things}")
        gamma, alpha, weight_cls = _focal(n.sub("loss_cls"))
        with n.sub("train_cfg") as train:
            with train.sub("sampler") as s, train.sub("sampler_with_mask") as m:
                s.type("PseudoSampler")
                m.type("PseudoSampler_segformer")
            plain = _costs(train.sub("assigner"), mask=False)
            cls, box, iou, mask = _costs(train.sub("assigner_with_mask"), mask=True)
            if plain[:3] != (cls, box, iou):
                raise train.fail("assigner", "its costs must equal those of assigner_with_mask")
        loss = S.MapLossSpec(
            num_things=things,
            num_stuff=stuff,
            cost_cls=cls,
            cost_box=box,
            cost_iou=iou,
            cost_mask=mask,
            focal_gamma=gamma,
            focal_alpha=alpha,
            weight_cls=weight_cls,
            weight_box=_weight(n.sub("loss_bbox"), "L1Loss"),
            weight_iou=_weight(n.sub("loss_iou"), "GIoULoss"),
            weight_mask=_weight(n.sub("loss_mask"), "DiceLoss"),
        )
    return spec, loss


def _motion(model: Node, pc_range: S.Range6, bev: S.BevSpec, decoder: S.DecoderSpec) -> S.MotionSpec:
    with model.sub("motion_head") as n:
        n.type("MotionHead")
        n.same("bev_h", bev.height, "model.pts_bbox_head.bev_h")
        n.same("bev_w", bev.width, "model.pts_bbox_head.bev_w")
        n.same("embed_dims", bev.embed_dims, "model.embed_dims")
        n.same("num_classes", decoder.num_classes, "model.num_classes")
        n.same("pc_range", list(pc_range), "model.pc_range")
        det_layers = n.whole("det_layer_num", 6)
        if det_layers != decoder.num_layers:
            raise ConfigError(
                f"{n.file}: {n.at('det_layer_num')} is {det_layers}; it must equal the detection decoder's layers, "
                f"{decoder.num_layers}"
            )
        n.skip("num_query", "bbox_coder")
        modes = n.whole("predict_modes", 6)
        n.same("num_anchor", modes, "model.motion_head.predict_modes")
        with n.sub("loss_traj") as loss:
            loss.type("TrajLoss")
            variance = loss.flag("use_variance")
            weights = [
                loss.number(key)
                for key in ("cls_loss_weight", "nll_loss_weight", "loss_weight_minade", "loss_weight_minfde")
            ]
        with n.sub("transformerlayers") as t, t.sub("transformerlayers") as layer:
            t.type("MotionTransformerDecoder")
            t.same("pc_range", list(pc_range), "model.pc_range")
            t.same("embed_dims", bev.embed_dims, "model.embed_dims")
            layer.type("MotionTransformerAttentionLayer")
            layer.fixed(batch_first=True, operation_order=CROSS_ORDER)
            (attention,) = layer.subs("attn_cfgs", 1)
            attention.same("num_steps", n.get("predict_steps"), "model.motion_head.predict_steps")
            attention.fixed(sample_index=-1)
            heads, points, _, _ = _deformable(attention, "MotionDeformableAttention", bev.embed_dims, 1)
            return S.MotionSpec(
                embed_dims=bev.embed_dims,
                bev_hw=(bev.height, bev.width),
                pc_range=pc_range,
                num_layers=t.whole("num_layers"),
                num_classes=decoder.num_classes,
                predict_steps=n.whole("predict_steps"),
                predict_modes=modes,
                group_ids=tuple(tuple(int(i) for i in group) for group in n.get("group_id_list")),
                vehicle_ids=tuple(n.get("vehicle_id_list", model.wholes("vehicle_id_list", None, (0, 1, 2, 3, 4, 6, 7)))),
                anchor_path=n.text("anchor_info_path"),
                use_nonlinear_optimizer=n.flag("use_nonlinear_optimizer", False),
                ffn_dims=layer.whole("feedforward_channels"),
                det_layers=det_layers,
                num_cls_fcs=n.whole("num_cls_fcs", 2),
                ffn_dropout=layer.number("ffn_dropout", 0.1),
                num_heads=heads,
                num_points=points,
                use_variance=variance,
                weight_cls=weights[0],
                weight_nll=weights[1],
                weight_minade=weights[2],
                weight_minfde=weights[3],
            )


def _bounds(n: Node) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    with n:
        n.skip("zbound")
        bounds = n.numbers("xbound", 3), n.numbers("ybound", 3)
        for key, (low, high, step) in zip(("xbound", "ybound"), bounds):
            if step <= 0 or high <= low:
                raise n.fail(key, "it must be [from, to, step], rising, in metres")
        return bounds  # type: ignore[return-value]


def _occ(model: Node, bev: S.BevSpec) -> S.OccSpec:
    with model.sub("occ_head") as n:
        n.type("OccHead")
        n.same("bev_size", (bev.height, bev.width), "the BEV size of model.pts_bbox_head")
        n.fixed(pan_eval=True, init_cfg=None, detach_query_pos=True, sample_ignore_mode="all_valid", temporal_mlp_layer=2)
        n.skip("spatial_extent")
        xbound, ybound = _bounds(n.sub("grid_conf"))
        ignore = n.whole("ignore_index", 255)
        with n.sub("transformer_decoder") as t, t.sub("transformerlayers") as layer:
            t.type("DetrTransformerDecoder")
            t.fixed(return_intermediate=True, init_cfg=None)
            layer.type("DetrTransformerDecoderLayer")
            layer.fixed(operation_order=BEV_ORDER)
            with layer.sub("attn_cfgs") as a:
                a.type("MultiheadAttention")
                a.fixed(attn_drop=0.0, proj_drop=0.0, dropout_layer=None, batch_first=False)
                dims, heads = a.whole("embed_dims"), a.whole("num_heads", 8)
            ffn = layer.whole("feedforward_channels")
            with layer.sub("ffn_cfgs") as f:
                f.same("embed_dims", dims, "that of the attention")
                f.same("feedforward_channels", ffn, "the layer's feedforward_channels")
                f.fixed(num_fcs=2, ffn_drop=0.0, dropout_layer=None, add_identity=True)
                f.skip("act_cfg")
            layers = t.whole("num_layers")
        with n.sub("loss_mask") as mask, n.sub("loss_dice") as dice:
            mask.type("FieryBinarySegmentationLoss")
            mask.fixed(use_top_k=True)
            mask.same("ignore_index", ignore, "model.occ_head.ignore_index")
            dice.type("DiceLossWithMasks")
            dice.fixed(use_sigmoid=True, activate=True, reduction="mean", naive_dice=True)
            dice.same("ignore_index", ignore, "model.occ_head.ignore_index")
            return S.OccSpec(
                bev_hw=(bev.height, bev.width),
                bev_dims=n.whole("bev_emb_dim", 256),
                proj_dims=n.whole("bev_proj_dim", 64),
                proj_layers=n.whole("bev_proj_nlayers", 1, low=0),
                slice_bev=n.flag("bevslicer", True),
                xbound=xbound,
                ybound=ybound,
                num_layers=layers,
                embed_dims=dims,
                ffn_dims=ffn,
                query_dims=n.whole("query_dim", 256),
                query_mlp_layers=n.whole("query_mlp_layers", 3),
                num_heads=heads,
                n_future=n.whole("n_future", 4),
                receptive_field=n.whole("receptive_field", 3),
                attn_mask_thresh=n.number("attn_mask_thresh", 0.5),
                ignore_index=ignore,
                weight_aux=n.number("aux_loss_weight", 1.0),
                weight_mask=mask.number("loss_weight", 1.0),
                top_k_ratio=mask.number("top_k_ratio", 1.0),
                future_discount=mask.number("future_discount", 1.0),
                weight_dice=dice.number("loss_weight", 1.0),
                dice_eps=dice.number("eps", 1e-3),
                test_seg_thresh=n.number("test_seg_thresh", 0.5),
                test_with_track_score=n.flag("test_with_track_score", False),
            )


def _plan(model: Node, bev: S.BevSpec) -> S.PlanSpec:
    with model.sub("planning_head") as n:
        n.type("PlanningHeadSingleMode")
        n.same("bev_h", bev.height, "model.pts_bbox_head.bev_h")
        n.same("bev_w", bev.width, "model.pts_bbox_head.bev_w")
        n.same("embed_dims", bev.embed_dims, "model.embed_dims")
        n.fixed(planning_eval=True)
        with n.sub("loss_planning") as loss:
            loss.type("PlanningLoss")
        collision = []
        for loss in n.subs("loss_collision"):
            with loss:
                loss.type("CollisionLoss")
                collision.append((loss.number("delta"), loss.number("weight")))
        extra = {}
        if "col_optim_args" in n.data:
            with n.sub("col_optim_args") as c:
                names = {"occ_filter_range": "col_filter_range", "sigma": "col_sigma", "alpha_collision": "col_alpha"}
                extra = {field: c.number(key) for key, field in names.items()}
        return S.PlanSpec(
            embed_dims=bev.embed_dims,
            bev_hw=(bev.height, bev.width),
            steps=n.whole("planning_steps", 6),
            use_col_optim=n.flag("use_col_optim", False),
            with_adapter=n.flag("with_adapter", False),
            collision=tuple(collision),
            **extra,
        )


def _compat(native: Node) -> S.CompatSpec:
    value = native.get("compat", "documented")
    names = [f.name for f in fields(S.CompatSpec)]
    if isinstance(value, str):
        native.choice("compat", ("documented", "fixed"), "documented")
        return S.CompatSpec(**dict.fromkeys(names, value))  # type: ignore[arg-type]
    with native.sub("compat") as n:
        return S.CompatSpec(**{name: n.choice(name, ("documented", "fixed"), "documented") for name in names})


def _model(cfg: Node, native: Node, compat: S.CompatSpec) -> S.ModelSpec:
    with cfg.sub("model") as n:
        n.type("UniAD")
        n.fixed(video_test_mode=True, upsample_if_tiny=False)
        # torchvision's backbone is overwritten by load_from; the assigner of train_cfg is built and never used
        n.skip("pretrained", "train_cfg", "test_cfg", "upsample_scale_factor", "vehicle_id_list")
        pc_range: S.Range6 = n.numbers("pc_range", 6)  # type: ignore[assignment]
        dims = n.whole("embed_dims", 256)
        backbone = _backbone(n)
        neck = _neck(n, backbone, dims)
        with n.sub("pts_bbox_head") as head:
            head.type("BEVFormerTrackHead")
            head.fixed(with_box_refine=True, as_two_stage=False, sync_cls_avg_factor=True)
            head.same("in_channels", dims, "model.embed_dims")
            head.skip("loss_cls", "loss_bbox", "loss_iou")
            bev = _bev(n, head, pc_range, dims, neck.num_outs)
            track = _track(n, head, native, pc_range, dims)
            decoder = _decoder(head, pc_range, dims, track.num_classes)
        map_spec, map_loss = _map(n, pc_range, dims, bev)
        stage2 = {"motion_head", "occ_head", "planning_head"}
        present = stage2 & n.data.keys()
        if present and present != stage2:
            raise ConfigError(f"{n.file}: model has {', '.join(sorted(present))} without {', '.join(stage2 - present)}")
        return S.ModelSpec(
            backbone=backbone,
            neck=neck,
            bev=bev,
            decoder=decoder,
            track=track,
            map=map_spec,
            track_loss=_track_loss(n, pc_range, track.num_classes),
            map_loss=map_loss,
            freeze=S.FreezeSpec(
                img_backbone=n.flag("freeze_img_backbone", False),
                img_neck=n.flag("freeze_img_neck", False),
                bn=n.flag("freeze_bn", False),
                bev_encoder=n.flag("freeze_bev_encoder", False),
            ),
            use_grid_mask=n.flag("use_grid_mask", False),
            queue_length=n.whole("queue_length", 3),
            compat=compat,
            motion=_motion(n, pc_range, bev, decoder) if present else None,
            occ=_occ(n, bev) if present else None,
            plan=_plan(n, bev) if present else None,
        )


def _pipeline(steps: list[Node], classes: tuple[str, ...], pc_range: S.Range6) -> dict[str, Any]:
    """What a list of steps amounts to: mean, std, to_rgb, scale, divisor, photometric, bounds."""
    out: dict[str, Any] = {"scale": 1.0, "divisor": 1, "photometric": False, "bounds": None}
    for n in steps:
        with n:
            kind = n.type(
                "LoadMultiViewImageFromFilesInCeph", "PhotoMetricDistortionMultiViewImage", "LoadAnnotations3D_E2E",
                "GenerateOccFlowLabels", "ObjectRangeFilterTrack", "ObjectNameFilterTrack", "NormalizeMultiviewImage",
                "RandomScaleImageMultiViewImage", "PadMultiViewImage", "DefaultFormatBundle3D", "CustomCollect3D",
                "MultiScaleFlipAug3D",
            )  # fmt: skip
            if kind == "LoadMultiViewImageFromFilesInCeph":
                n.fixed(to_float32=True)
                n.skip("file_client_args", "img_root")
            elif kind == "PhotoMetricDistortionMultiViewImage":
                out["photometric"] = True
            elif kind == "LoadAnnotations3D_E2E":
                n.fixed(with_future_anns=True, ins_inds_add_1=True, with_attr_label=False)
                n.skip("with_bbox_3d", "with_label_3d", "with_ins_inds_3d")
            elif kind == "GenerateOccFlowLabels":
                n.fixed(ignore_index=255, only_vehicle=True, filter_invisible=False)
                out["bounds"] = _bounds(n.sub("grid_conf"))
            elif kind == "ObjectRangeFilterTrack":
                n.same("point_cloud_range", list(pc_range), "model.pc_range")
            elif kind == "ObjectNameFilterTrack":
                n.same("classes", classes, "data.train.classes")
            elif kind == "NormalizeMultiviewImage":
                out |= {"mean": n.numbers("mean", 3), "std": n.numbers("std", 3), "to_rgb": n.flag("to_rgb", True)}
            elif kind == "RandomScaleImageMultiViewImage":
                (out["scale"],) = n.numbers("scales", 1)
            elif kind == "PadMultiViewImage":
                out["divisor"] = n.whole("size_divisor")
            elif kind == "MultiScaleFlipAug3D":
                n.fixed(flip=False, pts_scale_ratio=1)
                n.skip("img_scale")
                inner = _pipeline(n.subs("transforms"), classes, pc_range)
                blank = _pipeline([], classes, pc_range)
                out |= {key: value for key, value in inner.items() if value != blank.get(key)}
            else:
                n.skip("class_names", "with_label", "keys", "meta_keys")
    return out


def _image(train: dict[str, Any], test: dict[str, Any], node: Node) -> S.ImageSpec:
    for key in ("mean", "std", "to_rgb", "scale", "divisor"):
        if key not in train:
            raise ConfigError(f"{node.file}: data.train.pipeline has no NormalizeMultiviewImage step")
        if train[key] != test.get(key):
            raise ConfigError(
                f"{node.file}: {key} is {train[key]} in data.train.pipeline but {test.get(key)} in data.test.pipeline"
            )
    scale, divisor = train["scale"], train["divisor"]
    height, width = (-(-int(side * scale) // divisor) * divisor for side in (IMAGE_HEIGHT, IMAGE_WIDTH))
    return S.ImageSpec(
        mean=train["mean"],
        std=train["std"],
        to_rgb=train["to_rgb"],
        scale=scale,
        pad_divisor=divisor,
        photometric=train["photometric"],
        height=height,
        width=width,
    )


def _data(cfg: Node, native: Node, model: S.ModelSpec, compat: S.CompatSpec) -> S.DataSpec:
    with cfg.sub("data") as data:
        data.skip("shuffler_sampler", "nonshuffler_sampler")
        bev_hw = (model.bev.height, model.bev.width)
        only_documented = ("file_client_args", "modality", "box_type_3d", "samples_per_gpu", "test_mode")
        shared: dict[str, Any] = {}
        for key in ("train", "val", "test"):
            with data.sub(key) as n:
                n.type("NuScenesE2EDataset")
                n.skip(*only_documented)
                n.same("bev_size", bev_hw, "the BEV size of model.pts_bbox_head")
                n.same("canvas_size", model.map.canvas_hw, "model.seg_head.canvas_size")
                classes = tuple(n.get("classes"))
                if len(classes) != model.track.num_classes:
                    raise n.fail("classes", f"model.num_classes is {model.track.num_classes}")
                here = {
                    "data_root": n.text("data_root"),
                    "class_names": classes,
                    "patch_size": n.numbers("patch_size", 2),
                    "predict_steps": n.whole("predict_steps"),
                    "past_steps": n.whole("past_steps"),
                    "fut_steps": n.whole("fut_steps"),
                    "planning_steps": n.whole("planning_steps", 6),
                    "use_nonlinear_optimizer": n.flag("use_nonlinear_optimizer", False),
                    "occ_receptive_field": n.whole("occ_receptive_field", 3),
                    "occ_n_future": n.whole("occ_n_future", 4),
                    "occ_filter_invalid_sample": n.flag("occ_filter_invalid_sample", False),
                }
                for name, value in here.items():
                    if shared.setdefault(name, value) != value:
                        raise ConfigError(
                            f"{n.file}: {name} is {value!r} in data.{key} but {shared[name]!r} in data.train; "
                            "native has one for all"
                        )
                pipeline = _pipeline(n.subs("pipeline"), classes, model.bev.pc_range)
                if key == "train":
                    train_pipeline, ann_train = pipeline, n.text("ann_file")
                    n.same("queue_length", model.queue_length, "model.queue_length")
                    use_valid_flag = n.flag("use_valid_flag", False)
                else:
                    test_pipeline, ann_val = pipeline, n.text("ann_file")
                    eval_mod = tuple(n.get("eval_mod", ()))
                    unknown = [m for m in eval_mod if m not in ("det", "track", "map", "motion")]
                    if unknown:
                        raise n.fail("eval_mod", "native supports 'det', 'track', 'map', 'motion'")
        if (shared["past_steps"], shared["fut_steps"]) != (model.decoder.past_steps, model.decoder.fut_steps):
            raise ConfigError(
                f"{data.file}: data.train has past_steps, fut_steps = {shared['past_steps']}, {shared['fut_steps']} but "
                f"model.pts_bbox_head has {model.decoder.past_steps}, {model.decoder.fut_steps}"
            )
        bounds = train_pipeline["bounds"]
        if bounds is None:
            raise ConfigError(f"{data.file}: data.train.pipeline has no GenerateOccFlowLabels step")
        if model.occ is not None and (model.occ.xbound, model.occ.ybound) != bounds:
            raise ConfigError(f"{data.file}: model.occ_head.grid_conf and GenerateOccFlowLabels.grid_conf differ")
        return S.DataSpec(
            **shared,
            ann_file_train=ann_train,
            ann_file_val=ann_val,
            image=_image(train_pipeline, test_pipeline, data),
            pc_range=model.bev.pc_range,
            canvas_hw=model.map.canvas_hw,
            bev_hw=bev_hw,
            queue_length=model.queue_length,
            samples_per_gpu=data.whole("samples_per_gpu"),
            workers_per_gpu=data.whole("workers_per_gpu", low=0),
            use_valid_flag=use_valid_flag,
            occ_xbound=bounds[0],
            occ_ybound=bounds[1],
            eval_mod=eval_mod,
            max_objects=native.whole("max_objects", 192),
            max_lanes=native.whole("max_lanes", 64),
            lane_thickness=native.whole("lane_thickness", 1),
            decode_threads=native.whole("decode_threads", 1),
            image_cache=native.choice("image_cache", ("off", "exact", "scaled"), "off"),
            image_cache_dir=native.text("image_cache_dir") if "image_cache_dir" in native.data else "data/cache",
            compat=compat,
        )


def _train(cfg: Node) -> S.TrainSpec:
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
        clip.fixed(norm_type=2)
        norm = clip.number("max_norm", low=0)
    with cfg.sub("lr_config") as n:
        n.fixed(policy="CosineAnnealing", warmup="linear")
        by_epoch = n.flag("by_epoch", True)
        warmup = n.whole("warmup_iters", low=0), n.number("warmup_ratio"), n.number("min_lr_ratio")
    epochs = cfg.whole("total_epochs")
    with cfg.sub("runner") as n:
        n.type("EpochBasedRunner")
        n.same("max_epochs", epochs, "total_epochs")
    with cfg.sub("log_config") as n:
        n.skip("hooks")
        interval = n.whole("interval", 10)
    with cfg.sub("checkpoint_config") as n:
        n.skip("max_keep_ckpts", "by_epoch")
        keep = n.whole("interval", 1)
    load_from = cfg.get("load_from", None)
    if load_from is not None and not isinstance(load_from, str):
        raise cfg.fail("load_from", "it must be a file name or None")
    return S.TrainSpec(
        lr=lr,
        weight_decay=decay,
        backbone_lr_mult=mult,
        clip_norm=norm,
        warmup_iters=warmup[0],
        warmup_ratio=warmup[1],
        min_lr_ratio=warmup[2],
        total_epochs=epochs,
        log_interval=interval,
        checkpoint_interval=keep,
        load_from=load_from,
        find_unused_parameters=cfg.flag("find_unused_parameters", False),
        lr_by_epoch=by_epoch,
    )


def _variant(stem: str, model: S.ModelSpec) -> str:
    for name in ("full", "tiny", "nano"):
        if stem == name or stem.startswith((f"{name}_", f"{name}-")):
            return name
    cells = model.bev.height * model.bev.width
    return "full" if cells >= 100 * 100 else "tiny" if model.bev.embed_dims >= 256 else "nano"


def read_spec(cfg: dict[str, Any], path: str) -> S.Spec:
    """See ``uniad.spec.from_config``."""
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
        model = _model(top, native, compat)
        data = _data(top, native, model, compat)
        train = _train(top)
        scratch = native.flag("from_scratch", False)
    stem = Path(path).stem
    stage = 1 if model.motion is None else 2
    result = S.Spec(stem, path, _variant(stem, model), stage, model, data, train)
    return S.from_scratch(result) if scratch else result
