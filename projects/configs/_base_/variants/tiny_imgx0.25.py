# UniAD-tiny, what its stages share: ResNet-50, images at a quarter, a 50x50 BEV, three encoder layers.
# Names that begin with two underscores stay in this file; the two stages take their parts of _variant_.
__dim = 256
__num_levels = 1
__bev_h = 50
__bev_w = 50
__bev_size = (__bev_h, __bev_w)
__pc_range = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]  # that of the data set: a file that stands beside it cannot read it

_variant_ = dict(
    bev_h=__bev_h,
    bev_w=__bev_w,
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
    img_neck=dict(in_channels=[2048], num_outs=__num_levels),
    pts_bbox_head=dict(
        bev_h=__bev_h,
        bev_w=__bev_w,
        transformer=dict(
            encoder=dict(
                num_layers=3,
                transformerlayers=dict(
                    attn_cfgs=[
                        dict(type="TemporalSelfAttention", embed_dims=__dim, num_levels=1),
                        dict(
                            type="SpatialCrossAttention",
                            pc_range=__pc_range,
                            deformable_attention=dict(
                                type="MSDeformableAttention3D", embed_dims=__dim, num_points=8, num_levels=__num_levels
                            ),
                            embed_dims=__dim,
                        ),
                    ]
                ),
            )
        ),
        positional_encoding=dict(row_num_embed=__bev_h, col_num_embed=__bev_w),
    ),
    seg_head=dict(
        bev_h=__bev_h,
        bev_w=__bev_w,
        canvas_size=__bev_size,
        transformer=dict(
            encoder=dict(transformerlayers=dict(attn_cfgs=dict(num_levels=__num_levels))),
            decoder=dict(
                transformerlayers=dict(
                    attn_cfgs=[
                        dict(type="MultiheadAttention", embed_dims=__dim, num_heads=8, dropout=0.1),
                        dict(type="MultiScaleDeformableAttention", embed_dims=__dim, num_levels=__num_levels),
                    ]
                )
            ),
        ),
    ),
)
