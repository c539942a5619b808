# UniAD-tiny of Bench2Drive, stage 1: what differs from its base. Images are of the full size; the BEV of 100x100 cells is doubled
# for the heads after tracking.
_base_ = ["./b2d-base_track_map.py"]

bev_h_ = 100
bev_w_ = 100
bev_size = (bev_h_, bev_w_)
canvas_size = (2 * bev_h_, 2 * bev_w_)
queue_length = 3

model = dict(
    queue_length=queue_length,
    img_backbone={{_base_._b2d_.tiny_backbone}},
    pts_bbox_head=dict(
        bev_h=bev_h_,
        bev_w=bev_w_,
        transformer=dict(encoder=dict(num_layers=3)),
        positional_encoding=dict(row_num_embed=bev_h_, col_num_embed=bev_w_),
    ),
    seg_head=dict(canvas_size=canvas_size),
)
data = dict(
    train=dict(bev_size=bev_size, queue_length=queue_length),
    val=dict(bev_size=bev_size),
    test=dict(bev_size=bev_size),
)
load_from = "ckpts/bevformer_tiny_b2d.pth"
