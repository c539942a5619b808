"""AlpaSim's messages as real protobuf ones, made of the fields and numbers of its interface v0 that the adapter reads."""

from __future__ import annotations

from functools import cache

from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

KINDS = {"float": 2, "double": 1, "fixed64": 6, "string": 9, "bytes": 12, "uint32": 13}
FIELDS = {  # message -> (name, number, type, repeated)
    "Vec3": [("x", 1, "float"), ("y", 2, "float"), ("z", 3, "float")],
    "Quat": [("w", 1, "float"), ("x", 2, "float"), ("y", 3, "float"), ("z", 4, "float")],
    "Pose": [("vec", 1, "Vec3"), ("quat", 2, "Quat")],
    "DynamicState": [("angular_velocity", 1, "Vec3"), ("linear_velocity", 2, "Vec3"), ("linear_acceleration", 3, "Vec3"),
                     ("angular_acceleration", 4, "Vec3")],
    "PoseAtTime": [("pose", 1, "Pose"), ("timestamp_us", 2, "fixed64")],
    "Trajectory": [("poses", 1, "PoseAtTime", True)],
    "LinearCde": [("linear_c", 1, "double"), ("linear_d", 2, "double"), ("linear_e", 3, "double")],
    "FthetaCameraParam": [("principal_point_x", 1, "double"), ("principal_point_y", 2, "double"),
                          ("pixeldist_to_angle_poly", 4, "double", True), ("angle_to_pixeldist_poly", 5, "double", True),
                          ("max_angle", 6, "double"), ("linear_cde", 7, "LinearCde")],
    "OpenCVPinholeCameraParam": [("principal_point_x", 1, "double"), ("principal_point_y", 2, "double"),
                                 ("focal_length_x", 3, "double"), ("focal_length_y", 4, "double"),
                                 ("radial_coeffs", 5, "double", True), ("tangential_coeffs", 6, "double", True),
                                 ("thin_prism_coeffs", 7, "double", True)],
    "OpenCVFisheyeCameraParam": [("principal_point_x", 1, "double"), ("principal_point_y", 2, "double"),
                                 ("focal_length_x", 3, "double"), ("focal_length_y", 4, "double"),
                                 ("radial_coeffs", 5, "double", True), ("max_angle", 6, "double")],
    "BivariateWindshieldModelParameters": [("horizontal_poly", 2, "double", True)],
    "CameraSpec": [("ftheta_param", 2, "FthetaCameraParam"), ("opencv_pinhole_param", 3, "OpenCVPinholeCameraParam"),
                   ("opencv_fisheye_param", 4, "OpenCVFisheyeCameraParam"), ("logical_id", 5, "string"),
                   ("resolution_h", 7, "uint32"), ("resolution_w", 8, "uint32"),
                   ("bivariate_windshield_model_param", 10, "BivariateWindshieldModelParameters")],
    "AvailableCamera": [("intrinsics", 1, "CameraSpec"), ("rig_to_camera", 2, "Pose"), ("logical_id", 3, "string")],
    "VehicleDefinition": [("available_cameras", 3, "AvailableCamera", True)],
    "RolloutSpec": [("vehicle", 1, "VehicleDefinition")],
    "DriveSessionRequest": [("session_uuid", 1, "string"), ("random_seed", 2, "fixed64"), ("rollout_spec", 5, "RolloutSpec")],
    "DriveSessionCloseRequest": [("session_uuid", 1, "string")],
    "CameraImage": [("frame_start_us", 2, "fixed64"), ("frame_end_us", 3, "fixed64"), ("image_bytes", 4, "bytes"),
                    ("logical_id", 5, "string")],
    "RolloutCameraImage": [("session_uuid", 1, "string"), ("camera_image", 3, "CameraImage")],
    "RolloutEgoTrajectory": [("session_uuid", 1, "string"), ("trajectory", 3, "Trajectory"),
                             ("dynamic_states", 5, "DynamicState", True)],
    "Route": [("waypoints", 1, "Vec3", True), ("timestamp_us", 2, "fixed64")],
    "RouteRequest": [("session_uuid", 1, "string"), ("route", 3, "Route")],
    "DriveRequest": [("session_uuid", 1, "string"), ("time_now_us", 3, "fixed64"), ("time_query_us", 4, "fixed64")],
    "DriveResponse": [("trajectory", 2, "Trajectory")],
    "VersionId": [("version_id", 1, "string"), ("git_hash", 2, "string")],
}  # fmt: skip


@cache
def message(name: str):
    """The class of a message."""
    pool = _pool()
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"alpasim_stand_in.{name}"))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    file = descriptor_pb2.FileDescriptorProto(name="alpasim_stand_in.proto", package="alpasim_stand_in", syntax="proto3")
    for name, fields in FIELDS.items():
        kind = file.message_type.add(name=name)
        for field, number, of, *repeated in fields:
            added = kind.field.add(name=field, number=number, label=3 if repeated else 1, type=KINDS.get(of, 11))
            if of not in KINDS:
                added.type_name = f".alpasim_stand_in.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return pool


def made(name: str, **values):
    return json_format.ParseDict(values, message(name)())
