# UniAD-base of Bench2Drive, stage 1: the full model with Bench2Drive's classes, map and data, which _base_/variants/b2d.py has.
_base_ = ["./base_track_map.py", "../_base_/variants/b2d.py"]

num_classes = {{_base_._b2d_.num_classes}}
queue_length = 5

model = dict(
    num_classes=num_classes,
    queue_length=queue_length,
    vehicle_id_list={{_base_._b2d_.vehicle_id_list}},
    loss_cfg={{_base_._b2d_.loss_cfg}},
    pts_bbox_head={{_base_._b2d_.pts_bbox_head}},
    seg_head={{_base_._b2d_.seg_head}},
)
data = dict(
    workers_per_gpu=4,
    train={{_base_._b2d_.train_1}},
    val={{_base_._b2d_.val}},
    test={{_base_._b2d_.val}},
)
evaluation = dict(interval=1, pipeline={{_base_._b2d_.test_pipeline}})
lr_config = dict(by_epoch=False)
total_epochs = 1
runner = dict(max_epochs=total_epochs)
load_from = "ckpts/bevformer_base_b2d.pth"
native = dict(
    lane_thickness=2,  # as upstream draws them
    compat="bench2drive",
)
