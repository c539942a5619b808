"""Builders of models from configs."""

from mmdet.models import build_detector


def build_model(cfg, train_cfg=None, test_cfg=None):
    """The detector of a config. mmdet3d 0.17 also tells segmenters apart here; UniAD has none."""
    return build_detector(cfg, train_cfg=train_cfg, test_cfg=test_cfg)


__all__ = ["build_detector", "build_model"]
