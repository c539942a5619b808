"""What is left of mmdet3d's multi-modal detector where there are only cameras: it builds the parts."""

from mmdet.models.builder import DETECTORS, build_backbone, build_head, build_neck
from mmdet.models.detectors.base import BaseDetector


@DETECTORS.register_module(force=True)
class MVXTwoStageDetector(BaseDetector):
    """Builds image backbone, image neck and head; UniAD's detectors say how they work together.

    Args:
        img_backbone, img_neck, pts_bbox_head (dict): Configs of the parts.
        train_cfg, test_cfg (dict): Settings; what stands under `pts` is handed to the head.
        pretrained (dict): `img`: where the backbone's weights come from, as mmcv reads checkpoints.
    """

    def __init__(
        self, img_backbone=None, img_neck=None, pts_bbox_head=None, train_cfg=None, test_cfg=None, pretrained=None, init_cfg=None
    ):
        super().__init__(init_cfg=init_cfg)
        self.train_cfg = train_cfg
        self.test_cfg = test_cfg
        # The order of the parts is that of the parameters in checkpoints, by which optimisers find their state
        if pts_bbox_head:
            settings = dict(
                train_cfg=train_cfg.pts if train_cfg else None,
                test_cfg=test_cfg.pts if test_cfg else None,
            )
            self.pts_bbox_head = build_head(dict(pts_bbox_head, **settings))
        if img_backbone:
            self.img_backbone = build_backbone(img_backbone)
            weights = (pretrained or {}).get("img")
            if weights:
                self.img_backbone.init_cfg = dict(type="Pretrained", checkpoint=weights)
        if img_neck is not None:
            self.img_neck = build_neck(img_neck)

    @property
    def with_img_neck(self):
        """bool: Whether there is an image neck."""
        return getattr(self, "img_neck", None) is not None

    def extract_feat(self, imgs):
        raise NotImplementedError(f"{type(self).__name__} must say how features are extracted")

    def simple_test(self, img, img_metas, **kwargs):
        raise NotImplementedError(f"{type(self).__name__} must say how it is tested")

    def aug_test(self, imgs, img_metas, **kwargs):
        raise NotImplementedError(f"{type(self).__name__} has no test-time augmentation")
