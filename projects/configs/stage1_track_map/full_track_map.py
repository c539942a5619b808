# UniAD-full, stage 1: the base as it is. BEVFormer-base (ResNet-101-DCN) initialises it.
_base_ = ["./base_track_map.py"]
