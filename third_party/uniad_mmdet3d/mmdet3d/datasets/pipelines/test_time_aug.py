"""The frame that test pipelines put round their last steps."""

import copy

from mmdet.datasets.builder import PIPELINES
from mmdet.datasets.pipelines import Compose


@PIPELINES.register_module(force=True)
class MultiScaleFlipAug3D:
    """Runs steps on one version of the sample and puts each result into a list, as the detectors' `forward_test` takes it.

    Args:
        transforms (list[dict]): Configs of the steps.
        img_scale (tuple[int]): Width and height that the version notes as its scale.
        pts_scale_ratio (float): Scale of points that it notes.
        flip (bool): Must be False: UniAD does not flip at test time.
    """

    def __init__(self, transforms, img_scale, pts_scale_ratio, flip=False):
        if flip:
            raise NotImplementedError("MultiScaleFlipAug3D: flip=True: UniAD does not flip at test time")
        if not isinstance(img_scale, tuple):
            raise NotImplementedError(f"MultiScaleFlipAug3D: img_scale={img_scale}: one (width, height) only")
        self.transforms = Compose(transforms)
        self.img_scale = img_scale
        self.pts_scale_ratio = pts_scale_ratio

    def __call__(self, results):
        version = copy.deepcopy(results)
        version.update(
            scale=self.img_scale,
            flip=False,
            pcd_scale_factor=self.pts_scale_ratio,
            pcd_horizontal_flip=False,
            pcd_vertical_flip=False,
        )
        return {key: [value] for key, value in self.transforms(version).items()}

    def __repr__(self):
        return f"{type(self).__name__}(transforms={self.transforms}, img_scale={self.img_scale})"
