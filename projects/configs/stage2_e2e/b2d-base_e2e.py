# UniAD-base of Bench2Drive, stage 2.
_base_ = ["./base_e2e.py", "../_base_/variants/b2d.py"]

num_classes = {{_base_._b2d_.num_classes}}
queue_length = 3
model = {{_base_._b2d_.model_2}}
data = {{_base_._b2d_.data_2}}
evaluation = dict(interval=2, pipeline={{_base_._b2d_.test_pipeline}})
lr_config = dict(by_epoch=False)
total_epochs = 2
runner = dict(max_epochs=total_epochs)
load_from = "ckpts/b2d-base_track_map.pth"
native = {{_base_._b2d_.native}}
