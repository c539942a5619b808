"""Box structures with the coordinate conventions of mmdet3d 0.17."""

from .boxes import (
    BaseInstance3DBoxes,
    Box3DMode,
    CameraInstance3DBoxes,
    Coord3DMode,
    DepthInstance3DBoxes,
    LiDARInstance3DBoxes,
    get_box_type,
    limit_period,
    xywhr2xyxyr,
)

__all__ = [
    "BaseInstance3DBoxes",
    "Box3DMode",
    "CameraInstance3DBoxes",
    "Coord3DMode",
    "DepthInstance3DBoxes",
    "LiDARInstance3DBoxes",
    "get_box_type",
    "limit_period",
    "xywhr2xyxyr",
]
