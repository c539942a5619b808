# BEVFormer's image encoder and transformer, with the values of the full model: stage 0 trains them, later stages keep them.
_base_ = ["../datasets/nus-3d.py"]

point_cloud_range = {{_base_.point_cloud_range}}
_dim_ = 256
_num_levels_ = 4  # image feature levels
bev_h_ = 200
bev_w_ = 200
num_query = 900  # in the track head, the ego query is one more
num_classes = 10

# What the layers of its transformers share
_layer_ = dict(
    feedforward_channels=2 * _dim_, ffn_dropout=0.1, operation_order=("self_attn", "norm", "cross_attn", "norm", "ffn", "norm")
)
_among_queries_ = dict(type="MultiheadAttention", embed_dims=_dim_, num_heads=8, dropout=0.1)
_of_images_ = dict(type="MSDeformableAttention3D", embed_dims=_dim_, num_points=8, num_levels=_num_levels_)
_bev_attention_ = [
    dict(type="TemporalSelfAttention", embed_dims=_dim_, num_levels=1),
    dict(type="SpatialCrossAttention", pc_range=point_cloud_range, deformable_attention=_of_images_, embed_dims=_dim_),
]

model = dict(
    use_grid_mask=True,
    video_test_mode=True,
    # Deformable convolution in the last two stages: a plain ResNet-101 loads the published weights too, and loses the
    # learnt offsets without a word.
    img_backbone=dict(
        type="ResNet", depth=101, num_stages=4, out_indices=(1, 2, 3), style="caffe",
        norm_cfg=dict(type="BN2d", requires_grad=False),
        norm_eval=True,
        dcn=dict(type="DCNv2", deform_groups=1, fallback_on_stride=False),
        stage_with_dcn=(False, False, True, True),
    ),
    img_neck=dict(
        type="FPN", in_channels=[512, 1024, 2048], out_channels=_dim_, start_level=0, num_outs=_num_levels_,
        add_extra_convs="on_output", relu_before_extra_convs=True,
    ),
    pts_bbox_head=dict(
        bev_h=bev_h_, bev_w=bev_w_,
        num_query=num_query, num_classes=num_classes,
        in_channels=_dim_,
        sync_cls_avg_factor=True, with_box_refine=True,
        as_two_stage=False,
        transformer=dict(
            type="PerceptionTransformer",
            rotate_prev_bev=True, use_shift=True,
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
                    attn_cfgs=_bev_attention_,
                    **_layer_,
                ),
            ),
            decoder=dict(
                type="DetectionTransformerDecoder", num_layers=6, return_intermediate=True,
                transformerlayers=dict(
                    type="DetrTransformerDecoderLayer",
                    attn_cfgs=[_among_queries_, dict(type="CustomMSDeformableAttention", embed_dims=_dim_, num_levels=1)],
                    **_layer_,
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
            type="LearnedPositionalEncoding", num_feats=_dim_ // 2, row_num_embed=bev_h_, col_num_embed=bev_w_
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
