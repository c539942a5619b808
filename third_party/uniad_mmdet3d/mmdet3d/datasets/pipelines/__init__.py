"""Steps of data pipelines, registered with mmdet."""

from .formatting import DefaultFormatBundle3D
from .loading import LoadAnnotations3D
from .test_time_aug import MultiScaleFlipAug3D
from .transforms_3d import ObjectNameFilter, ObjectRangeFilter

__all__ = ["DefaultFormatBundle3D", "LoadAnnotations3D", "MultiScaleFlipAug3D", "ObjectNameFilter", "ObjectRangeFilter"]
