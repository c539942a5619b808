"""The heads beyond tracking: map, motion, occupancy, planning."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from uniad.config import spec as S
from uniad.config.file import ConfigError
from uniad.config.layers import (
    BEV_ORDER,
    CROSS_ORDER,
    SELF_ORDER,
    bounds,
    deformable_attention,
    focal_loss,
    plain_attention,
    weight,
)
from uniad.config.node import Node
from uniad.geometry.grid import BevGrid


class _Costs(NamedTuple):
    """Of matching map queries to elements."""

    cls: float
    box: float
    iou: float
    mask: float


def _costs(n: Node, mask: bool) -> _Costs:
    with n:
        n.type("HungarianAssigner_multi_info" if mask else "HungarianAssigner")
        return _Costs(
            cls=weight(n.sub("cls_cost"), "FocalLossCost", key="weight"),
            box=weight(n.sub("reg_cost"), "BBoxL1Cost", key="weight"),
            iou=weight(n.sub("iou_cost"), "IoUCost", key="weight"),
            mask=weight(n.sub("mask_cost"), "DiceCost", key="weight") if mask else 0.0,
        )


VEHICLE_IDS = (0, 1, 2, 3, 4, 6, 7)  # of upstream's motion head, whatever the model's own vehicle_id_list says
UPSAMPLED = (100, 100)  # the one size of the BEV that upstream doubles before the heads


def read_grid(model: Node, bev: S.BevSpec) -> S.BevSpec:
    """The BEV as the heads after tracking see it, of seg_head's bev_h and bev_w: as it is, or 100x100 cells doubled."""
    size = (bev.height, bev.width)
    doubled = (2 * bev.height, 2 * bev.width)
    head = Node(model.get("seg_head"), model.at("seg_head"), model.file)
    found = (head.integer("bev_h", bev.height), head.integer("bev_w", bev.width))
    if found == size:
        return bev
    if size == UPSAMPLED and found == doubled:
        return replace(bev, height=doubled[0], width=doubled[1])
    raise head.fail(
        "bev_h",
        f"it must equal model.pts_bbox_head.bev_h, which is {bev.height}; upstream doubles the BEV of "
        f"{UPSAMPLED[0]}x{UPSAMPLED[1]} cells alone (they are {found[0]}x{found[1]} here, {size[0]}x{size[1]} there)",
    )


