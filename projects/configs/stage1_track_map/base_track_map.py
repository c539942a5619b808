# Stage 1: tracking and map, with the values of the full model. A variant file states what it changes.
_base_ = ["../_base_/models/bevformer.py", "../_base_/adamw_cosine.py", "../_base_/default_runtime.py"]

point_cloud_range = {{_base_.point_cloud_range}}
_dim_ = 256
_ffn_dim_ = 2 * _dim_
_heads_ = 8
_num_levels_ = 4  # image feature levels
bev_h_ = 200
bev_w_ = 200
num_query = 900  # the ego query is one more
num_classes = 10

# Frames per clip. 3 instead of 5 needs about 60 % of the memory and loses some accuracy.
queue_length = 5

# Layer orders that every transformer below uses
_bev_order_ = ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm")
_self_order_ = ("self_attn", "norm", "ffn", "norm")

# The same in the losses and in matching
_focal_cost_ = dict(type="FocalLossCost", weight=2.0)
_box3d_cost_ = dict(type="BBox3DL1Cost", weight=0.25)
_focal_loss_ = dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0)
_box3d_loss_ = dict(type="L1Loss", loss_weight=0.25)
_map_assigner_costs_ = dict(
    cls_cost=_focal_cost_,
    reg_cost=dict(type="BBoxL1Cost", weight=5.0, box_format="xywh"),
    iou_cost=dict(type="IoUCost", iou_mode="giou", weight=2.0),
)

model = dict(
    type="UniAD",
    gt_iou_threshold=0.3,
    queue_length=queue_length, num_query=num_query, num_classes=num_classes,
    embed_dims=_dim_,
    pc_range=point_cloud_range,
    upsample_if_tiny=False,
    img_backbone=dict(frozen_stages=4),
    # The backbone stays as loaded; neck and batch norm learn, which is what reproduces the published tracking.
    freeze_img_backbone=True,
    freeze_img_neck=False,
    freeze_bn=False,
    score_thresh=0.4,  # a track is born
    filter_score_thresh=0.35,  # below this it starts to die
    qim_args=dict(
        qim_type="QIMBase",
        merger_dropout=0,
        update_query_pos=True,
        fp_ratio=0.3,  # share of false positives kept as tracks while training (MOTR)
        random_drop=0.1,  # share of tracks dropped while training (MOTR)
    ),
    mem_args=dict(memory_bank_type="MemoryBank", memory_bank_score_thresh=0.0, memory_bank_len=4),
    loss_cfg=dict(
        type="ClipMatcher",
        num_classes=num_classes,
        weight_dict=None,
        code_weights=[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2],
        assigner=dict(type="HungarianAssigner3DTrack", cls_cost=_focal_cost_, reg_cost=_box3d_cost_, pc_range=point_cloud_range),
        loss_cls=_focal_loss_,
        loss_bbox=_box3d_loss_,
        loss_past_traj_weight=0.0,
    ),
    # Upstream's head builds its losses and never uses them, model.train_cfg is read by its detector's constructor alone:
    # tracking is trained and matched by loss_cfg.
    pts_bbox_head=dict(type="BEVFormerTrackHead", past_steps=4, fut_steps=4),
    seg_head=dict(
        type="PansegformerHead",
        bev_h=bev_h_, bev_w=bev_w_,
        canvas_size=(bev_h_, bev_w_),
        pc_range=point_cloud_range,
        num_query=300,
        num_classes=4,  # divider, crossing, contour; drivable area
        num_things_classes=3, num_stuff_classes=1,
        in_channels=2048,
        sync_cls_avg_factor=True,
        as_two_stage=False,
        with_box_refine=True,
        transformer=dict(
            type="SegDeformableTransformer",
            encoder=dict(
                type="DetrTransformerEncoder",
                num_layers=6,
                transformerlayers=dict(
                    type="BaseTransformerLayer",
                    # Built for four levels although one BEV is fed. The published weights have this shape.
                    attn_cfgs=dict(type="MultiScaleDeformableAttention", embed_dims=_dim_, num_levels=_num_levels_),
                    feedforward_channels=_ffn_dim_, ffn_dropout=0.1,
                    operation_order=_self_order_,
                ),
            ),
            decoder=dict(
                type="DeformableDetrTransformerDecoder", num_layers=6, return_intermediate=True,
                transformerlayers=dict(
                    type="DetrTransformerDecoderLayer",
                    attn_cfgs=[
                        {{_base_._among_queries_}},
                        dict(type="MultiScaleDeformableAttention", embed_dims=_dim_, num_levels=_num_levels_),
                    ],
                    feedforward_channels=_ffn_dim_, ffn_dropout=0.1,
                    operation_order=_bev_order_,
                ),
            ),
        ),
        positional_encoding=dict(type="SinePositionalEncoding", num_feats=_dim_ // 2, normalize=True, offset=-0.5),
        loss_cls=_focal_loss_,
        loss_bbox=dict(type="L1Loss", loss_weight=5.0),
        loss_iou=dict(type="GIoULoss", loss_weight=2.0),
        loss_mask=dict(type="DiceLoss", loss_weight=2.0),
        thing_transformer_head=dict(type="SegMaskHead", d_model=_dim_, nhead=_heads_, num_decoder_layers=4),
        stuff_transformer_head=dict(type="SegMaskHead", d_model=_dim_, nhead=_heads_, num_decoder_layers=6, self_attn=True),
        train_cfg=dict(
            assigner=dict(type="HungarianAssigner", **_map_assigner_costs_),
            assigner_with_mask=dict(
                type="HungarianAssigner_multi_info", mask_cost=dict(type="DiceCost", weight=2.0), **_map_assigner_costs_
            ),
            sampler=dict(type="PseudoSampler"),
            sampler_with_mask=dict(type="PseudoSampler_segformer"),
        ),
    ),
)
data = dict(train=dict(queue_length=queue_length))

total_epochs = 6
runner = dict(type="EpochBasedRunner", max_epochs=total_epochs)
evaluation = dict(interval=total_epochs, pipeline={{_base_.test_pipeline}})
load_from = "ckpts/bevformer_r101_dcn_24ep.pth"
find_unused_parameters = True  # the map head has weights that no loss reaches

# What upstream's schema has no word for. The upstream stack ignores this key.
native = dict(
    track_capacity=256,  # carried track slots; upstream's engine holds 249
    # Cells that a map line covers in labels and map IoU. The upstream stack draws 1 on every canvas. The published
    # UniAD-base weights were trained with lines of 2 on the canvas of 200: say 2 to evaluate or go on training those.
    lane_thickness=1,
    compat="upstream",  # known faults of upstream: as published weights saw them
)
