# Stage 0: BEVFormer, 3-D detection on a temporal queue, with the values of the full model. Stage 1 starts from it. A variant file
# states what it changes. Schema and place are those of UniAD v2.0, which trains its BEV encoder so.
_base_ = ["../_base_/datasets/nus-3d.py", "../_base_/default_runtime.py"]

point_cloud_range = {{_base_.point_cloud_range}}
class_names = {{_base_.class_names}}
_dim_ = 256
_ffn_dim_ = 2 * _dim_
_heads_ = 8
_num_levels_ = 4
bev_h_ = 200
bev_w_ = 200
num_query = 900
num_classes = 10

# Frames per clip: the last one is learnt from, of those before it one is left out at random.
queue_length = 4

_bev_order_ = ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm")

model = dict(
    type="BEVFormer",
    use_grid_mask=True,
    video_test_mode=True,
    img_backbone=dict(
        type="ResNet",
        depth=101,
        num_stages=4,
        out_indices=(1, 2, 3),
        frozen_stages=1,
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
    pts_bbox_head=dict(
        type="BEVFormerHead",
        bev_h=bev_h_,
        bev_w=bev_w_,
        num_query=num_query,
        num_classes=num_classes,
        in_channels=_dim_,
        sync_cls_avg_factor=True,
        with_box_refine=True,
        as_two_stage=False,
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
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=2.0),
        loss_bbox=dict(type="L1Loss", loss_weight=0.25),
        loss_iou=dict(type="GIoULoss", loss_weight=0.0),
    ),
    train_cfg=dict(
        pts=dict(
            grid_size=[512, 512, 1],
            voxel_size=[0.2, 0.2, 8],
            point_cloud_range=point_cloud_range,
            out_size_factor=4,
            assigner=dict(
                type="HungarianAssigner3D",
                cls_cost=dict(type="FocalLossCost", weight=2.0),
                reg_cost=dict(type="BBox3DL1Cost", weight=0.25),
                iou_cost=dict(type="IoUCost", weight=0.0),
                pc_range=point_cloud_range,
            ),
        )
    ),
)

# --- steps, by name: a variant spells its own lists -------------------------------------------------------------------
load_annotations = dict(type="LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True, with_attr_label=False)
range_filter = dict(type="ObjectRangeFilter", point_cloud_range=point_cloud_range)
name_filter = dict(type="ObjectNameFilter", classes=class_names)
train_collect = dict(type="CustomCollect3D", keys=["gt_bboxes_3d", "gt_labels_3d", "img"])
test_collect = dict(type="CustomCollect3D", keys=["img"])
_learn_ = [{{_base_.load_images}}, {{_base_.photometric}}, load_annotations, range_filter, name_filter]
_hand_on_ = [{{_base_.train_bundle}}, train_collect]
_at_test_ = [{{_base_.test_bundle}}, test_collect]
_aug_ = dict(type="MultiScaleFlipAug3D", img_scale=(1600, 900), pts_scale_ratio=1, flip=False)

train_pipeline = _learn_ + [{{_base_.normalize}}, {{_base_.pad}}] + _hand_on_
test_pipeline = [
    {{_base_.load_images}},
    {{_base_.normalize}},
    dict(transforms=[{{_base_.pad}}] + _at_test_, **_aug_),
]
_quarter_ = dict(
    train=_learn_ + [{{_base_._rgb_}}, {{_base_._quarter_}}, {{_base_.pad}}] + _hand_on_,
    test=[
        {{_base_.load_images}},
        {{_base_._rgb_}},
        dict(transforms=[{{_base_._quarter_}}, {{_base_.pad}}] + _at_test_, **_aug_),
    ],
)

_split_ = dict(
    _delete_=True,
    type="CustomNuScenesDataset",
    data_root={{_base_.data_root}},
    classes=class_names,
    modality={{_base_.input_modality}},
    bev_size=(bev_h_, bev_w_),
    box_type_3d="LiDAR",
)
data = dict(
    samples_per_gpu=1,
    workers_per_gpu=4,
    train=dict(
        ann_file={{_base_.ann_file_train}},
        pipeline=train_pipeline,
        test_mode=False,
        use_valid_flag=True,
        queue_length=queue_length,
        **_split_,
    ),
    val=dict(ann_file={{_base_.ann_file_val}}, pipeline=test_pipeline, test_mode=True, samples_per_gpu=1, **_split_),
    test=dict(ann_file={{_base_.ann_file_val}}, pipeline=test_pipeline, test_mode=True, **_split_),
)

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
total_epochs = 24
runner = dict(type="EpochBasedRunner", max_epochs=total_epochs)
evaluation = dict(interval=6, pipeline=test_pipeline)
# An image backbone: that of FCOS3D, or torchvision's resnet101 (docs/training.md says what each gives)
load_from = "ckpts/r101_dcn_fcos3d_pretrain.pth"
log_config = dict(interval=50)

native = dict(compat="upstream")
