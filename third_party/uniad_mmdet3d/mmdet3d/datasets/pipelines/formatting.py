"""Turns a sample's arrays into tensors in mmcv's containers, which say how samples are collated."""

import numpy as np
from mmcv.parallel import DataContainer
from mmdet.datasets.builder import PIPELINES
from mmdet.datasets.pipelines import to_tensor

from ...core.bbox import BaseInstance3DBoxes


@PIPELINES.register_module(force=True)
class DefaultFormatBundle3D:
    """Formats the images and, where a sample has them, labels and boxes.

    `img`, a list of [H, W, 3] views, becomes one [views, 3, H, W] tensor that is stacked over samples; labels become
    tensors; boxes stay on the CPU.

    Args:
        class_names (Sequence[str]): Names of the classes.
        with_gt (bool): Kept for configs: what a sample has is formatted.
        with_label (bool): Kept for configs: what a sample has is formatted.
    """

    def __init__(self, class_names, with_gt=True, with_label=True):
        self.class_names = class_names
        self.with_gt = with_gt
        self.with_label = with_label

    def __call__(self, results):
        if "img" in results:
            views = np.stack([view.transpose(2, 0, 1) for view in results["img"]])
            results["img"] = DataContainer(to_tensor(np.ascontiguousarray(views)), stack=True)
        if "gt_labels_3d" in results:
            results["gt_labels_3d"] = DataContainer(to_tensor(results["gt_labels_3d"]))
        boxes = results.get("gt_bboxes_3d")
        if isinstance(boxes, BaseInstance3DBoxes):
            results["gt_bboxes_3d"] = DataContainer(boxes, cpu_only=True)
        elif boxes is not None:
            results["gt_bboxes_3d"] = DataContainer(to_tensor(boxes))
        return results

    def __repr__(self):
        return f"{type(self).__name__}(class_names={self.class_names}, with_gt={self.with_gt}, with_label={self.with_label})"
