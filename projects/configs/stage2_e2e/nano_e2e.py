# UniAD-nano, stage 2. What it changes of stage 1 is what nano_track_map.py changes, and the new heads' sizes.
_base_ = ["./base_e2e.py"]

_dim_ = 128
_ffn_dim_ = 256
_num_levels_ = 1
bev_h_ = 25
bev_w_ = 25
bev_size = (bev_h_, bev_w_)
canvas_size = bev_size
num_query = 300
queue_length = 2
point_cloud_range = {{_base_.point_cloud_range}}

# A model this small underfits: dropout would only make it slower.
_mha_ = dict(type="MultiheadAttention", embed_dims=_dim_, num_heads=8, dropout=0.0)

model = dict(
    queue_length=queue_length,
    num_query=num_query,
    embed_dims=_dim_,
    # Nano trains for minutes. By then the focal loss has brought every score to about 0.18, where queries rest that cannot tell
    # objects (a tenth of them) from nothing; 0.4 would leave tracking, and the verification of its graph, without any track.
    score_thresh=0.17,
    filter_score_thresh=0.15,
    img_backbone=dict(
        _delete_=True,
        type="ResNet",
        depth=18,
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        frozen_stages=3,
        norm_cfg=dict(type="BN", requires_grad=False),
        norm_eval=True,
        style="pytorch",
    ),
    img_neck=dict(in_channels=[256], out_channels=_dim_, num_outs=_num_levels_),
    pts_bbox_head=dict(
        bev_h=bev_h_,
        bev_w=bev_w_,
        num_query=num_query,
        in_channels=_dim_,
        transformer=dict(
            embed_dims=_dim_,
            encoder=dict(
                num_layers=1,
                transformerlayers=dict(
                    attn_cfgs=[
                        dict(type="TemporalSelfAttention", embed_dims=_dim_, num_levels=1, dropout=0.0),
                        dict(
                            type="SpatialCrossAttention",
                            pc_range=point_cloud_range,
                            dropout=0.0,
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
                    ffn_dropout=0.0,
                ),
            ),
            decoder=dict(
                num_layers=3,
                transformerlayers=dict(
                    attn_cfgs=[_mha_, dict(type="CustomMSDeformableAttention", embed_dims=_dim_, num_levels=1, dropout=0.0)],
                    feedforward_channels=_ffn_dim_,
                    ffn_dropout=0.0,
                ),
            ),
        ),
        positional_encoding=dict(num_feats=_dim_ // 2, row_num_embed=bev_h_, col_num_embed=bev_w_),
    ),
    seg_head=dict(
        bev_h=bev_h_,
        bev_w=bev_w_,
        canvas_size=canvas_size,
        num_query=50,
        test_cfg=dict(max_per_img=50),
        transformer=dict(
            encoder=dict(
                num_layers=2,
                transformerlayers=dict(
                    attn_cfgs=dict(embed_dims=_dim_, num_levels=_num_levels_, dropout=0.0),
                    feedforward_channels=_ffn_dim_,
                    ffn_dropout=0.0,
                ),
            ),
            decoder=dict(
                num_layers=2,
                transformerlayers=dict(
                    attn_cfgs=[
                        _mha_,
                        dict(type="MultiScaleDeformableAttention", embed_dims=_dim_, num_levels=_num_levels_, dropout=0.0),
                    ],
                    feedforward_channels=_ffn_dim_,
                    ffn_dropout=0.0,
                ),
            ),
        ),
        positional_encoding=dict(num_feats=_dim_ // 2),
        thing_transformer_head=dict(d_model=_dim_, num_decoder_layers=2),
        stuff_transformer_head=dict(d_model=_dim_, num_decoder_layers=2),
    ),
    occ_head=dict(
        bev_size=bev_size,
        bevslicer=False,
        grid_conf=dict(xbound=[-50.0, 50.0, 4], ybound=[-50.0, 50.0, 4]),
        bev_emb_dim=_dim_,
        bev_proj_dim=_dim_,
        bev_proj_nlayers=1,
        transformer_decoder=dict(
            transformerlayers=dict(
                attn_cfgs=dict(embed_dims=_dim_),
                ffn_cfgs=dict(embed_dims=_dim_, feedforward_channels=_ffn_dim_),
                feedforward_channels=_ffn_dim_,
            )
        ),
        query_dim=_dim_,
    ),
    motion_head=dict(
        bev_h=bev_h_,
        bev_w=bev_w_,
        embed_dims=_dim_,
        det_layer_num=3,
        transformerlayers=dict(
            embed_dims=_dim_,
            num_layers=1,
            transformerlayers=dict(
                attn_cfgs=[
                    dict(
                        type="MotionDeformableAttention",
                        num_steps=12,
                        embed_dims=_dim_,
                        num_levels=1,
                        num_heads=8,
                        num_points=4,
                        sample_index=-1,
                    ),
                ],
                feedforward_channels=_ffn_dim_,
            ),
        ),
    ),
    planning_head=dict(bev_h=bev_h_, bev_w=bev_w_, embed_dims=_dim_),
)

occflow_grid_conf = dict(xbound=[-50.0, 50.0, 4], ybound=[-50.0, 50.0, 4], zbound=[-10.0, 10.0, 20.0])
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
scale = dict(type="RandomScaleImageMultiViewImage", scales=[0.125])  # 200x112, padded to 224x128
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
    samples_per_gpu=2,
    workers_per_gpu=1,
    train=dict(pipeline=train_pipeline, bev_size=bev_size, canvas_size=canvas_size, queue_length=queue_length),
    val=dict(pipeline=test_pipeline, bev_size=bev_size, canvas_size=canvas_size),
    test=dict(pipeline=test_pipeline, bev_size=bev_size, canvas_size=canvas_size),
)
evaluation = dict(pipeline=test_pipeline)

optimizer = dict(lr=4e-4)
lr_config = dict(warmup_iters=50, by_epoch=False)
load_from = "ckpts/nano_track_map.pth"

# The collision optimiser counts half a metre a cell as documented; here a cell is four.
native = dict(track_capacity=64, compat=dict(_delete_=True, collision_pixels="fixed"))
