"""Filters of a sample's objects. UniAD derives its own from them."""

import numpy as np
from mmdet.datasets.builder import PIPELINES


@PIPELINES.register_module(force=True)
class ObjectRangeFilter:
    """Keeps objects whose centre lies in range, seen from above, and moves their yaw into [-pi, pi).

    Args:
        point_cloud_range (Sequence[float]): x, y, z minima, then maxima, in metres.
    """

    def __init__(self, point_cloud_range):
        self.pcd_range = np.array(point_cloud_range, dtype=np.float32)

    def __call__(self, input_dict):
        mask = input_dict["gt_bboxes_3d"].in_range_bev(self.pcd_range[[0, 1, 3, 4]])
        kept = input_dict["gt_bboxes_3d"][mask]
        kept.limit_yaw(offset=0.5, period=2 * np.pi)
        input_dict["gt_bboxes_3d"] = kept
        input_dict["gt_labels_3d"] = input_dict["gt_labels_3d"][mask.numpy().astype(bool)]
        return input_dict

    def __repr__(self):
        return f"{type(self).__name__}(point_cloud_range={self.pcd_range.tolist()})"


@PIPELINES.register_module(force=True)
class ObjectNameFilter:
    """Keeps objects of the named classes; objects of other kinds are labelled -1.

    Args:
        classes (Sequence[str]): Names of the classes.
    """

    def __init__(self, classes):
        self.classes = classes
        self.labels = list(range(len(classes)))

    def __call__(self, input_dict):
        mask = np.isin(input_dict["gt_labels_3d"], self.labels)
        input_dict["gt_bboxes_3d"] = input_dict["gt_bboxes_3d"][mask]
        input_dict["gt_labels_3d"] = input_dict["gt_labels_3d"][mask]
        return input_dict

    def __repr__(self):
        return f"{type(self).__name__}(classes={self.classes})"
