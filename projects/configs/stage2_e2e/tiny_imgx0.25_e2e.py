# UniAD-tiny, stage 2. Its model is in _base_/variants/tiny_imgx0.25.py.
_base_ = ["./base_e2e.py", "../_base_/variants/tiny_imgx0.25.py"]

bev_h_ = {{_base_._variant_.bev_h}}
bev_w_ = {{_base_._variant_.bev_w}}
bev_size = canvas_size = (bev_h_, bev_w_)

model = {{_base_._variant_.model_2}}

train_pipeline = {{_base_._quarter_half_m_.train}}
test_pipeline = {{_base_._quarter_half_m_.test}}
_scenes_ = dict(pipeline=test_pipeline, bev_size=bev_size, canvas_size=canvas_size)
data = dict(
    train=dict(pipeline=train_pipeline, bev_size=bev_size, canvas_size=canvas_size), val=_scenes_, test=_scenes_
)
evaluation = dict(interval=30, pipeline=test_pipeline)
load_from = "ckpts/tiny_imgx0.25_track_map.pth"
