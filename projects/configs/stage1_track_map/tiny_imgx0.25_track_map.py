# UniAD-tiny, stage 1: what it shares with stage 2 is in _base_/variants/tiny_imgx0.25.py. BEVFormer-tiny initialises it.
_base_ = ["./base_track_map.py", "../_base_/variants/tiny_imgx0.25.py"]

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
)

train_pipeline = {{_base_._quarter_2m_.train}}
test_pipeline = {{_base_._quarter_2m_.test}}
data = dict(
    train=dict(pipeline=train_pipeline, bev_size=bev_size, canvas_size=canvas_size),
    val=dict(pipeline=test_pipeline, bev_size=bev_size, canvas_size=canvas_size),
    test=dict(pipeline=test_pipeline, bev_size=bev_size, canvas_size=canvas_size),
)
evaluation = dict(pipeline=test_pipeline)
load_from = "ckpts/bevformer_tiny_epoch_24_updated2.pth"  # written by postprocess_bevformer_tiny_epoch_24_pth.py
