"""Detector base and builders. The registries are mmdet's."""

from .builder import build_detector, build_model
from .detectors import MVXTwoStageDetector

__all__ = ["MVXTwoStageDetector", "build_detector", "build_model"]
