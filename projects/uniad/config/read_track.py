"""What sees and tracks: image backbone, neck, BEV encoder, detection decoder, tracks and their loss."""

from __future__ import annotations

from uniad.config import spec as S
from uniad.config.layers import BEV_ORDER, deformable_attention, focal_loss, plain_attention, weight
from uniad.config.node import Node


def read_backbone(model: Node) -> S.BackboneSpec:
    with model.sub("img_backbone") as n:
        n.type("ResNet")
        depth = n.choice("depth", (18, 50, 101))
        stages_built = n.choice("num_stages", (3, 4), 4)
        # Upstream's class wants these spelt out when a stage is left off.
        n.only(strides=(1, 2, 2, 2)[:stages_built], dilations=(1, 1, 1, 1)[:stages_built])
        n.skip("init_cfg", "with_cp")
        with n.sub("norm_cfg") as norm:
            norm.choice("type", ("BN", "BN2d"))
            norm_requires_grad = norm.boolean("requires_grad", True)
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
                groups = d.integer("deform_groups", 1)
                d.only(fallback_on_stride=False)
        if len(stages) != 4 or not all(isinstance(s, bool) for s in stages):
            raise n.fail("stage_with_dcn", "it must be four times True or False")
        if max(n.wholes("out_indices")) >= stages_built:
            raise n.fail("out_indices", f"num_stages is {stages_built}, counted from 0")
        return S.BackboneSpec(
            depth=depth,
            style=n.choice("style", ("pytorch", "caffe"), "pytorch"),
            out_indices=n.wholes("out_indices"),
            frozen_stages=n.integer("frozen_stages", -1, low=-1),
            norm_eval=n.boolean("norm_eval", True),
            norm_requires_grad=norm_requires_grad,
            stage_with_dcn=stages,
            dcn_groups=groups,
            num_stages=stages_built,
            base_channels=n.integer("base_channels", 64),
        )


def read_neck(model: Node, backbone: S.BackboneSpec, dims: int) -> S.NeckSpec:
    with model.sub("img_neck") as n:
        n.type("FPN")
        n.must_equal("out_channels", dims, "model.embed_dims")
        width = backbone.base_channels * (1 if backbone.depth == 18 else 4)
        expected = tuple(width * 2**i for i in backbone.out_indices)
        if n.wholes("in_channels") != expected:
            raise n.fail("in_channels", f"the backbone's out_indices give {list(expected)}")
        extra = n.get("add_extra_convs", None) or None
        if extra not in (None, "on_output"):
            raise n.fail("add_extra_convs", "native supports 'on_output' or none")
        return S.NeckSpec(
            in_channels=expected,
            out_channels=dims,
            num_outs=n.integer("num_outs"),
            start_level=n.integer("start_level", 0, low=0),
            add_extra_convs=extra,
            relu_before_extra_convs=n.boolean("relu_before_extra_convs", False),
        )


