"""The names of nuScenes' own layout: versions, tables, sensors, folders. Needs nothing installed."""

TABLES = (
    "category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor", "ego_pose", "log", "scene",
    "sample", "sample_data", "sample_annotation", "map",
)  # fmt: skip
CAMERAS = ("CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_FRONT_LEFT", "CAM_BACK", "CAM_BACK_LEFT", "CAM_BACK_RIGHT")
LIDAR = "LIDAR_TOP"
CAN_BUS = "can_bus"
VERSIONS = ("v1.0-trainval", "v1.0-mini", "v1.0-test")
# Beside the tables of a driven synthetic world: by sample token, the plan that is to be learned ([6, 3]: x, y, heading of the
# rear axle, global, at 0.5 s steps) and the command.
EXPERT = "expert.json"
