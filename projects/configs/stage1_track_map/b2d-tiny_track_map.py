# UniAD-tiny of Bench2Drive, stage 1: what differs from its base. A clip has 3 frames.
_base_ = ["./b2d-base_track_map.py"]

bev_h_ = 100
bev_w_ = 100
bev_size = (bev_h_, bev_w_)
canvas_size = (2 * bev_h_, 2 * bev_w_)
queue_length = 3
model = dict(
    queue_length=queue_length,
    img_backbone={{_base_._b2d_.tiny.img_backbone}},
    pts_bbox_head={{_base_._b2d_.tiny.pts_bbox_head}},
    seg_head={{_base_._b2d_.tiny.seg_head}},
)
data = dict(train=dict(bev_size=bev_size, queue_length=queue_length), val=dict(bev_size=bev_size), test=dict(bev_size=bev_size))
load_from = "ckpts/bevformer_tiny_b2d.pth"
