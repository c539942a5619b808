# nuScenes for UniAD: where it lies, what a sample holds, and the steps that make one.
#
# A variant changes few of the steps (image scale, normalisation, occupancy grid), but a list is replaced as a whole when
# a child config names it. So each step has a name here, and a child spells its list as {{_base_.name}} entries.

dataset_type = "NuScenesE2EDataset"
data_root = "data/nuscenes/"
info_root = "data/infos/"
anchor_root = "data/others/"
ann_file_train = info_root + "nuscenes_infos_temporal_train.pkl"
ann_file_val = info_root + "nuscenes_infos_temporal_val.pkl"
anchor_info_path = anchor_root + "motion_anchor_infos_mode6.pkl"
file_client_args = dict(backend="disk")

class_names = [
    "car",
    "truck",
    "construction_vehicle",
    "bus",
    "trailer",
    "barrier",
    "motorcycle",
    "bicycle",
    "pedestrian",
    "traffic_cone",
]
input_modality = dict(use_lidar=False, use_camera=True, use_radar=False, use_map=False, use_external=True)

# Lidar frame, metres: x right, y forward, z up.
point_cloud_range = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]
patch_size = [102.4, 102.4]  # of the map around the car
bev_size = (200, 200)  # cells
canvas_size = bev_size  # of the rasterised map

# Steps of 0.5 s
predict_steps = 12
past_steps = 4
fut_steps = 4
planning_steps = 6
occ_n_future = 4
occ_n_future_max = max([occ_n_future, planning_steps])  # labels reach as far as the plan
use_nonlinear_optimizer = True  # smooth the ground-truth futures of moving agents

occflow_grid_conf = dict(xbound=[-50.0, 50.0, 0.5], ybound=[-50.0, 50.0, 0.5], zbound=[-10.0, 10.0, 20.0])

