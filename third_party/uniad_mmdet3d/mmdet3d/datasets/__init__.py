"""Dataset base and pipeline steps; importing this fills mmdet's registries."""

from mmdet.datasets import build_dataset

from . import pipelines  # noqa: F401  registers the steps
from .custom_3d import Custom3DDataset
from .nuscenes_dataset import NuScenesDataset

__all__ = ["Custom3DDataset", "NuScenesDataset", "build_dataset"]