def read_bev(head: Node, native: Node, pc_range: S.Range6, dims: int, levels: int, compat: S.CompatSpec) -> S.BevSpec:
    height, width = head.integer("bev_h"), head.integer("bev_w")
    with head.sub("positional_encoding") as n:
        n.type("LearnedPositionalEncoding")
        n.must_equal("num_feats", dims // 2, "half of model.embed_dims")
        n.must_equal("row_num_embed", height, "model.pts_bbox_head.bev_h")
        n.must_equal("col_num_embed", width, "model.pts_bbox_head.bev_w")
    transformer = head.sub("transformer")
    transformer.skip("decoder")
    with transformer as t:
        t.type("PerceptionTransformer", "UniADPerceptionTransformer")
        t.must_equal("embed_dims", dims, "model.embed_dims")
        t.only(can_bus_norm=True, use_cams_embeds=True, num_feature_levels=4)
        rotate_center = t.numbers("rotate_center", 2, (100, 100))
        with t.sub("encoder") as n:
            n.type("BEVFormerEncoder")
            n.must_equal("pc_range", list(pc_range), "model.pc_range")
            n.only(return_intermediate=False)
            with n.sub("transformerlayers") as layer:
                layer.type("BEVFormerLayer")
                layer.only(operation_order=BEV_ORDER)
                temporal, spatial = layer.subs("attn_cfgs", 2)
                tsa = deformable_attention(temporal, "TemporalSelfAttention", dims, 1)
                with spatial:
                    spatial.type("SpatialCrossAttention")
                    spatial.must_equal("pc_range", list(pc_range), "model.pc_range")
                    spatial.must_equal("embed_dims", dims, "model.embed_dims")
                    spatial.must_equal("num_cams", t.integer("num_cams", 6), "model.pts_bbox_head.transformer.num_cams")
                    spatial.must_equal("dropout", tsa.dropout, "the temporal attention's dropout")
                    inner = spatial.sub("deformable_attention")
                    sca = deformable_attention(inner, "MSDeformableAttention3D", dims, levels)
                if sca.heads != tsa.heads:
                    raise inner.fail("num_heads", f"it must equal the temporal attention's, which is {tsa.heads}")
                return S.BevSpec(
                    height=height, width=width, pc_range=pc_range, embed_dims=dims,
                    num_layers=n.integer("num_layers"),
                    num_levels=levels,
                    ffn_dims=layer.integer("feedforward_channels"),
                    num_heads=tsa.heads,
                    num_cams=t.integer("num_cams", 6),
                    points_in_pillar=n.integer("num_points_in_pillar", 4),
                    sca_points=sca.points, tsa_points=tsa.points, dropout=tsa.dropout,
                    ffn_dropout=layer.number("ffn_dropout", 0.1),
                    rotate_prev_bev=t.boolean("rotate_prev_bev", True),
                    use_shift=t.boolean("use_shift", True),
                    use_can_bus=t.boolean("use_can_bus", True),
                    rotate_center=(width / 2, height / 2) if compat.rotate_center == "fixed" else rotate_center,
                    shift_now=compat.shift_now == S.UPSTREAM,
                    shift_rule=compat.bev_shift,
                    sca_capacity=native.number("sca_capacity", 0.3, above=0.0, high=1.0),
                )  # fmt: skip


def read_decoder(head: Node, pc_range: S.Range6, dims: int, classes: int, compat: S.CompatSpec) -> S.DecoderSpec:
    with head.sub("transformer").sub("decoder") as n:
        n.type("DetectionTransformerDecoder")
        n.only(return_intermediate=True)
        with n.sub("transformerlayers") as layer:
            layer.type("DetrTransformerDecoderLayer")
            layer.only(operation_order=BEV_ORDER)
            attention, deformable = layer.subs("attn_cfgs", 2)
            plain = plain_attention(attention, dims)
            attn = deformable_attention(deformable, "CustomMSDeformableAttention", dims, 1)
            if attn.heads != plain.heads:
                raise deformable.fail("num_heads", "it must equal that of the attention before it")
            return S.DecoderSpec(
                num_layers=n.integer("num_layers"),
                embed_dims=dims, num_classes=classes,
                ffn_dims=layer.integer("feedforward_channels"),
                pc_range=pc_range, num_heads=attn.heads, num_points=attn.points, dropout=plain.dropout,
                cross_dropout=attn.dropout,
                ffn_dropout=layer.number("ffn_dropout", 0.1),
                past_steps=head.integer("past_steps", 4),
                fut_steps=head.integer("fut_steps", 4),
                box_code=compat.box_code,
            )  # fmt: skip


def read_coder(head: Node, classes: int) -> tuple[S.Range6, S.Range6, int]:
    """Of a head's ``bbox_coder``: the range of the BEV, that of centres which are kept, and how many boxes at most."""
    with head.sub("bbox_coder") as coder:
        coder.type("NMSFreeCoder", "DETRTrack3DCoder")
        coder.must_equal("num_classes", classes, "model.num_classes")
        coder.skip("voxel_size", "score_threshold")
        return coder.numbers("pc_range", 6), coder.numbers("post_center_range", 6), coder.integer("max_num", 300)


def read_track(model: Node, head: Node, native: Node, pc_range: S.Range6, dims: int) -> S.TrackSpec:
    queries, classes = model.integer("num_query", 900), model.integer("num_classes", 10)
    head.must_equal("num_query", queries, "model.num_query")
    head.must_equal("num_classes", classes, "model.num_classes")
    own_range, post_range, max_num = read_coder(head, classes)
    if own_range != pc_range:
        raise head.sub("bbox_coder").fail("pc_range", f"it must equal model.pc_range, which is {list(pc_range)!r}")
    with model.sub("qim_args") as q, model.sub("mem_args") as m:
        q.only(qim_type="QIMBase")
        m.only(memory_bank_type="MemoryBank")
        return S.TrackSpec(
            num_query=queries, num_classes=classes, embed_dims=dims, pc_range=pc_range, post_center_range=post_range,
            capacity=native.integer("track_capacity", 256),
            score_thresh=model.number("score_thresh"),
            filter_score_thresh=model.number("filter_score_thresh"),
            gt_iou_threshold=model.number("gt_iou_threshold"),
            miss_tolerance=model.integer("miss_tolerance", 5),
            max_num=max_num,
            update_query_pos=q.boolean("update_query_pos"),
            merger_dropout=q.number("merger_dropout"),
            fp_ratio=q.number("fp_ratio"),
            random_drop=q.number("random_drop"),
            mem_len=m.integer("memory_bank_len"),
            mem_score_thresh=m.number("memory_bank_score_thresh"),
        )  # fmt: skip


def read_track_loss(model: Node, native: Node, pc_range: S.Range6, classes: int, compat: S.CompatSpec) -> S.TrackLossSpec:
    with model.sub("loss_cfg") as n:
        n.type("ClipMatcher")
        n.must_equal("num_classes", classes, "model.num_classes")
        n.only(weight_dict=None)
        focal = focal_loss(n.sub("loss_cls"))
        with n.sub("assigner") as a:
            a.type("HungarianAssigner3DTrack")
            a.must_equal("pc_range", list(pc_range), "model.pc_range")
            cost_cls = weight(a.sub("cls_cost"), "FocalLossCost", key="weight")
            cost_box = weight(a.sub("reg_cost"), "BBox3DL1Cost", key="weight")
        return S.TrackLossSpec(
            num_classes=classes,
            code_weights=n.numbers("code_weights", 10),
            pc_range=pc_range, cost_cls=cost_cls, cost_box=cost_box, focal_gamma=focal.gamma, focal_alpha=focal.alpha,
            weight_cls=focal.weight,
            weight_box=weight(n.sub("loss_bbox"), "L1Loss"),
            # Stage 2 says nothing and means 1: that is upstream's default.
            weight_past_traj=n.number("loss_past_traj_weight", 1.0),
            overlap=native.choice("track_overlap", ("iou", "distance"), "iou"),
            stale_overlap=compat.stale_overlap,
        )  # fmt: skip
