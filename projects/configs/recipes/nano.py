# How nano learns the synthetic world from nothing (weights/nano): phases that continue each other, each from the last step of the
# one before. tools/train_recipe.py and `make train VARIANT=nano FROM_SCRATCH=1` run it; docs/training.md, "Recipes".
#
# Seeds 11 to 99 are for training, of recorded worlds and of driven ones (docs/synthetic-world.md). Nobody trains on seeds 0 to 10
# (evaluation, the demo), nor on 100 and above (`make drive`).
_first_ = [11, 12, 13, 14, 15, 16, 17, 18]
_half_ = _first_ + [19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42]
_driven_few_ = [43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54]
_driven_ = _driven_few_ + [55, 56, 57, 58, 59, 60, 61, 62]
# What a model learns from its own errors: a disturbed expert's worlds beside those in which it has the wheel itself.
_few_ = [11, 12, 13, 14, 15, 16]
_astray_ = _driven_few_ + [55, 56]
_wheel_ = [57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67]
_lane_ = [68, 69, 70, 71, 72, 73]
_home_ = [74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85]
_other_half_ = _driven_ + [63, 64, 65, 66, 67, 68, 69, 70, 71, 72, 73, 74]

configs = {1: "projects/configs/stage1_track_map/nano_track_map.py", 2: "projects/configs/stage2_e2e/nano_e2e.py"}
worlds = dict(scenes=20, frames=20)  # of each seed
clips = 32  # a step, all processes together
options = dict()  # config values of every phase

# frames: of a clip. lr falls as a cosine to least_lr of itself. minutes: on one H200, docs/results.md
# fmt: off
phases = [
    dict(name="first", stage=1, seeds=_first_, frames=2, steps=2000, lr=8e-4, warmup=100, least_lr=0.76, minutes=3.5),
    dict(name="towns", stage=1, seeds=_half_, frames=3, steps=3000, lr=8e-4, warmup=50, least_lr=0.02, dense_bev=True,
         minutes=6.5),
    dict(name="again", stage=1, seeds=_half_, frames=3, steps=4700, lr=8e-4, warmup=50, least_lr=0.01, dense_bev=True,
         minutes=10.3),
    dict(name="more", stage=1, seeds=_other_half_, frames=3, steps=4600, lr=8e-4, warmup=50, least_lr=0.01, dense_bev=True,
         minutes=10.7),
    # From here on the car is led astray and has to steer back, brakes behind others and stops at lamps.
    dict(name="driven", stage=1, seeds=[11, 12], driven=[43, 44, 45, 46], frames=3, steps=800, lr=4e-4, warmup=50, least_lr=0.05,
         dense_bev=True, minutes=2.0),
    dict(name="heads", stage=2, seeds=[11, 12, 13, 14], driven=_driven_few_, frames=4, steps=2200, lr=8e-4, warmup=50,
         least_lr=0.1, minutes=2.0),
    # Until here nothing asks the BEV for the colour of a lamp: stage 1 has no task that needs it. So all learn together at last.
    dict(name="whole", stage=2, seeds=_first_, driven=_driven_, frames=4, steps=1700, lr=3e-4, warmup=50, least_lr=0.02,
         options={"native.freeze_stage1": False}, minutes=5.8),
    dict(name="astray", stage=2, seeds=_few_, driven=_astray_, frames=3, steps=2000, lr=3e-4, warmup=50, least_lr=0.4,
         options={"native.freeze_stage1": False}, minutes=6.1),
    dict(name="wheel", stage=2, seeds=_few_, driven=_astray_, learner=_wheel_, frames=4, steps=3500, lr=3e-4, warmup=50,
         least_lr=0.02, options={"native.freeze_stage1": False}, minutes=11.7),
    # Heads alone learn in a quarter of the time, so they see these worlds often; the whole, trained on instead, drove worse.
    # What is shipped saw the worlds of both learners in its last phase; here each phase has one learner.
    dict(name="lane", stage=2, seeds=[11, 12, 13, 14], driven=_driven_, learner=_lane_, frames=4, steps=1200, lr=4e-4, warmup=50,
         least_lr=0.05, options={"native.plan_across_weight": 2.0}, minutes=0.9),
    dict(name="home", stage=2, seeds=[11, 12, 13, 14], driven=_driven_, learner=_home_, frames=4, steps=2800, lr=4e-4,
         warmup=50, least_lr=0.01, options={"native.plan_across_weight": 2.0}, minutes=2.2),
]
# fmt: on
