# Stage 1: tracking and map, with the values of the full model. A variant file states what it changes.
_base_ = ["../_base_/datasets/nus-3d.py", "../_base_/default_runtime.py"]

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

# The same in the loss, in matching, and in the unused settings of upstream's head
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
    queue_length=queue_length,
    use_grid_mask=True,
    video_test_mode=True,
    num_query=num_query,
    num_classes=num_classes,
    embed_dims=_dim_,
    pc_range=point_cloud_range,
    upsample_if_tiny=False,
    # Deformable convolution in the last two stages: a plain ResNet-101 loads the published weights too, and loses the
    # learnt offsets without a word.
    img_backbone=dict(
        type="ResNet",
        depth=101,
        num_stages=4,
        out_indices=(1, 2, 3),
        frozen_stages=4,
        norm_cfg=dict(type="BN2d", requires_grad=False),
        norm_eval=True,
        style="caffe",
        dcn=dict(type="DCNv2", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, False, True, True),
    ),
    img_neck=dict(
        type="FPN",
        in_channels=[512, 1024, 2048],
        out_channels=_dim_,
        start_level=0,
        add_extra_convs="on_output",
        num_outs=_num_levels_,
        relu_before_extra_convs=True,
    ),
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
        assigner=dict(
            type="HungarianAssigner3DTrack",
            cls_cost=_focal_cost_,
            reg_cost=_box3d_cost_,
            pc_range=point_cloud_range,
        ),
        loss_cls=_focal_loss_,
        loss_bbox=_box3d_loss_,
        loss_past_traj_weight=0.0,
    ),
    pts_bbox_head=dict(
        type="BEVFormerTrackHead",
        bev_h=bev_h_,
        bev_w=bev_w_,
        num_query=num_query,
        num_classes=num_classes,
        in_channels=_dim_,
        sync_cls_avg_factor=True,
        with_box_refine=True,
        as_two_stage=False,
        past_steps=4,
        fut_steps=4,
        transformer=dict(
            type="PerceptionTransformer",
            rotate_prev_bev=True,
            use_shift=True,
            use_can_bus=True,
            embed_dims=_dim_,
            encoder=dict(
                type="BEVFormerEncoder",
                num_layers=6,
                pc_range=point_cloud_range,
                num_points_in_pillar=4,
                return_intermediate=False,
                transformerlayers=dict(
                    type="BEVFormerLayer",
                    attn_cfgs=[
                        dict(type="TemporalSelfAttention", embed_dims=_dim_, num_levels=1),
                        dict(
                            type="SpatialCrossAttention",
                            pc_range=point_cloud_range,
                            deformable_attention=dict(
                                type="MSDeformableAttention3D",
                                embed_dims=_dim_,
                                num_points=8,
                                num_levels=_num_levels_,
                            ),
                            embed_dims=_dim_,
                        ),
                    ],
                    feedforward_channels=_ffn_dim_,
                    ffn_dropout=0.1,
                    operation_order=_bev_order_,
                ),
            ),
            decoder=dict(
                type="DetectionTransformerDecoder",
                num_layers=6,
                return_intermediate=True,
                transformerlayers=dict(
                    type="DetrTransformerDecoderLayer",
                    attn_cfgs=[
                        dict(type="MultiheadAttention", embed_dims=_dim_, num_heads=_heads_, dropout=0.1),
                        dict(type="CustomMSDeformableAttention", embed_dims=_dim_, num_levels=1),
                    ],
                    feedforward_channels=_ffn_dim_,
                    ffn_dropout=0.1,
                    operation_order=_bev_order_,
                ),
            ),
        ),
        bbox_coder=dict(
            type="NMSFreeCoder",
            post_center_range=[-61.2, -61.2, -10.0, 61.2, 61.2, 10.0],
            pc_range=point_cloud_range,
            max_num=300,
            voxel_size=[0.2, 0.2, 8],
            num_classes=num_classes,
        ),
        positional_encoding=dict(
            type="LearnedPositionalEncoding",
            num_feats=_dim_ // 2,
            row_num_embed=bev_h_,
            col_num_embed=bev_w_,
        ),
        # Built by upstream's head, never used: tracking is trained by loss_cfg.
        loss_cls=_focal_loss_,
        loss_bbox=_box3d_loss_,
        loss_iou=dict(type="GIoULoss", loss_weight=0.0),
    ),
    seg_head=dict(
        type="PansegformerHead",
        bev_h=bev_h_,
        bev_w=bev_w_,
        canvas_size=(bev_h_, bev_w_),
        pc_range=point_cloud_range,
        num_query=300,
        num_classes=4,  # divider, crossing, contour; drivable area
        num_things_classes=3,
        num_stuff_classes=1,
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
                    feedforward_channels=_ffn_dim_,
                    ffn_dropout=0.1,
                    operation_order=_self_order_,
                ),
            ),
            decoder=dict(
                type="DeformableDetrTransformerDecoder",
                num_layers=6,
                return_intermediate=True,
                transformerlayers=dict(
                    type="DetrTransformerDecoderLayer",
                    attn_cfgs=[
                        dict(type="MultiheadAttention", embed_dims=_dim_, num_heads=_heads_, dropout=0.1),
                        dict(type="MultiScaleDeformableAttention", embed_dims=_dim_, num_levels=_num_levels_),
                    ],
                    feedforward_channels=_ffn_dim_,
                    ffn_dropout=0.1,
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
        stuff_transformer_head=dict(
            type="SegMaskHead", d_model=_dim_, nhead=_heads_, num_decoder_layers=6, self_attn=True
        ),
        train_cfg=dict(
            assigner=dict(type="HungarianAssigner", **_map_assigner_costs_),
            assigner_with_mask=dict(
                type="HungarianAssigner_multi_info",
                mask_cost=dict(type="DiceCost", weight=2.0),
                **_map_assigner_costs_,
            ),
            sampler=dict(type="PseudoSampler"),
            sampler_with_mask=dict(type="PseudoSampler_segformer"),
        ),
    ),
    # Read by the constructor of upstream's detector; native matches by loss_cfg.
    train_cfg=dict(
        pts=dict(
            grid_size=[512, 512, 1],
            voxel_size=[0.2, 0.2, 8],
            point_cloud_range=point_cloud_range,
            out_size_factor=4,
            assigner=dict(
                type="HungarianAssigner3D",
                cls_cost=_focal_cost_,
                reg_cost=_box3d_cost_,
                iou_cost=dict(type="IoUCost", weight=0.0),
                pc_range=point_cloud_range,
            ),
        )
    ),
)
data = dict(train=dict(queue_length=queue_length))

optimizer = dict(
    type="AdamW",
    lr=2e-4,
    paramwise_cfg=dict(custom_keys={"img_backbone": dict(lr_mult=0.1)}),
    weight_decay=0.01,
)
optimizer_config = dict(grad_clip=dict(max_norm=35, norm_type=2))
lr_config = dict(
    policy="CosineAnnealing",
    warmup="linear",
    warmup_iters=500,
    warmup_ratio=1.0 / 3,
    min_lr_ratio=1e-3,
)
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
