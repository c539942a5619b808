"""Where UniAD looks for the builder of box coders. The coders themselves are UniAD's, in mmdet's registry."""

from mmdet.core.bbox import build_bbox_coder

__all__ = ["build_bbox_coder"]
