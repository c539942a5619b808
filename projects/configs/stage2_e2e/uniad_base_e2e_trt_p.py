# Export of base: the trained model as it is.
_base_ = ["./uniad_base_e2e.py"]

load_from = None  # the checkpoint is an argument of the export
evaluation = dict(interval=4)
