# How nano learns the synthetic world from nothing (weights/nano): phases that continue each other, each from the last step of the
# one before. tools/train_recipe.py and `make train VARIANT=nano FROM_SCRATCH=1` run it; docs/training.md, "Recipes".
#
# Seeds 11 to 99 are for training. Nobody trains on seeds 0 to 10: evaluation and the demo are there.
_few_ = [11, 12, 13, 14, 15, 16, 17, 18]
_all_ = _few_ + [19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42]

configs = {1: "projects/configs/stage1_track_map/nano_track_map.py", 2: "projects/configs/stage2_e2e/nano_e2e.py"}
worlds = dict(scenes=20, frames=20)  # of each seed
clips = 32  # a step, all processes together
options = dict()  # config values of every phase

# frames: of a clip. lr falls as a cosine to least_lr of itself. minutes: on one H200, docs/results.md
# fmt: off
phases = [
    dict(name="first", stage=1, seeds=_few_, frames=2, steps=2000, lr=8e-4, warmup=100, least_lr=0.76, minutes=3.5),
    dict(name="towns", stage=1, seeds=_all_, frames=3, steps=3000, lr=8e-4, warmup=50, least_lr=0.02, dense_bev=True,
         minutes=6.5),
    dict(name="again", stage=1, seeds=_all_, frames=3, steps=4700, lr=8e-4, warmup=50, least_lr=0.01, dense_bev=True,
         minutes=10.3),
    dict(name="heads", stage=2, seeds=_all_, frames=4, steps=9000, lr=8e-4, warmup=50, least_lr=0.01, minutes=7.2),
]
# fmt: on
