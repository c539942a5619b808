"""Takes annotations out of a sample's `ann_info`."""

from mmdet.datasets.builder import PIPELINES


@PIPELINES.register_module(force=True)
class LoadAnnotations3D:
    """Loads the boxes and labels of a sample.

    Args:
        with_bbox_3d (bool): Load `gt_bboxes_3d`.
        with_label_3d (bool): Load `gt_labels_3d`.
        with_attr_label (bool): Must be False: UniAD has no attribute labels.
    """

    def __init__(self, with_bbox_3d=True, with_label_3d=True, with_attr_label=False):
        if with_attr_label:
            raise NotImplementedError("LoadAnnotations3D: with_attr_label=True: UniAD has no attribute labels")
        self.with_bbox_3d = with_bbox_3d
        self.with_label_3d = with_label_3d

    def __call__(self, results):
        annotations = results["ann_info"]
        if self.with_bbox_3d:
            results["gt_bboxes_3d"] = annotations["gt_bboxes_3d"]
            results["bbox3d_fields"].append("gt_bboxes_3d")
        if self.with_label_3d:
            results["gt_labels_3d"] = annotations["gt_labels_3d"]
        return results

    def __repr__(self):
        return f"{type(self).__name__}(with_bbox_3d={self.with_bbox_3d}, with_label_3d={self.with_label_3d})"
