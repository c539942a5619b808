# UniAD-tiny, stage 2. What it shares with stage 1 is in _base_/variants/tiny_imgx0.25.py; here stand the new heads' sizes.
_base_ = ["./base_e2e.py", "../_base_/variants/tiny_imgx0.25.py"]

bev_h_ = {{_base_._variant_.bev_h}}
bev_w_ = {{_base_._variant_.bev_w}}
bev_size = (bev_h_, bev_w_)
canvas_size = bev_size

model = dict(
    pretrained={{_base_._variant_.pretrained}},
    img_backbone={{_base_._variant_.img_backbone}},
    img_neck={{_base_._variant_.img_neck}},
    pts_bbox_head={{_base_._variant_.pts_bbox_head}},
    seg_head={{_base_._variant_.seg_head}},
    occ_head=dict(bev_size=bev_size, bevslicer=False, grid_conf=dict(xbound=[-12.5, 12.5, 0.5], ybound=[-12.5, 12.5, 0.5])),
    motion_head=dict(bev_h=bev_h_, bev_w=bev_w_),
    planning_head=dict(bev_h=bev_h_, bev_w=bev_w_),
)

train_pipeline = {{_base_._quarter_half_m_.train}}
test_pipeline = {{_base_._quarter_half_m_.test}}
data = dict(
    train=dict(pipeline=train_pipeline, bev_size=bev_size, canvas_size=canvas_size),
    val=dict(pipeline=test_pipeline, bev_size=bev_size, canvas_size=canvas_size),
    test=dict(pipeline=test_pipeline, bev_size=bev_size, canvas_size=canvas_size),
)
evaluation = dict(interval=30, pipeline=test_pipeline)
load_from = "ckpts/tiny_imgx0.25_track_map.pth"
