# What every run shares: logging, checkpoints, the process group.
checkpoint_config = dict(interval=1)  # epochs
log_config = dict(interval=10, hooks=[dict(type="TextLoggerHook"), dict(type="TensorboardLoggerHook")])
log_level = "INFO"
dist_params = dict(backend="nccl")
work_dir = None
load_from = None
resume_from = None
workflow = [("train", 1)]

# The upstream stack imports its model from here; native ignores both lines.
plugin = True
plugin_dir = "projects/mmdet3d_plugin/"
