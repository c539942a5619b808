# Bench2Drive, what its variants and stages share: classes, commands, map elements, and where the files lie. Values are those of
# Thinklab-SJTU/Bench2DriveZoo (branch uniad/vad), adzoo/uniad/configs/*_b2d.py.
# Names that begin with two underscores stay in this file; the variants take their parts of _b2d_.
__parked = "/Game/Carla/Static/Car/4Wheeled/ParkedVehicles/"
__pc_range = [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]
__classes = ["car", "van", "truck", "bicycle", "traffic_sign", "traffic_cone", "traffic_light", "pedestrian", "others"]
__names = {
    # bicycle
    "vehicle.bh.crossbike": "bicycle",
    "vehicle.diamondback.century": "bicycle",
    "vehicle.gazelle.omafiets": "bicycle",
    # car
    "vehicle.audi.etron": "car",
    "vehicle.audi.tt": "car",
    "vehicle.chevrolet.impala": "car",
    "vehicle.dodge.charger_2020": "car",
    "vehicle.dodge.charger_police": "car",
    "vehicle.dodge.charger_police_2020": "car",
    "vehicle.ford.crown": "car",
    "vehicle.ford.mustang": "car",
    "vehicle.lincoln.mkz_2017": "car",
    "vehicle.lincoln.mkz_2020": "car",
    "vehicle.mercedes.coupe_2020": "car",
    "vehicle.mini.cooper_s_2021": "car",
    "vehicle.nissan.patrol_2021": "car",
    "vehicle.tesla.model3": "car",
    __parked + "FordCrown/SM_FordCrown_parked.SM_FordCrown_parked": "car",
    __parked + "Charger/SM_ChargerParked.SM_ChargerParked": "car",
    __parked + "Lincoln/SM_LincolnParked.SM_LincolnParked": "car",
    __parked + "MercedesCCC/SM_MercedesCCC_Parked.SM_MercedesCCC_Parked": "car",
    __parked + "Mini2021/SM_Mini2021_parked.SM_Mini2021_parked": "car",
    __parked + "NissanPatrol2021/SM_NissanPatrol2021_parked.SM_NissanPatrol2021_parked": "car",
    __parked + "TeslaM3/SM_TeslaM3_parked.SM_TeslaM3_parked": "car",
    # van
    "vehicle.ford.ambulance": "van",
    __parked + "VolkswagenT2/SM_VolkswagenT2_2021_Parked.SM_VolkswagenT2_2021_Parked": "van",
    # truck
    "vehicle.carlamotors.firetruck": "truck",
    # traffic_sign
    "traffic.speed_limit.30": "traffic_sign",
    "traffic.speed_limit.40": "traffic_sign",
    "traffic.speed_limit.50": "traffic_sign",
    "traffic.speed_limit.60": "traffic_sign",
    "traffic.speed_limit.90": "traffic_sign",
    "traffic.speed_limit.120": "traffic_sign",
    "traffic.stop": "traffic_sign",
    "traffic.yield": "traffic_sign",
    # traffic_light
    "traffic.traffic_light": "traffic_light",
    # traffic_cone
    "static.prop.constructioncone": "traffic_cone",
    "static.prop.trafficwarning": "traffic_cone",
    "static.prop.warningaccident": "traffic_cone",
    "static.prop.warningconstruction": "traffic_cone",
    # pedestrian
    "walker.pedestrian.0001": "pedestrian",
    "walker.pedestrian.0003": "pedestrian",
    "walker.pedestrian.0004": "pedestrian",
    "walker.pedestrian.0005": "pedestrian",
    "walker.pedestrian.0007": "pedestrian",
    "walker.pedestrian.0010": "pedestrian",
    "walker.pedestrian.0013": "pedestrian",
    "walker.pedestrian.0014": "pedestrian",
    "walker.pedestrian.0015": "pedestrian",
    "walker.pedestrian.0016": "pedestrian",
    "walker.pedestrian.0017": "pedestrian",
    "walker.pedestrian.0018": "pedestrian",
    "walker.pedestrian.0019": "pedestrian",
    "walker.pedestrian.0020": "pedestrian",
    "walker.pedestrian.0021": "pedestrian",
    "walker.pedestrian.0022": "pedestrian",
    "walker.pedestrian.0025": "pedestrian",
    "walker.pedestrian.0027": "pedestrian",
    "walker.pedestrian.0030": "pedestrian",
    "walker.pedestrian.0031": "pedestrian",
    "walker.pedestrian.0032": "pedestrian",
    "walker.pedestrian.0034": "pedestrian",
    "walker.pedestrian.0035": "pedestrian",
    "walker.pedestrian.0041": "pedestrian",
    "walker.pedestrian.0042": "pedestrian",
    "walker.pedestrian.0046": "pedestrian",
    "walker.pedestrian.0047": "pedestrian",
    # others
    "static.prop.dirtdebris01": "others",
    "static.prop.dirtdebris02": "others",
}
# Of those classes that are scored: how far away along x and y, in metres
__eval = dict(
    class_range=dict(
        car=(50, 50),
        van=(50, 50),
        truck=(50, 50),
        bicycle=(40, 40),
        traffic_sign=(30, 30),
        traffic_cone=(30, 30),
        traffic_light=(30, 30),
        pedestrian=(40, 40),
    ),
    dist_ths=[0.5, 1.0, 2.0, 4.0],
    dist_th_tp=2.0,
    min_recall=0.1,
    min_precision=0.1,
    mean_ap_weight=5,
)
# Upstream leaves dropout on in the attention to images and BEV alone.
__mha = dict(type="MultiheadAttention", embed_dims=256, num_heads=8, dropout=0.0)

