# UniAD-base, stage 0: the base as it is.
_base_ = ["./base_bevformer.py"]
