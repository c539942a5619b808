"""Base of nuScenes datasets: vocabulary of the devkit and settings; reading samples is UniAD's own."""

from nuscenes.eval.common.config import config_factory

from .custom_3d import Custom3DDataset

# Detection class -> the categories of the dataset that it covers
CATEGORIES = {
    "car": ["vehicle.car"],
    "truck": ["vehicle.truck"],
    "trailer": ["vehicle.trailer"],
    "bus": ["vehicle.bus.bendy", "vehicle.bus.rigid"],
    "construction_vehicle": ["vehicle.construction"],
    "bicycle": ["vehicle.bicycle"],
    "motorcycle": ["vehicle.motorcycle"],
    "pedestrian": [
        "human.pedestrian.adult",
        "human.pedestrian.child",
        "human.pedestrian.construction_worker",
        "human.pedestrian.police_officer",
    ],
    "traffic_cone": ["movable_object.trafficcone"],
    "barrier": ["movable_object.barrier"],
}


class NuScenesDataset(Custom3DDataset):
    """nuScenes.

    Args:
        ann_file, pipeline, data_root, classes, modality, box_type_3d, filter_empty_gt, test_mode: see the base.
        load_interval (int): Take every so manieth info.
        with_velocity (bool): Whether boxes carry vx, vy.
        eval_version (str): Name of the devkit's detection config.
        use_valid_flag (bool): Take objects by the infos' `valid_flag` instead of by their lidar points.
    """

    NameMapping = {category: name for name, categories in CATEGORIES.items() for category in categories}
    # What a class is doing where a prediction does not say
    DefaultAttribute = {
        "car": "vehicle.parked",
        "truck": "vehicle.parked",
        "trailer": "vehicle.parked",
        "bus": "vehicle.moving",
        "construction_vehicle": "vehicle.parked",
        "bicycle": "cycle.without_rider",
        "motorcycle": "cycle.without_rider",
        "pedestrian": "pedestrian.moving",
        "traffic_cone": "",
        "barrier": "",
    }
    # The devkit's names of true-positive errors -> the names in reports
    ErrNameMapping = {
        "trans_err": "mATE",
        "scale_err": "mASE",
        "orient_err": "mAOE",
        "vel_err": "mAVE",
        "attr_err": "mAAE",
    }
    CLASSES = tuple(CATEGORIES)

    def __init__(
        self,
        ann_file,
        pipeline=None,
        data_root=None,
        classes=None,
        load_interval=1,
        with_velocity=True,
        modality=None,
        box_type_3d="LiDAR",
        filter_empty_gt=True,
        test_mode=False,
        eval_version="detection_cvpr_2019",
        use_valid_flag=False,
    ):
        # Reading the infos, which the base does, needs these
        self.load_interval = load_interval
        self.use_valid_flag = use_valid_flag
        super().__init__(
            data_root=data_root,
            ann_file=ann_file,
            pipeline=pipeline,
            classes=classes,
            modality=modality,
            box_type_3d=box_type_3d,
            filter_empty_gt=filter_empty_gt,
            test_mode=test_mode,
        )
        self.with_velocity = with_velocity
        self.eval_version = eval_version
        self.eval_detection_configs = config_factory(eval_version)
