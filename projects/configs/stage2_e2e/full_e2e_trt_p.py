# Export of full: the trained model as it is. The name is upstream's; nothing is left to change, because the
# step that is exported is the step that was trained.
_base_ = ["./full_e2e.py"]

load_from = None  # the checkpoint is an argument of the export
evaluation = dict(interval=4)
