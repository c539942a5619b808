# UniAD-nano, stage 1. What it shares with stage 2 is in _base_/variants/nano.py.
#
# Nobody publishes weights for it, so it trains from nothing: no part is frozen and batch norm learns its statistics.
_base_ = ["./base_track_map.py", "../_base_/variants/nano.py"]

point_cloud_range = {{_base_.point_cloud_range}}
bev_h_ = {{_base_._variant_.bev_h}}
bev_w_ = {{_base_._variant_.bev_w}}
bev_size = canvas_size = (bev_h_, bev_w_)
num_query = {{_base_._variant_.num_query}}
queue_length = {{_base_._variant_.queue_length}}

model = dict(
    queue_length=queue_length, num_query=num_query,
    embed_dims={{_base_._variant_.dim}},
    img_backbone={{_base_._variant_.img_backbone}},
    freeze_img_backbone=False,
    img_neck={{_base_._variant_.img_neck}},
    pts_bbox_head={{_base_._variant_.pts_bbox_head}},
    seg_head={{_base_._variant_.seg_head}},
)

train_pipeline = {{_base_._quarter_2m_.train}}
test_pipeline = {{_base_._quarter_2m_.test}}
# The futures of synthetic objects are smooth: nothing to smooth, which would take a third of an iteration.
_shared_ = dict(bev_size=bev_size, canvas_size=canvas_size, use_nonlinear_optimizer=False)
data = dict(
    samples_per_gpu=2, workers_per_gpu=1,
    train=dict(pipeline=train_pipeline, queue_length=queue_length, **_shared_),
    val=dict(pipeline=test_pipeline, **_shared_),
    test=dict(pipeline=test_pipeline, **_shared_),
)
evaluation = dict(pipeline=test_pipeline)

# A short schedule: the backbone learns as fast as the rest, since it knows nothing yet.
optimizer = dict(lr=8e-4, paramwise_cfg=dict(custom_keys=dict(img_backbone=dict(lr_mult=1.0))))
lr_config = dict(warmup_iters=50, by_epoch=False)
load_from = None

native = dict(
    track_capacity=96,
    max_objects=96,
    compat="fixed",  # nothing was published for nano that learnt upstream's faults
    # By overlap almost no pedestrian would be carried on in training, and then several queries follow each at inference.
    track_overlap="distance",
    # It underfits, and trains for minutes.
    regularise=False,
    shared_history=True,
)
