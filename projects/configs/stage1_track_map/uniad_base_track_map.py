# UniAD-base, stage 1, as published: the base, with map lines drawn as upstream UniAD drew them.
_base_ = ["./base_track_map.py"]

native = dict(lane_thickness=2)  # upstream's code draws 2 cells on a canvas of 200