b2d_data_root = "data/bench2drive/"
b2d_info_root = "data/infos/"
b2d_anchor_root = "data/others/"
b2d_map_file = b2d_info_root + "b2d_map_infos.pkl"

# --- the steps that make a sample, by name; docs of each are in _base_/datasets/nus-3d.py ------------------------------------
__file_client = dict(backend="disk")
__load = dict(type="LoadMultiViewImageFromFilesInCeph", to_float32=True, file_client_args=__file_client, img_root=b2d_data_root)
__photometric = dict(type="PhotoMetricDistortionMultiViewImage")
__futures = dict(type="LoadAnnotations3D_E2E", with_attr_label=False, with_future_anns=True, ins_inds_add_1=True)
__annotations = dict(with_bbox_3d=True, with_label_3d=True, with_ins_inds_3d=True, **__futures)
__future_annotations = dict(with_bbox_3d=False, with_label_3d=False, with_ins_inds_3d=False, **__futures)
__labels = dict(
    type="GenerateOccFlowLabels",
    ignore_index=255,
    only_vehicle=True,
    filter_invisible=False,
    all_classes=__classes,
    vehicle_classes=["car", "van", "truck", "bicycle"],
    plan_classes=["car", "van", "truck", "bicycle", "pedestrian"],
)
__grid = dict(xbound=[-50.0, 50.0, 0.5], ybound=[-50.0, 50.0, 0.5], zbound=[-10.0, 10.0, 20.0])
__range_filter = dict(type="ObjectRangeFilterTrack", point_cloud_range=__pc_range)
__name_filter = dict(type="ObjectNameFilterTrack", classes=__classes)
# Of base and tiny alike, although tiny's ResNet-50 was trained on other values
__normalize = dict(type="NormalizeMultiviewImage", mean=[103.530, 116.280, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
__pad = dict(type="PadMultiViewImage", size_divisor=32)
__train_bundle = dict(type="DefaultFormatBundle3D", class_names=__classes)
__test_bundle = dict(type="DefaultFormatBundle3D", class_names=__classes, with_label=False)
__occ_keys = [
    "gt_segmentation",
    "gt_instance",
    "gt_centerness",
    "gt_offset",
    "gt_flow",
    "gt_backward_flow",
    "gt_occ_has_invalid_frame",
    "gt_occ_img_is_valid",
]
__pose_keys = ["img", "timestamp", "l2g_r_mat", "l2g_t"]
__lane_keys = ["gt_lane_labels", "gt_lane_bboxes", "gt_lane_masks"]
__planning_keys = ["sdc_planning", "sdc_planning_mask", "command"]
__train_collect = dict(
    type="CustomCollect3D",
    keys=["gt_bboxes_3d", "gt_labels_3d", "gt_inds"]
    + __pose_keys
    + ["gt_fut_traj", "gt_fut_traj_mask", "gt_past_traj", "gt_past_traj_mask"]
    + ["gt_sdc_bbox", "gt_sdc_label", "gt_sdc_fut_traj", "gt_sdc_fut_traj_mask"]
    + __lane_keys
    + __occ_keys
    + ["gt_future_boxes", "gt_future_labels"]
    + __planning_keys,
)
__test_collect = dict(type="CustomCollect3D", keys=__pose_keys + __lane_keys + __occ_keys + __planning_keys)
__occ = dict(grid_conf=__grid, **__labels)
__train_first = [__load, __photometric, __annotations]
__train_pipeline = __train_first + [__occ, __range_filter, __name_filter, __normalize, __pad, __train_bundle, __train_collect]
__test_flip = dict(type="MultiScaleFlipAug3D", img_scale=(1600, 900), pts_scale_ratio=1, flip=False)
__test_pipeline = [
    __load,
    __normalize,
    __future_annotations,
    __occ,
    dict(transforms=[__pad, __test_bundle, __test_collect], **__test_flip),
]

# --- the same at a quarter of the image's size, in RGB, with cells of 2 m: nano's --------------------------------------
__rgb = dict(type="NormalizeMultiviewImage", mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
__quarter = dict(type="RandomScaleImageMultiViewImage", scales=[0.25])
__grid_2m = dict(xbound=[-50.0, 50.0, 2], ybound=[-50.0, 50.0, 2], zbound=[-10.0, 10.0, 20.0])
__occ_2m = dict(grid_conf=__grid_2m, **__labels)
__train_rest = [__range_filter, __name_filter, __rgb, __quarter, __pad, __train_bundle, __train_collect]
__test_rest = [dict(transforms=[__quarter, __pad, __test_bundle, __test_collect], **__test_flip)]
__test_start = [__load, __rgb, __future_annotations]

__data = dict(
    _delete_=True,
    type="B2D_E2E_Dataset",
    data_root=b2d_data_root, map_file=b2d_map_file, classes=__classes, name_mapping=__names,
    patch_size=[102.4, 102.4],
    predict_frames=12, past_frames=4, future_frames=4,
    sample_interval=5,  # frames at 10 Hz: half a second
    point_cloud_range=__pc_range,
    box_type_3d="LiDAR",
)
__train = dict(ann_file=b2d_info_root + "b2d_infos_train.pkl", **__data)
__val = dict(ann_file=b2d_info_root + "b2d_infos_val.pkl", eval_cfg=__eval, eval_mod=["det", "map"], **__data)

# Transformers of base and tiny, which have the widths of the full model
__encoder = dict(transformerlayers=dict(ffn_dropout=0.0))
__box_attention = [__mha, dict(type="CustomMSDeformableAttention", embed_dims=256, num_levels=1)]
__map_attention = [__mha, dict(type="MultiScaleDeformableAttention", embed_dims=256, num_levels=4)]
__box_decoder = dict(transformerlayers=dict(attn_cfgs=__box_attention, ffn_dropout=0.0))
__map_decoder = dict(transformerlayers=dict(attn_cfgs=__map_attention, ffn_dropout=0.0))
__boxes = dict(num_classes=9, bbox_coder=dict(num_classes=9))
__map = dict(num_classes=6, num_things_classes=6, num_stuff_classes=0)  # every element of the map is a thing
__vehicles = [0, 1, 2]
__model = dict(num_classes=9, vehicle_id_list=__vehicles, loss_cfg=dict(num_classes=9))
__base = dict(
    pts_bbox_head=dict(transformer=dict(encoder=__encoder, decoder=__box_decoder), **__boxes),
    seg_head=dict(transformer=dict(encoder=__encoder, decoder=__map_decoder), **__map),
    **__model,
)
# Heads of nano: their transformers stay as they are.
__nano = dict(pts_bbox_head=__boxes, seg_head=__map, **__model)
__motion = dict(
    num_classes=9,
    vehicle_id_list=__vehicles,
    # Classes that share motion anchors: four wheels, bicycles, pedestrians. Whatever stands still has those of cars.
    group_id_list=[[0, 1, 2], [3], [7]],
    anchor_info_path=b2d_anchor_root + "b2d_motion_anchor_infos_mode6.pkl",
)
__planning = dict(command_dim=6)
# Bench2Drive's futures are positions, which only the smoother takes.
__nano_motion = dict(use_nonlinear_optimizer=True, **__motion)
__base_motion = dict(transformerlayers=dict(transformerlayers=dict(ffn_dropout=0.0)), **__motion)

__clips = dict(bev_size=(200, 200), pipeline=__train_pipeline, **__train)
__scenes = dict(bev_size=(200, 200), pipeline=__test_pipeline, **__val)
__nano_test_pipeline = __test_start + [__occ_2m] + __test_rest
__nano_clips = dict(bev_size=(50, 50), queue_length=2, pipeline=__train_first + [__occ_2m] + __train_rest, **__train)
__nano_scenes = dict(bev_size=(50, 50), pipeline=__nano_test_pipeline, **__val)

# What the variants' files take: model and data of base in stages 1 and 2, the same of nano, and tiny's backbone
# Each split is a dict of its own: merging takes `_delete_` out of it.
_b2d_ = dict(
    classes=__classes,
    num_classes=9,
    model_1=__base,
    model_2=dict(motion_head=__base_motion, planning_head=__planning, **__base),
    data_1=dict(workers_per_gpu=4, train=dict(queue_length=5, **__clips), val=dict(**__scenes), test=dict(**__scenes)),
    data_2=dict(workers_per_gpu=4, train=dict(queue_length=3, **__clips), val=dict(**__scenes), test=dict(**__scenes)),
    test_pipeline=__test_pipeline,
    native=dict(lane_thickness=2, compat="bench2drive"),  # map lines as upstream draws them
    nano_1=__nano,
    nano_2=dict(motion_head=__nano_motion, planning_head=__planning, **__nano),
    nano_data=dict(train=__nano_clips, val=dict(**__nano_scenes), test=dict(**__nano_scenes)),
    nano_test_pipeline=__nano_test_pipeline,
    # Tiny sees images of the full size; its BEV is doubled for the heads after tracking.
    tiny=dict(
        img_backbone=dict(
            _delete_=True, type="ResNet", depth=50, num_stages=4, out_indices=(1, 2, 3), style="pytorch",
            frozen_stages=4, norm_cfg=dict(type="BN", requires_grad=False), norm_eval=True,
        ),
        pts_bbox_head=dict(
            bev_h=100, bev_w=100,
            transformer=dict(encoder=dict(num_layers=3)),
            positional_encoding=dict(row_num_embed=100, col_num_embed=100),
        ),
        seg_head=dict(canvas_size=(200, 200)),
    ),
)
