"""Boxes and what is computed from them."""

from .bbox import xywhr2xyxyr

__all__ = ["xywhr2xyxyr"]
