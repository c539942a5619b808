# Stage 0: BEVFormer, 3-D detection on a temporal queue, with the values of the full model. Stage 1 starts from it. A variant file
# states what it changes. Schema and place are those of UniAD v2.0, which trains its BEV encoder so.
_base_ = ["../_base_/models/bevformer.py", "../_base_/adamw_cosine.py", "../_base_/default_runtime.py"]

point_cloud_range = {{_base_.point_cloud_range}}
class_names = {{_base_.class_names}}
bev_h_ = 200
bev_w_ = 200

# Frames per clip: the last one is learnt from, of those before it one is left out at random.
queue_length = 4

model = dict(type="BEVFormer", img_backbone=dict(frozen_stages=1), pts_bbox_head=dict(type="BEVFormerHead"))

# --- steps, by name: a variant spells its own lists -------------------------------------------------------------------
load_annotations = dict(type="LoadAnnotations3D", with_bbox_3d=True, with_label_3d=True, with_attr_label=False)
range_filter = dict(type="ObjectRangeFilter", point_cloud_range=point_cloud_range)
name_filter = dict(type="ObjectNameFilter", classes=class_names)
train_collect = dict(type="CustomCollect3D", keys=["gt_bboxes_3d", "gt_labels_3d", "img"])
test_collect = dict(type="CustomCollect3D", keys=["img"])
_learn_ = [{{_base_.load_images}}, {{_base_.photometric}}, load_annotations, range_filter, name_filter]
_hand_on_ = [{{_base_.train_bundle}}, train_collect]
_at_test_ = [{{_base_.test_bundle}}, test_collect]
_aug_ = dict(type="MultiScaleFlipAug3D", img_scale=(1600, 900), pts_scale_ratio=1, flip=False)

train_pipeline = _learn_ + [{{_base_.normalize}}, {{_base_.pad}}] + _hand_on_
test_pipeline = [{{_base_.load_images}}, {{_base_.normalize}}, dict(transforms=[{{_base_.pad}}] + _at_test_, **_aug_)]
_quarter_ = dict(
    train=_learn_ + [{{_base_._rgb_}}, {{_base_._quarter_}}, {{_base_.pad}}] + _hand_on_,
    test=[{{_base_.load_images}}, {{_base_._rgb_}}, dict(transforms=[{{_base_._quarter_}}, {{_base_.pad}}] + _at_test_, **_aug_)],
)

_split_ = dict(
    _delete_=True,
    type="CustomNuScenesDataset",
    data_root={{_base_.data_root}},
    classes=class_names,
    modality={{_base_.input_modality}},
    bev_size=(bev_h_, bev_w_),
    box_type_3d="LiDAR",
)
data = dict(
    samples_per_gpu=1, workers_per_gpu=4,
    train=dict(
        ann_file={{_base_.ann_file_train}},
        pipeline=train_pipeline,
        test_mode=False,
        use_valid_flag=True,
        queue_length=queue_length,
        **_split_,
    ),
    val=dict(ann_file={{_base_.ann_file_val}}, pipeline=test_pipeline, test_mode=True, samples_per_gpu=1, **_split_),
    test=dict(ann_file={{_base_.ann_file_val}}, pipeline=test_pipeline, test_mode=True, **_split_),
)

total_epochs = 24
runner = dict(type="EpochBasedRunner", max_epochs=total_epochs)
evaluation = dict(interval=6, pipeline=test_pipeline)
# An image backbone: that of FCOS3D, or torchvision's resnet101 (docs/training.md says what each gives)
load_from = "ckpts/r101_dcn_fcos3d_pretrain.pth"
log_config = dict(interval=50)

native = dict(compat="upstream")
