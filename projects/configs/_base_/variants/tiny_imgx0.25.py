# UniAD-tiny, what its stages share: ResNet-50, images at a quarter, a 50x50 BEV, three encoder layers.
# Names that begin with two underscores stay in this file; the stages take theirs of _variant_.
__dim = 256
__num_levels = 1
__bev_h = 50
__bev_w = 50
__bev_size = (__bev_h, __bev_w)
__pc_range = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]  # that of the data set: a file that stands beside it cannot read it

__among_queries = dict(type="MultiheadAttention", embed_dims=__dim, num_heads=8, dropout=0.1)
__of_images = dict(type="MSDeformableAttention3D", embed_dims=__dim, num_points=8, num_levels=__num_levels)
__bev_attention = [
    dict(type="TemporalSelfAttention", embed_dims=__dim, num_levels=1),
    dict(type="SpatialCrossAttention", pc_range=__pc_range, deformable_attention=__of_images, embed_dims=__dim),
]
__of_bev = dict(type="MultiScaleDeformableAttention", embed_dims=__dim, num_levels=__num_levels)
__detector = dict(
    pretrained=dict(img="torchvision://resnet50"),
    img_backbone=dict(
        _delete_=True, type="ResNet", depth=50, num_stages=4, out_indices=(3,), style="pytorch",
        frozen_stages=1, norm_cfg=dict(type="BN", requires_grad=False), norm_eval=True,
    ),
    img_neck=dict(in_channels=[2048], num_outs=__num_levels),
    pts_bbox_head=dict(
        bev_h=__bev_h, bev_w=__bev_w,
        transformer=dict(encoder=dict(num_layers=3, transformerlayers=dict(attn_cfgs=__bev_attention))),
        positional_encoding=dict(row_num_embed=__bev_h, col_num_embed=__bev_w),
    ),
)
__model = dict(
    seg_head=dict(
        bev_h=__bev_h, bev_w=__bev_w,
        canvas_size=__bev_size,
        transformer=dict(
            encoder=dict(transformerlayers=dict(attn_cfgs=dict(num_levels=__num_levels))),
            decoder=dict(transformerlayers=dict(attn_cfgs=[__among_queries, __of_bev])),
        ),
    ),
    **__detector,
)
__occ_grid = dict(xbound=[-12.5, 12.5, 0.5], ybound=[-12.5, 12.5, 0.5])

# The model of each stage
_variant_ = dict(
    bev_h=__bev_h, bev_w=__bev_w,
    model_0=__detector,
    model_1=__model,
    model_2=dict(
        occ_head=dict(bev_size=__bev_size, bevslicer=False, grid_conf=__occ_grid),
        motion_head=dict(bev_h=__bev_h, bev_w=__bev_w),
        planning_head=dict(bev_h=__bev_h, bev_w=__bev_w),
        **__model,
    ),
)
