"""Overlap of 3D boxes seen from above."""

from .iou3d_calculator import bbox_overlaps_nearest_3d

__all__ = ["bbox_overlaps_nearest_3d"]
