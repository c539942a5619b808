# UniAD-nano with Bench2Drive's classes, map and data, stage 1: for tests, and to try Bench2Drive on two CPU cores.
_base_ = ["./nano_track_map.py", "../_base_/variants/b2d.py"]

num_classes = {{_base_._b2d_.num_classes}}
model = {{_base_._b2d_.nano_1}}
data = {{_base_._b2d_.nano_data}}
evaluation = dict(pipeline={{_base_._b2d_.nano_test_pipeline}})