# --- steps, by name ---------------------------------------------------------------------------------------------------
load_images = dict(
    type="LoadMultiViewImageFromFilesInCeph", to_float32=True, file_client_args=file_client_args, img_root=data_root
)
photometric = dict(type="PhotoMetricDistortionMultiViewImage")
# Instance ids start at 1: 0 is background in the occupancy labels.
_futures_ = dict(type="LoadAnnotations3D_E2E", with_attr_label=False, with_future_anns=True, ins_inds_add_1=True)
load_annotations = dict(with_bbox_3d=True, with_label_3d=True, with_ins_inds_3d=True, **_futures_)
load_future_annotations = dict(with_bbox_3d=False, with_label_3d=False, with_ins_inds_3d=False, **_futures_)
# Infos carry no visibility token.
_labels_ = dict(type="GenerateOccFlowLabels", ignore_index=255, only_vehicle=True, filter_invisible=False)
occ_labels = dict(grid_conf=occflow_grid_conf, **_labels_)
range_filter = dict(type="ObjectRangeFilterTrack", point_cloud_range=point_cloud_range)
name_filter = dict(type="ObjectNameFilterTrack", classes=class_names)
normalize = dict(type="NormalizeMultiviewImage", mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
pad = dict(type="PadMultiViewImage", size_divisor=32)
train_bundle = dict(type="DefaultFormatBundle3D", class_names=class_names)
test_bundle = dict(type="DefaultFormatBundle3D", class_names=class_names, with_label=False)

occ_keys = [
    "gt_segmentation",
    "gt_instance",
    "gt_centerness",
    "gt_offset",
    "gt_flow",
    "gt_backward_flow",
    "gt_occ_has_invalid_frame",
    "gt_occ_img_is_valid",
]
pose_keys = ["img", "timestamp", "l2g_r_mat", "l2g_t"]
lane_keys = ["gt_lane_labels", "gt_lane_bboxes", "gt_lane_masks"]
planning_keys = ["sdc_planning", "sdc_planning_mask", "command"]
train_collect = dict(
    type="CustomCollect3D",
    keys=["gt_bboxes_3d", "gt_labels_3d", "gt_inds"]
    + pose_keys
    + ["gt_fut_traj", "gt_fut_traj_mask", "gt_past_traj", "gt_past_traj_mask"]
    + ["gt_sdc_bbox", "gt_sdc_label", "gt_sdc_fut_traj", "gt_sdc_fut_traj_mask"]
    + lane_keys
    + occ_keys
    + ["gt_future_boxes", "gt_future_labels"]
    + planning_keys,
)
_flip_ = dict(type="MultiScaleFlipAug3D", img_scale=(1600, 900), pts_scale_ratio=1, flip=False)
test_collect = dict(type="CustomCollect3D", keys=pose_keys + lane_keys + occ_keys + planning_keys)

# --- the steps in order, for the full image -----------------------------------------------------------------------------
train_pipeline = [
    load_images,
    photometric,
    load_annotations,
    occ_labels,
    range_filter,
    name_filter,
    normalize,
    pad,
    train_bundle,
    train_collect,
]
test_pipeline = [
    load_images,
    normalize,
    load_future_annotations,
    occ_labels,
    dict(transforms=[pad, test_bundle, test_collect], **_flip_),
]

# --- the same for an image at a quarter, in RGB ---------------------------------------------------------------------------
_rgb_ = dict(type="NormalizeMultiviewImage", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
_quarter_ = dict(type="RandomScaleImageMultiViewImage", scales=[0.25])  # 400x225, padded to 416x256
# Occupancy cells of 2 m, nearly a cell of a BEV of 50x50: 2.048 m
_grid_2m_ = dict(xbound=[-50.0, 50.0, 2], ybound=[-50.0, 50.0, 2], zbound=[-10.0, 10.0, 20.0])
# Cells of half a metre, as the planner assumes. 50 of them then span 25 m while the BEV, which is not cut, spans 102 m: a known
# fault of upstream (native.compat, occ_grid).
_grid_half_m_ = dict(xbound=[-12.5, 12.5, 0.5], ybound=[-12.5, 12.5, 0.5], zbound=[-10.0, 10.0, 20.0])
_labels_2m_ = dict(grid_conf=_grid_2m_, **_labels_)
_labels_half_m_ = dict(grid_conf=_grid_half_m_, **_labels_)

_train_first_ = [load_images, photometric, load_annotations]
_train_last_ = [range_filter, name_filter, _rgb_, _quarter_, pad, train_bundle, train_collect]
_test_first_ = [load_images, _rgb_, load_future_annotations]
_test_last_ = [dict(transforms=[_quarter_, pad, test_bundle, test_collect], **_flip_)]
_quarter_2m_ = dict(train=_train_first_ + [_labels_2m_] + _train_last_, test=_test_first_ + [_labels_2m_] + _test_last_)
_quarter_half_m_ = dict(
    train=_train_first_ + [_labels_half_m_] + _train_last_, test=_test_first_ + [_labels_half_m_] + _test_last_
)

# What every split has; and what those have that learn or are judged by the loss as well
_split_ = dict(
    type=dataset_type, file_client_args=file_client_args, data_root=data_root,
    classes=class_names,
    modality=input_modality,
    patch_size=patch_size, canvas_size=canvas_size, bev_size=bev_size,
    predict_steps=predict_steps, past_steps=past_steps, fut_steps=fut_steps,
    use_nonlinear_optimizer=use_nonlinear_optimizer,
    occ_n_future=occ_n_future_max,
    box_type_3d="LiDAR",
)
_labelled_ = dict(occ_receptive_field=3, occ_filter_invalid_sample=False)
_judged_ = dict(ann_file=ann_file_val, pipeline=test_pipeline, test_mode=True, eval_mod=["det", "track", "map"])
data = dict(
    samples_per_gpu=1, workers_per_gpu=8,
    train=dict(
        ann_file=ann_file_train,
        pipeline=train_pipeline,
        test_mode=False,
        use_valid_flag=True,
        queue_length=5,
        **_labelled_,
        **_split_,
    ),
    val=dict(samples_per_gpu=1, **_judged_, **_labelled_, **_split_),
    test=dict(**_judged_, **_split_),
    shuffler_sampler=dict(type="DistributedGroupSampler"),
    nonshuffler_sampler=dict(type="DistributedSampler"),
)
