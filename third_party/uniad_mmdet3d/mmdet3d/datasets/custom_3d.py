"""Base of datasets whose samples are described by an info file."""

import numpy as np
from mmdet.datasets.pipelines import Compose
from torch.utils.data import Dataset

from ..core.bbox import get_box_type


class Custom3DDataset(Dataset):
    """Holds the infos, the class names and the pipeline; subclasses say how an info becomes a sample.

    Args:
        data_root (str): Folder of the dataset.
        ann_file (str): Info file, as `load_annotations` of the subclass reads it.
        pipeline (list[dict]): Configs of the steps.
        classes (Sequence[str]): Class names, in the order of the labels. Default: the subclass's own.
        modality (dict): Which sensors a sample holds.
        box_type_3d (str): Kind of boxes, see `get_box_type`.
        filter_empty_gt (bool): Whether training skips samples without objects.
        test_mode (bool): Whether samples are for evaluation, in order.
    """

    CLASSES = ()

    def __init__(
        self,
        data_root,
        ann_file,
        pipeline=None,
        classes=None,
        modality=None,
        box_type_3d="LiDAR",
        filter_empty_gt=True,
        test_mode=False,
    ):
        super().__init__()
        self.data_root = data_root
        self.ann_file = ann_file
        self.modality = modality
        self.filter_empty_gt = filter_empty_gt
        self.test_mode = test_mode
        self.box_type_3d, self.box_mode_3d = get_box_type(box_type_3d)
        if classes is not None:
            self.CLASSES = list(classes)
        self.data_infos = self.load_annotations(ann_file)
        self.pipeline = Compose(pipeline or [])
        if not test_mode:
            # Samplers group samples by this flag: all samples are alike
            self.flag = np.zeros(len(self), dtype=np.uint8)

    def load_annotations(self, ann_file):
        """The infos of a file, in the order of samples."""
        raise NotImplementedError

    def pre_pipeline(self, results):
        """Add to a sample what the steps of the pipeline note their fields in."""
        fields = ("img_fields", "bbox3d_fields", "pts_mask_fields", "pts_seg_fields", "bbox_fields", "mask_fields", "seg_fields")
        results.update({field: [] for field in fields})
        results["box_type_3d"] = self.box_type_3d
        results["box_mode_3d"] = self.box_mode_3d

    def _rand_another(self, index):
        """The index of a random sample of the same group."""
        return np.random.choice(np.flatnonzero(self.flag == self.flag[index]))

    def __len__(self):
        return len(self.data_infos)
