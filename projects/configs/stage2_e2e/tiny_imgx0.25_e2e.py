# UniAD-tiny, stage 2. What it changes of stage 1 is what tiny_imgx0.25_track_map.py changes, and the new heads' sizes.
_base_ = ["./base_e2e.py"]

_dim_ = 256
_num_levels_ = 1
bev_h_ = 50
bev_w_ = 50
bev_size = (bev_h_, bev_w_)
canvas_size = bev_size

model = dict(
    pretrained=dict(img="torchvision://resnet50"),
    img_backbone=dict(
        _delete_=True,
        type="ResNet",
        depth=50,
        num_stages=4,
        out_indices=(3,),
        frozen_stages=1,
        norm_cfg=dict(type="BN", requires_grad=False),
        norm_eval=True,
        style="pytorch",
    ),
    img_neck=dict(in_channels=[2048], num_outs=_num_levels_),
    pts_bbox_head=dict(
        bev_h=bev_h_,
        bev_w=bev_w_,
        transformer=dict(
            encoder=dict(
                num_layers=3,
                transformerlayers=dict(
                    attn_cfgs=[
                        dict(type="TemporalSelfAttention", embed_dims=_dim_, num_levels=1),
                        dict(
                            type="SpatialCrossAttention",
                            pc_range={{_base_.point_cloud_range}},
                            deformable_attention=dict(
                                type="MSDeformableAttention3D",
                                embed_dims=_dim_,
                                num_points=8,
                                num_levels=_num_levels_,
                            ),
                            embed_dims=_dim_,
                        ),
                    ]
                ),
            )
        ),
        positional_encoding=dict(row_num_embed=bev_h_, col_num_embed=bev_w_),
    ),
    seg_head=dict(
        bev_h=bev_h_,
        bev_w=bev_w_,
        canvas_size=canvas_size,
        transformer=dict(
            encoder=dict(transformerlayers=dict(attn_cfgs=dict(num_levels=_num_levels_))),
            decoder=dict(
                transformerlayers=dict(
                    attn_cfgs=[
                        dict(type="MultiheadAttention", embed_dims=_dim_, num_heads=8, dropout=0.1),
                        dict(type="MultiScaleDeformableAttention", embed_dims=_dim_, num_levels=_num_levels_),
                    ]
                )
            ),
        ),
    ),
    occ_head=dict(
        bev_size=bev_size,
        bevslicer=False,
        grid_conf=dict(xbound=[-12.5, 12.5, 0.5], ybound=[-12.5, 12.5, 0.5]),
    ),
    motion_head=dict(bev_h=bev_h_, bev_w=bev_w_),
    planning_head=dict(bev_h=bev_h_, bev_w=bev_w_),
)

# Half a metre a cell, as the planner assumes. The 50 cells then span 25 m while the BEV, which is not cut, spans 102 m:
# a known fault of upstream (native.compat, occ_grid).
occflow_grid_conf = dict(xbound=[-12.5, 12.5, 0.5], ybound=[-12.5, 12.5, 0.5], zbound=[-10.0, 10.0, 20.0])
occ_labels = dict(
    type="GenerateOccFlowLabels",
    grid_conf=occflow_grid_conf,
    ignore_index=255,
    only_vehicle=True,
    filter_invisible=False,
)
normalize = dict(
    type="NormalizeMultiviewImage", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True
)
scale = dict(type="RandomScaleImageMultiViewImage", scales=[0.25])
train_pipeline = [
    {{_base_.load_images}},
    {{_base_.photometric}},
    {{_base_.load_annotations}},
    occ_labels,
    {{_base_.range_filter}},
    {{_base_.name_filter}},
    normalize,
    scale,
    {{_base_.pad}},
    {{_base_.train_bundle}},
    {{_base_.train_collect}},
]
test_pipeline = [
    {{_base_.load_images}},
    normalize,
    {{_base_.load_future_annotations}},
    occ_labels,
    dict(
        type="MultiScaleFlipAug3D",
        img_scale=(1600, 900),
        pts_scale_ratio=1,
        flip=False,
        transforms=[scale, {{_base_.pad}}, {{_base_.test_bundle}}, {{_base_.test_collect}}],
    ),
]
data = dict(
    train=dict(pipeline=train_pipeline, bev_size=bev_size, canvas_size=canvas_size),
    val=dict(pipeline=test_pipeline, bev_size=bev_size, canvas_size=canvas_size),
    test=dict(pipeline=test_pipeline, bev_size=bev_size, canvas_size=canvas_size),
)
evaluation = dict(interval=30, pipeline=test_pipeline)
load_from = "ckpts/tiny_imgx0.25_track_map.pth"
