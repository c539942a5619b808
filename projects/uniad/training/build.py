"""A model from a config: the one place that knows which files beside the checkpoint a model is made of."""

from __future__ import annotations

from uniad.config.spec import Spec
from uniad.errors import UserError
from uniad.models.bev_model import BevModel
from uniad.models.bevformer import BevFormer
from uniad.models.uniad import UniAD


def build_model(spec: Spec) -> UniAD:
    """UniAD of a config with random weights. Stage 2 reads its motion anchors, a UserError where they are missing."""
    if spec.stage == 0:
        raise UserError(f"{spec.path} is of stage 0, a detector: take a config of stage 1 or 2")
    if spec.model.stage2 is None:
        return UniAD(spec.model)
    from uniad.data.anchors import load_motion_anchors  # needs what data needs; stage 1 runs without

    motion = spec.model.stage2.motion
    return UniAD(spec.model, load_motion_anchors(motion.anchor_path, motion))


def build_for_training(spec: Spec) -> BevModel:
    """The model of any stage with random weights: BEVFormer in stage 0, UniAD in the others."""
    return BevFormer(spec.model) if spec.stage == 0 else build_model(spec)
