# UniAD-tiny, stage 1: its model is in _base_/variants/tiny_imgx0.25.py. BEVFormer-tiny initialises it.
_base_ = ["./base_track_map.py", "../_base_/variants/tiny_imgx0.25.py"]

bev_h_ = {{_base_._variant_.bev_h}}
bev_w_ = {{_base_._variant_.bev_w}}
bev_size = canvas_size = (bev_h_, bev_w_)

model = {{_base_._variant_.model_1}}

train_pipeline = {{_base_._quarter_2m_.train}}
test_pipeline = {{_base_._quarter_2m_.test}}
_scenes_ = dict(pipeline=test_pipeline, bev_size=bev_size, canvas_size=canvas_size)
data = dict(
    train=dict(pipeline=train_pipeline, bev_size=bev_size, canvas_size=canvas_size), val=_scenes_, test=_scenes_
)
evaluation = dict(pipeline=test_pipeline)
load_from = "ckpts/bevformer_tiny_epoch_24_updated2.pth"  # written by postprocess_bevformer_tiny_epoch_24_pth.py
