"""A model from a config: the one place that knows which files beside the checkpoint a model is made of."""

from __future__ import annotations

from uniad.config.spec import Spec
from uniad.models.uniad import UniAD


def build_model(spec: Spec) -> UniAD:
    """The model of a config with random weights. Stage 2 reads its motion anchors, a UserError where they are missing."""
    if spec.model.stage2 is None:
        return UniAD(spec.model)
    from uniad.data.anchors import load_motion_anchors  # needs what data needs; stage 1 runs without

    motion = spec.model.stage2.motion
    return UniAD(spec.model, load_motion_anchors(motion.anchor_path, motion))
