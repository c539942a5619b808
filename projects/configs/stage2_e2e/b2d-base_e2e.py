# UniAD-base of Bench2Drive, stage 2.
_base_ = ["./base_e2e.py", "../_base_/variants/b2d.py"]

num_classes = {{_base_._b2d_.num_classes}}
queue_length = 3

model = dict(
    num_classes=num_classes,
    queue_length=queue_length,
    vehicle_id_list={{_base_._b2d_.vehicle_id_list}},
    loss_cfg={{_base_._b2d_.loss_cfg}},
    pts_bbox_head={{_base_._b2d_.pts_bbox_head}},
    seg_head={{_base_._b2d_.seg_head}},
    motion_head=dict(
        num_classes=num_classes,
        vehicle_id_list={{_base_._b2d_.vehicle_id_list}},
        group_id_list={{_base_._b2d_.group_id_list}},
        anchor_info_path={{_base_._b2d_.anchor_info_path}},
        transformerlayers=dict(transformerlayers=dict(ffn_dropout=0.0)),
    ),
    planning_head=dict(command_dim={{_base_._b2d_.command_dim}}),
)
data = dict(
    workers_per_gpu=4,
    train={{_base_._b2d_.train_2}},
    val={{_base_._b2d_.val}},
    test={{_base_._b2d_.val}},
)
evaluation = dict(interval=2, pipeline={{_base_._b2d_.test_pipeline}})
lr_config = dict(by_epoch=False)
total_epochs = 2
runner = dict(max_epochs=total_epochs)
load_from = "ckpts/b2d-base_track_map.pth"
native = dict(
    lane_thickness=2,  # as upstream draws them
    compat="bench2drive",
)
