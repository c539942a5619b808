# UniAD-base, stage 2, as published. The name is that of the published checkpoint, which takes the place of a trained one.
_base_ = ["./base_e2e.py"]

load_from = "ckpts/uniad_base_track_map.pth"
native = dict(lane_thickness=2)  # upstream's code draws 2 cells on a canvas of 200
