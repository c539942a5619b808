# UniAD-nano with Bench2Drive's classes, map, commands and data, stage 2.
_base_ = ["./nano_e2e.py", "../_base_/variants/b2d.py"]

num_classes = {{_base_._b2d_.num_classes}}
model = {{_base_._b2d_.nano_2}}
data = {{_base_._b2d_.nano_data}}
evaluation = dict(pipeline={{_base_._b2d_.nano_test_pipeline}})
load_from = "ckpts/b2d-nano_track_map.pth"
native = dict(plan_ego_status=False)  # reads the CAN bus in nuScenes' order
