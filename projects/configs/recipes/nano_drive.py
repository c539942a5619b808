# How nano learns to drive: phases that continue what it learnt of recorded worlds (stage 1 of nano.py's recipe, --load-from), on
# driven worlds (docs/synthetic-world.md) beside recorded ones:
#
#     tools/train_recipe.py projects/configs/recipes/nano_drive.py --load-from projects/work_dirs/recipes/nano/again/iter_4700.pth
#
# Seeds 11 to 99 are for training: recorded worlds of 11 to 42 are nano.py's, driven ones are of 43 to 74. Nobody trains on
# seeds 0 to 10 (evaluation, the demo), nor on 100 and above (`make drive`).
_few_ = [11, 12, 13, 14]
_recorded_ = _few_ + [15, 16, 17, 18]
_first_ = [43, 44, 45, 46, 47, 48, 49, 50]
_driven_ = _first_ + [51, 52, 53, 54, 55, 56, 57, 58]

configs = {1: "projects/configs/stage1_track_map/nano_track_map.py", 2: "projects/configs/stage2_e2e/nano_e2e.py"}
worlds = dict(scenes=20, frames=20)  # of each seed
clips = 32  # a step, all processes together
# The plan reads the BEV ahead cell by cell; a third of the clips it has to do without knowing how the car moves.
_heads_ = {
    "native.plan_bev_patch": True, "native.plan_status_dropout": 0.3, "native.occ_draw_boxes": True, "native.clip_by_head": True,
    "anchor_root": "weights/nano/",
}  # fmt: skip

# fmt: off
phases = [
    dict(name="lights", stage=1, seeds=_few_, driven=_first_, frames=3, steps=1000, lr=4e-4, warmup=50, least_lr=0.05,
         dense_bev=True),
    dict(name="heads", stage=2, seeds=_recorded_, driven=_driven_, frames=4, steps=3000, lr=8e-4, warmup=50, least_lr=0.1,
         options=_heads_),
    # Until here nothing asks the BEV for the colour of a lamp: stage 1 has no task that needs it. So all learn together at last,
    # the gradients of each module clipped by themselves, for those of the plan are ten times those of detection.
    dict(name="whole", stage=2, seeds=_recorded_, driven=_driven_, frames=4, steps=1500, lr=3e-4, warmup=50, least_lr=0.02,
         options={**_heads_, "native.freeze_stage1": False}),
]
# fmt: on
