# UniAD-nano, stage 0. It trains from nothing, as its later stages do.
_base_ = ["./base_bevformer.py", "../_base_/variants/nano.py"]

bev_h_ = {{_base_._variant_.bev_h}}
bev_w_ = {{_base_._variant_.bev_w}}
bev_size = (bev_h_, bev_w_)
queue_length = {{_base_._variant_.queue_length}}

model = dict(
    img_backbone={{_base_._variant_.img_backbone}},
    img_neck={{_base_._variant_.img_neck}},
    pts_bbox_head={{_base_._variant_.pts_bbox_head}},
)

train_pipeline = {{_base_._quarter_.train}}
test_pipeline = {{_base_._quarter_.test}}
data = dict(
    samples_per_gpu=2, workers_per_gpu=1,
    train=dict(pipeline=train_pipeline, bev_size=bev_size, queue_length=queue_length),
    val=dict(pipeline=test_pipeline, bev_size=bev_size),
    test=dict(pipeline=test_pipeline, bev_size=bev_size),
)
evaluation = dict(pipeline=test_pipeline)

optimizer = dict(lr=8e-4, paramwise_cfg=dict(custom_keys=dict(img_backbone=dict(lr_mult=1.0))))
lr_config = dict(warmup_iters=50, by_epoch=False)
load_from = None

native = dict(max_objects=96, compat="fixed", regularise=False)
