"""Detector base."""

from .mvx_two_stage import MVXTwoStageDetector

__all__ = ["MVXTwoStageDetector"]
