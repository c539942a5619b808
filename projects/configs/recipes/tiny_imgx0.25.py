# Tiny from nothing on the synthetic world: nano's recipe (nano.py says what each word means) with what upstream's config of tiny
# freezes set free, since there are no published weights to keep. No minutes stand here until somebody has measured them.
_all_ = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26]

configs = {
    1: "projects/configs/stage1_track_map/tiny_imgx0.25_track_map.py",
    2: "projects/configs/stage2_e2e/tiny_imgx0.25_e2e.py",
}
worlds = dict(scenes=40, frames=20)
clips = 16
options = {
    "native.max_objects": 96,
    "native.track_capacity": 96,
    "native.regularise": False,  # it underfits, and trains for minutes
    "native.shared_history": True,
    "lr_config.by_epoch": False,
}
_free_ = {
    "model.freeze_img_backbone": False,
    "model.freeze_img_neck": False,
    "model.freeze_bn": False,
    "model.img_backbone.frozen_stages": -1,
    "model.img_backbone.norm_eval": False,
    "model.img_backbone.norm_cfg.requires_grad": True,
    "optimizer.paramwise_cfg.custom_keys.img_backbone.lr_mult": 1.0,
}

# fmt: off
phases = [
    dict(name="first", stage=1, seeds=[11, 12, 13, 14], frames=2, steps=2000, lr=4e-4, warmup=150, least_lr=0.7, options=_free_),
    dict(name="towns", stage=1, seeds=_all_, frames=3, steps=6000, lr=4e-4, warmup=50, least_lr=0.02, dense_bev=True,
         options=_free_),
    dict(name="heads", stage=2, seeds=_all_, frames=3, steps=3000, lr=3e-4, warmup=50, least_lr=0.01),
]
# fmt: on