def read_map(model: Node, pc_range: S.Range6, dims: int, bev: S.BevSpec) -> tuple[S.MapSpec, S.MapLossSpec]:
    with model.sub("seg_head") as n:
        n.type("PansegformerHead")
        n.must_equal("pc_range", list(pc_range), "model.pc_range")
        n.only(with_box_refine=True, as_two_stage=False, sync_cls_avg_factor=True)
        # Upstream overrides the quality of things; those of stuff are for a panoptic picture that native does not draw.
        n.skip("in_channels", "quality_threshold_things", "quality_threshold_stuff", "overlap_threshold_stuff")
        n.skip("bev_h", "bev_w")
        things, stuff = n.integer("num_things_classes"), n.integer("num_stuff_classes", low=0)
        n.must_equal("num_classes", things + stuff, "num_things_classes + num_stuff_classes")
        with n.sub("positional_encoding") as p:
            p.type("SinePositionalEncoding")
            p.must_equal("num_feats", dims // 2, "half of model.embed_dims")
            p.only(normalize=True, offset=-0.5)
        with n.sub("transformer") as t:
            t.type("SegDeformableTransformer")
            with t.sub("encoder") as encoder, t.sub("decoder") as decoder:
                encoder.type("DetrTransformerEncoder")
                decoder.type("DeformableDetrTransformerDecoder")
                decoder.only(return_intermediate=True)
                encoder_layers, decoder_layers = encoder.integer("num_layers"), decoder.integer("num_layers")
                with encoder.sub("transformerlayers") as layer:
                    layer.type("BaseTransformerLayer")
                    layer.only(operation_order=SELF_ORDER)
                    ffn, ffn_dropout = layer.integer("feedforward_channels"), layer.number("ffn_dropout", 0.1)
                    attn = deformable_attention(layer.sub("attn_cfgs"), "MultiScaleDeformableAttention", dims, None)
                with decoder.sub("transformerlayers") as layer:
                    layer.type("DetrTransformerDecoderLayer")
                    layer.only(operation_order=BEV_ORDER)
                    layer.must_equal("feedforward_channels", ffn, "the encoder's")
                    layer.must_equal("ffn_dropout", ffn_dropout, "the encoder's")
                    attention, deformable = layer.subs("attn_cfgs", 2)
                    if deformable_attention(deformable, "MultiScaleDeformableAttention", dims, None) != attn:
                        raise deformable.fail("num_levels", "heads, points, levels and dropout must equal the encoder's")
                    plain = plain_attention(attention, dims)
                    if plain.heads != attn.heads:
                        raise attention.fail("num_heads", "it must equal the encoder's")
        masks = {}
        for key in ("thing_transformer_head", "stuff_transformer_head"):
            with n.sub(key) as h:
                h.type("SegMaskHead")
                h.must_equal("d_model", dims, "model.embed_dims")
                h.only(nhead=attn.heads)
                if h.boolean("self_attn", False) != (key == "stuff_transformer_head"):
                    raise h.fail("self_attn", "native supports True for the stuff head and False for the thing head")
                masks[key] = h.integer("num_decoder_layers")
        top_k = 100
        if "test_cfg" in n.data:
            with n.sub("test_cfg") as test:
                top_k = test.integer("max_per_img", 100)
        spec = S.MapSpec(
            embed_dims=dims,
            bev_hw=(bev.height, bev.width),
            canvas_hw=n.wholes("canvas_size", 2),
            pc_range=pc_range,
            num_query=n.integer("num_query"),
            num_things=things, num_stuff=stuff, encoder_layers=encoder_layers, decoder_layers=decoder_layers,
            ffn_dims=ffn, attn_levels=attn.levels,
            things_mask_layers=masks["thing_transformer_head"],
            stuff_mask_layers=masks["stuff_transformer_head"],
            num_heads=attn.heads, num_points=attn.points, dropout=plain.dropout, cross_dropout=attn.dropout,
            ffn_dropout=ffn_dropout, top_k=top_k,
            overlap_threshold_things=n.number("overlap_threshold_things", 0.4),
        )  # fmt: skip
        if top_k > spec.num_query * things:
            raise n.fail("test_cfg", f"it selects more than num_query x num_things_classes = {spec.num_query * things}")
        focal = focal_loss(n.sub("loss_cls"))
        with n.sub("train_cfg") as train:
            with train.sub("sampler") as s, train.sub("sampler_with_mask") as m:
                s.type("PseudoSampler")
                m.type("PseudoSampler_segformer")
            costs = _costs(train.sub("assigner_with_mask"), mask=True)
            if _costs(train.sub("assigner"), mask=False) != costs._replace(mask=0.0):
                raise train.fail("assigner", "its costs must equal those of assigner_with_mask")
        loss = S.MapLossSpec(
            num_things=things, num_stuff=stuff, cost_cls=costs.cls, cost_box=costs.box, cost_iou=costs.iou,
            cost_mask=costs.mask, focal_gamma=focal.gamma, focal_alpha=focal.alpha, weight_cls=focal.weight,
            weight_box=weight(n.sub("loss_bbox"), "L1Loss"),
            weight_iou=weight(n.sub("loss_iou"), "GIoULoss"),
            weight_mask=weight(n.sub("loss_mask"), "DiceLoss"),
        )  # fmt: skip
    return spec, loss


def read_motion(
    model: Node, pc_range: S.Range6, bev: S.BevSpec, decoder: S.DecoderSpec, compat: S.CompatSpec
) -> S.MotionSpec:
    with model.sub("motion_head") as n:
        n.type("MotionHead")
        n.must_equal("bev_h", bev.height, "model.seg_head.bev_h")
        n.must_equal("bev_w", bev.width, "model.seg_head.bev_w")
        n.must_equal("embed_dims", bev.embed_dims, "model.embed_dims")
        n.must_equal("num_classes", decoder.num_classes, "model.num_classes")
        n.must_equal("pc_range", list(pc_range), "model.pc_range")
        det_layers = n.integer("det_layer_num", 6)
        if det_layers != decoder.num_layers:
            raise ConfigError(
                f"{n.file}: {n.at('det_layer_num')} is {det_layers}; it must equal the detection decoder's layers, "
                f"{decoder.num_layers}"
            )
        n.skip("num_query", "bbox_coder")
        modes = n.integer("predict_modes", 6)
        n.must_equal("num_anchor", modes, "model.motion_head.predict_modes")
        with n.sub("loss_traj") as loss:
            loss.type("TrajLoss")
            variance = loss.boolean("use_variance")
            weight_cls, weight_nll = loss.number("cls_loss_weight"), loss.number("nll_loss_weight")
            weight_minade, weight_minfde = loss.number("loss_weight_minade"), loss.number("loss_weight_minfde")
        with n.sub("transformerlayers") as t, t.sub("transformerlayers") as layer:
            t.type("MotionTransformerDecoder")
            t.must_equal("pc_range", list(pc_range), "model.pc_range")
            t.must_equal("embed_dims", bev.embed_dims, "model.embed_dims")
            layer.type("MotionTransformerAttentionLayer")
            layer.only(batch_first=True, operation_order=CROSS_ORDER)
            (attention,) = layer.subs("attn_cfgs", 1)
            attention.must_equal("num_steps", n.get("predict_steps"), "model.motion_head.predict_steps")
            attention.only(sample_index=-1)
            attn = deformable_attention(attention, "MotionDeformableAttention", bev.embed_dims, 1)
            return S.MotionSpec(
                embed_dims=bev.embed_dims,
                bev_hw=(bev.height, bev.width),
                pc_range=pc_range,
                num_layers=t.integer("num_layers"),
                num_classes=decoder.num_classes,
                predict_steps=n.integer("predict_steps"),
                predict_modes=modes,
                group_ids=tuple(tuple(int(i) for i in group) for group in n.get("group_id_list")),
                vehicle_ids=n.wholes("vehicle_id_list", None, VEHICLE_IDS),
                anchor_path=n.text("anchor_info_path"),
                use_nonlinear_optimizer=n.boolean("use_nonlinear_optimizer", False),
                ffn_dims=layer.integer("feedforward_channels"),
                det_layers=det_layers,
                num_cls_fcs=n.integer("num_cls_fcs", 2),
                ffn_dropout=layer.number("ffn_dropout", 0.1),
                num_heads=attn.heads, num_points=attn.points, use_variance=variance, weight_cls=weight_cls,
                weight_nll=weight_nll, weight_minade=weight_minade, weight_minfde=weight_minfde,
                anchor_rotation=compat.anchor_rotation, smoother_start=compat.smoother_start,
            )  # fmt: skip


def read_occ(model: Node, native: Node, bev: S.BevSpec, compat: S.CompatSpec) -> S.OccSpec:
    align = compat.occ_grid == "fixed"
    with model.sub("occ_head") as n:
        n.type("OccHead")
        n.must_equal("bev_size", (bev.height, bev.width), "the BEV size of model.seg_head")
        n.only(pan_eval=True, init_cfg=None, detach_query_pos=True, sample_ignore_mode="all_valid", temporal_mlp_layer=2)
        n.skip("spatial_extent")
        xbound, ybound = bounds(n.sub("grid_conf"))
        slice_bev = n.boolean("bevslicer", True) or align
        grid = BevGrid.from_bounds(xbound, ybound).shape
        if not slice_bev and grid != (bev.height, bev.width):
            raise n.fail("grid_conf", f"it has {grid} cells, the BEV ({bev.height}, {bev.width}); set bevslicer=True to cut it")
        ignore = n.integer("ignore_index", 255)
        with n.sub("transformer_decoder") as t, t.sub("transformerlayers") as layer:
            t.type("DetrTransformerDecoder")
            t.only(return_intermediate=True, init_cfg=None)
            layer.type("DetrTransformerDecoderLayer")
            layer.only(operation_order=BEV_ORDER)
            with layer.sub("attn_cfgs") as a:
                a.type("MultiheadAttention")
                a.only(attn_drop=0.0, proj_drop=0.0, dropout_layer=None, batch_first=False)
                dims, heads = a.integer("embed_dims"), a.integer("num_heads", 8)
            ffn = layer.integer("feedforward_channels")
            with layer.sub("ffn_cfgs") as f:
                f.must_equal("embed_dims", dims, "that of the attention")
                f.must_equal("feedforward_channels", ffn, "the layer's feedforward_channels")
                f.only(num_fcs=2, ffn_drop=0.0, dropout_layer=None, add_identity=True)
                f.skip("act_cfg")
            layers = t.integer("num_layers")
        with n.sub("loss_mask") as mask, n.sub("loss_dice") as dice:
            mask.type("FieryBinarySegmentationLoss")
            mask.only(use_top_k=True)
            mask.must_equal("ignore_index", ignore, "model.occ_head.ignore_index")
            dice.type("DiceLossWithMasks")
            dice.only(use_sigmoid=True, activate=True, reduction="mean", naive_dice=True)
            dice.must_equal("ignore_index", ignore, "model.occ_head.ignore_index")
            return S.OccSpec(
                bev_hw=(bev.height, bev.width),
                bev_dims=n.integer("bev_emb_dim", 256),
                proj_dims=n.integer("bev_proj_dim", 64),
                proj_layers=n.integer("bev_proj_nlayers", 1, low=0),
                slice_bev=slice_bev, xbound=xbound, ybound=ybound, num_layers=layers, embed_dims=dims, ffn_dims=ffn,
                query_dims=n.integer("query_dim", 256),
                query_mlp_layers=n.integer("query_mlp_layers", 3),
                num_heads=heads,
                n_future=n.integer("n_future", 4),
                receptive_field=n.integer("receptive_field", 3),
                attn_mask_thresh=n.number("attn_mask_thresh", 0.5),
                ignore_index=ignore,
                weight_aux=n.number("aux_loss_weight", 1.0),
                weight_mask=mask.number("loss_weight", 1.0),
                top_k_ratio=mask.number("top_k_ratio", 1.0),
                future_discount=mask.number("future_discount", 1.0),
                weight_dice=dice.number("loss_weight", 1.0),
                dice_eps=dice.number("eps", 1e-3),
                test_seg_thresh=n.number("test_seg_thresh", 0.5),
                test_with_track_score=n.boolean("test_with_track_score", False),
                cell_features=native.boolean("occ_cell_features", False),
                draw_boxes=native.boolean("occ_draw_boxes", False),
                **({"bev_centres": _cell_centres(bev)} if align else {}),
            )  # fmt: skip


def _cell_centres(bev: S.BevSpec) -> tuple[float, float, float, float]:
    """Where the BEV's first and last column and row really lie, whatever its size and range."""
    x0, y0, _, x1, y1, _ = bev.pc_range
    dx, dy = (x1 - x0) / bev.width / 2, (y1 - y0) / bev.height / 2
    return x0 + dx, x1 - dx, y0 + dy, y1 - dy


def read_image_patch(native: Node) -> tuple[int, int] | None:
    if native.get("plan_image_patch", None) is None:
        return None
    size = native.wholes("plan_image_patch")
    if len(size) != 2 or min(size) < 1:
        raise native.fail("plan_image_patch", "it must be (rows, columns) of the finest image features, both at least 1")
    return size[0], size[1]


def read_across_weight(native: Node) -> float | None:
    if native.get("plan_across_weight", None) is None:
        return None
    return native.number("plan_across_weight", above=0)


def read_plan(model: Node, native: Node, bev: S.BevSpec) -> S.PlanSpec:
    with model.sub("planning_head") as n:
        n.type("PlanningHeadSingleMode")
        n.must_equal("bev_h", bev.height, "model.seg_head.bev_h")
        n.must_equal("bev_w", bev.width, "model.seg_head.bev_w")
        n.must_equal("embed_dims", bev.embed_dims, "model.embed_dims")
        n.only(planning_eval=True)
        with n.sub("loss_planning") as loss:
            loss.type("PlanningLoss")
        collision = []
        for loss in n.subs("loss_collision"):
            with loss:
                loss.type("CollisionLoss")
                collision.append((loss.number("delta"), loss.number("weight")))
        plan = S.PlanSpec(
            embed_dims=bev.embed_dims,
            bev_hw=(bev.height, bev.width),
            steps=n.integer("planning_steps", 6),
            use_col_optim=n.boolean("use_col_optim", False),
            with_adapter=n.boolean("with_adapter", False),
            collision=tuple(collision),
            num_commands=n.integer("command_dim", 3),
            ego_status=native.boolean("plan_ego_status", False),
            status_dropout=native.number("plan_status_dropout", 0.0, low=0, high=1),
            motion_prior=native.boolean("plan_motion_prior", False),
            bev_patch=native.boolean("plan_bev_patch", False),
            image_patch=read_image_patch(native),
            across_weight=read_across_weight(native),
            col_solver=native.choice("collision_solver", ("newton", "ipopt"), "newton"),
            col_moves=native.choice("collision_optimiser", ("points", "speed"), "points"),
        )
        if "col_optim_args" in n.data:
            with n.sub("col_optim_args") as c:
                reach, sigma, alpha = c.number("occ_filter_range"), c.number("sigma"), c.number("alpha_collision")
                plan = replace(plan, col_filter_range=reach, col_sigma=sigma, col_alpha=alpha)
        return plan
