# How stages 0 to 2 learn: AdamW, the image backbone at a tenth of the rate, a cosine after a short warm-up.
optimizer = dict(type="AdamW", lr=2e-4, paramwise_cfg=dict(custom_keys={"img_backbone": dict(lr_mult=0.1)}), weight_decay=0.01)
optimizer_config = dict(grad_clip=dict(max_norm=35, norm_type=2))
lr_config = dict(policy="CosineAnnealing", warmup="linear", warmup_iters=500, warmup_ratio=1.0 / 3, min_lr_ratio=1e-3)
