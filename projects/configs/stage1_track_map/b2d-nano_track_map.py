# UniAD-nano with Bench2Drive's classes, map and data, stage 1: for tests, and to try Bench2Drive on two CPU cores.
_base_ = ["./nano_track_map.py", "../_base_/variants/b2d.py"]

num_classes = {{_base_._b2d_.num_classes}}

model = dict(
    num_classes=num_classes,
    vehicle_id_list={{_base_._b2d_.vehicle_id_list}},
    loss_cfg={{_base_._b2d_.loss_cfg}},
    pts_bbox_head={{_base_._b2d_.nano_head}},
    seg_head={{_base_._b2d_.nano_map}},
)
data = dict(
    train={{_base_._b2d_.nano_train}},
    val={{_base_._b2d_.nano_val}},
    test={{_base_._b2d_.nano_val}},
)
evaluation = dict(pipeline={{_base_._b2d_.nano_test_pipeline}})
