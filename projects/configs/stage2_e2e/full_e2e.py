# UniAD-full, stage 2: the base as it is, on the stage-1 weights that `make promote` puts in place.
_base_ = ["./base_e2e.py"]
