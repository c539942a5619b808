"""What UniAD derives from and registers by name, against the mm libraries of the upstream stack; skipped without them."""

import numpy as np
import pytest
import torch

mmdet = pytest.importorskip("mmdet", reason="the mm libraries of the upstream stack are not here")
pytest.importorskip("nuscenes", reason="nuscenes-devkit is not here")

import mmdet3d  # noqa: E402
from mmcv.parallel import DataContainer  # noqa: E402
from mmdet.datasets.builder import PIPELINES  # noqa: E402
from mmdet.models.builder import BACKBONES, HEADS, NECKS  # noqa: E402
from mmdet3d.core.bbox import LiDARInstance3DBoxes  # noqa: E402
from mmdet3d.core.bbox.iou_calculators.iou3d_calculator import bbox_overlaps_nearest_3d  # noqa: E402
from mmdet3d.datasets import NuScenesDataset  # noqa: E402
from mmdet3d.models import build_model  # noqa: E402
from mmdet3d.utils import collect_env, get_root_logger  # noqa: E402

CLASSES = ["car", "pedestrian"]


def boxes(*rows):
    return LiDARInstance3DBoxes(torch.tensor(rows, dtype=torch.float32).reshape(-1, 9), box_dim=9)


def row(x, y, w=2.0, length=4.0, yaw=0.0):
    return [x, y, 0.0, w, length, 1.5, yaw, 0.0, 0.0]


def test_overlap_of_a_box_with_itself_a_shifted_and_a_turned_one():
    shifted = row(1.0, 0.0)  # half of it is shared: 4 of 12 square metres
    turned = row(0.0, 0.0, yaw=np.pi / 2)  # 2 x 2 is shared
    seen = bbox_overlaps_nearest_3d(boxes(row(0, 0)).tensor, boxes(row(0, 0), shifted, turned).tensor)
    assert seen[0].tolist() == pytest.approx([1.0, 1 / 3, 1 / 3], abs=1e-5)


def test_annotations_are_taken_as_asked():
    sample = dict(ann_info=dict(gt_bboxes_3d=boxes(row(0, 0)), gt_labels_3d=np.array([0])), bbox3d_fields=[])
    step = PIPELINES.build(dict(type="LoadAnnotations3D", with_bbox_3d=True, with_label_3d=False, with_attr_label=False))
    done = step(dict(sample))
    assert done["bbox3d_fields"] == ["gt_bboxes_3d"]
    assert "gt_labels_3d" not in done


def test_filters_keep_what_is_near_and_known():
    sample = dict(gt_bboxes_3d=boxes(row(0, 0, yaw=4.0), row(60, 0), row(1, 1)), gt_labels_3d=np.array([0, 1, -1]))
    near = PIPELINES.build(dict(type="ObjectRangeFilter", point_cloud_range=[-50, -50, -5, 50, 50, 3]))(dict(sample))
    assert near["gt_labels_3d"].tolist() == [0, -1]
    assert near["gt_bboxes_3d"].yaw[0].item() == pytest.approx(4.0 - 2 * np.pi, abs=1e-5)
    known = PIPELINES.build(dict(type="ObjectNameFilter", classes=CLASSES))(near)
    assert known["gt_labels_3d"].tolist() == [0]
    assert len(known["gt_bboxes_3d"]) == 1


def test_formatting_stacks_views_and_leaves_boxes_on_the_cpu():
    views = [np.full((4, 6, 3), view, np.float32) for view in range(2)]
    sample = dict(img=views, gt_labels_3d=np.array([1]), gt_bboxes_3d=boxes(row(0, 0)))
    done = PIPELINES.build(dict(type="DefaultFormatBundle3D", class_names=CLASSES))(sample)
    assert done["img"].data.shape == (2, 3, 4, 6)
    assert done["img"].stack
    assert done["gt_bboxes_3d"].cpu_only
    assert done["gt_labels_3d"].data.tolist() == [1]


def test_the_test_frame_puts_each_result_into_a_list():
    steps = [dict(type="DefaultFormatBundle3D", class_names=CLASSES, with_label=False)]
    config = dict(type="MultiScaleFlipAug3D", img_scale=(1600, 900), pts_scale_ratio=1, transforms=steps)
    frame = PIPELINES.build(dict(config, flip=False))
    sample = dict(img=[np.zeros((4, 6, 3), np.float32)])
    done = frame(sample)
    assert isinstance(done["img"][0], DataContainer)
    assert done["flip"] == [False]
    assert isinstance(sample["img"], list)
    with pytest.raises(NotImplementedError, match="flip=True"):
        PIPELINES.build(dict(config, flip=True))


class Frames(NuScenesDataset):
    """Three frames that come from nowhere."""

    def load_annotations(self, ann_file):
        return [ann_file] * (3 // self.load_interval)


@pytest.mark.parametrize("test_mode", [False, True])
def test_the_dataset_base_prepares_samples(test_mode):
    data = Frames(ann_file="infos", pipeline=[], data_root="nowhere", classes=CLASSES, test_mode=test_mode)
    assert len(data) == 3
    assert CLASSES == data.CLASSES
    assert hasattr(data, "flag") is not test_mode
    sample = {}
    data.pre_pipeline(sample)
    assert sample["box_type_3d"] is LiDARInstance3DBoxes
    assert sample["bbox3d_fields"] == []
    assert data.eval_detection_configs.class_range["car"] == 50
    if not test_mode:
        assert data._rand_another(1) in range(3)


def test_every_detection_class_has_categories_and_an_attribute():
    assert set(NuScenesDataset.NameMapping.values()) == set(NuScenesDataset.DefaultAttribute) == set(NuScenesDataset.CLASSES)
    assert NuScenesDataset.NameMapping["vehicle.bus.rigid"] == "bus"


class Part(torch.nn.Module):
    """A part of a detector that remembers what it was built with."""

    def __init__(self, **settings):
        super().__init__()
        self.settings = settings
        self.weight = torch.nn.Parameter(torch.zeros(1))


def test_the_detector_base_builds_its_parts_in_the_order_of_checkpoints():
    for registry in (BACKBONES, NECKS, HEADS):
        registry.register_module(module=Part, name="TestPart", force=True)
    from mmcv import ConfigDict

    part = ConfigDict(type="TestPart")
    model = build_model(
        ConfigDict(
            type="MVXTwoStageDetector",
            img_backbone=part,
            img_neck=part,
            pts_bbox_head=part,
            pretrained=dict(img="weights.pth"),
            train_cfg=dict(pts=dict(cells=4)),
        )
    )
    assert list(model.state_dict()) == ["pts_bbox_head.weight", "img_backbone.weight", "img_neck.weight"]
    assert model.pts_bbox_head.settings["train_cfg"] == dict(cells=4)
    assert model.img_backbone.init_cfg == dict(type="Pretrained", checkpoint="weights.pth")
    assert model.with_img_neck


def test_a_run_can_say_what_it_stands_on(tmp_path):
    assert collect_env()["uniad_mmdet3d"] == mmdet3d.__version__
    logger = get_root_logger(log_file=str(tmp_path / "run.log"), log_level="INFO", name="test_of_uniad_mmdet3d")
    logger.info("said once")
    assert "said once" in (tmp_path / "run.log").read_text()
