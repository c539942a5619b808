# UniAD-nano with Bench2Drive's classes, map, commands and data, stage 2.
_base_ = ["./nano_e2e.py", "../_base_/variants/b2d.py"]

num_classes = {{_base_._b2d_.num_classes}}

model = dict(
    num_classes=num_classes,
    vehicle_id_list={{_base_._b2d_.vehicle_id_list}},
    loss_cfg={{_base_._b2d_.loss_cfg}},
    pts_bbox_head={{_base_._b2d_.nano_head}},
    seg_head={{_base_._b2d_.nano_map}},
    motion_head=dict(
        num_classes=num_classes,
        vehicle_id_list={{_base_._b2d_.vehicle_id_list}},
        group_id_list={{_base_._b2d_.group_id_list}},
        anchor_info_path={{_base_._b2d_.anchor_info_path}},
        use_nonlinear_optimizer=True,  # Bench2Drive's futures are positions, which only the smoother takes
    ),
    planning_head=dict(command_dim={{_base_._b2d_.command_dim}}),
)
data = dict(
    train={{_base_._b2d_.nano_train}},
    val={{_base_._b2d_.nano_val}},
    test={{_base_._b2d_.nano_val}},
)
evaluation = dict(pipeline={{_base_._b2d_.nano_test_pipeline}})
load_from = "ckpts/b2d-nano_track_map.pth"
native = dict(plan_ego_status=False)  # reads the CAN bus in nuScenes' order
