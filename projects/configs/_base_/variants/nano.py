# UniAD-nano, what its stages share: the smallest model that still learns. Ours; for the demo, for tests, for two CPU cores.
#
# At an eighth of the image a cell of the last ResNet stage would cover a whole car, so it is left off.
# Names that begin with two underscores stay in this file; the two stages take their parts of _variant_.
__dim = 128
__ffn_dim = 256
__num_levels = 1
__bev_h = 50
__bev_w = 50
__bev_size = (__bev_h, __bev_w)
__num_query = 240
__pc_range = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]  # that of the data set: a file that stands beside it cannot read it

# A model this small underfits: dropout would only make it slower.
__mha = dict(type="MultiheadAttention", embed_dims=__dim, num_heads=8, dropout=0.0)
__backbone = dict(
    _delete_=True, type="ResNet", depth=18, base_channels=32, num_stages=3, out_indices=(2,), style="pytorch",
    strides=(1, 2, 2), dilations=(1, 1, 1), frozen_stages=-1, norm_cfg=dict(type="BN", requires_grad=True),
)

_variant_ = dict(
    dim=__dim, ffn_dim=__ffn_dim,
    bev_h=__bev_h, bev_w=__bev_w,
    num_query=__num_query,
    queue_length=2,
    # Nobody publishes weights for it, so it trains from nothing: batch norm learns its statistics, in stage 1.
    img_backbone=dict(norm_eval=False, **__backbone),
    img_backbone_frozen=dict(norm_eval=True, **__backbone),
    img_neck=dict(in_channels=[128], out_channels=__dim, num_outs=__num_levels),
    pts_bbox_head=dict(
        bev_h=__bev_h, bev_w=__bev_w,
        num_query=__num_query,
        in_channels=__dim,
        transformer=dict(
            embed_dims=__dim,
            encoder=dict(
                num_layers=1,
                transformerlayers=dict(
                    attn_cfgs=[
                        dict(type="TemporalSelfAttention", embed_dims=__dim, num_levels=1, dropout=0.0),
                        dict(
                            type="SpatialCrossAttention",
                            pc_range=__pc_range,
                            dropout=0.0,
                            deformable_attention=dict(
                                type="MSDeformableAttention3D", embed_dims=__dim, num_points=4, num_levels=__num_levels
                            ),
                            embed_dims=__dim,
                        ),
                    ],
                    feedforward_channels=__ffn_dim, ffn_dropout=0.0,
                ),
            ),
            decoder=dict(
                num_layers=3,
                transformerlayers=dict(
                    attn_cfgs=[__mha, dict(type="CustomMSDeformableAttention", embed_dims=__dim, num_levels=1, dropout=0.0)],
                    feedforward_channels=__ffn_dim, ffn_dropout=0.0,
                ),
            ),
        ),
        positional_encoding=dict(num_feats=__dim // 2, row_num_embed=__bev_h, col_num_embed=__bev_w),
    ),
    seg_head=dict(
        bev_h=__bev_h, bev_w=__bev_w,
        canvas_size=__bev_size,
        num_query=50,
        test_cfg=dict(max_per_img=50),
        transformer=dict(
            encoder=dict(
                num_layers=1,
                transformerlayers=dict(
                    attn_cfgs=dict(embed_dims=__dim, num_levels=__num_levels, dropout=0.0),
                    feedforward_channels=__ffn_dim, ffn_dropout=0.0,
                ),
            ),
            decoder=dict(
                num_layers=2,
                transformerlayers=dict(
                    attn_cfgs=[
                        __mha,
                        dict(type="MultiScaleDeformableAttention", embed_dims=__dim, num_levels=__num_levels, dropout=0.0),
                    ],
                    feedforward_channels=__ffn_dim, ffn_dropout=0.0,
                ),
            ),
        ),
        positional_encoding=dict(num_feats=__dim // 2),
        thing_transformer_head=dict(d_model=__dim, num_decoder_layers=1),
        stuff_transformer_head=dict(d_model=__dim, num_decoder_layers=1),
    ),
)
