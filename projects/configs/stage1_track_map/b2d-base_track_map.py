# UniAD-base of Bench2Drive, stage 1: the full model with Bench2Drive's classes, map and data, which _base_/variants/b2d.py has.
_base_ = ["./base_track_map.py", "../_base_/variants/b2d.py"]

num_classes = {{_base_._b2d_.num_classes}}
queue_length = 5
model = {{_base_._b2d_.model_1}}
data = {{_base_._b2d_.data_1}}
evaluation = dict(interval=1, pipeline={{_base_._b2d_.test_pipeline}})
lr_config = dict(by_epoch=False)
total_epochs = 1
runner = dict(max_epochs=total_epochs)
load_from = "ckpts/bevformer_base_b2d.pth"
native = {{_base_._b2d_.native}}
