"""The loop as AlpaSim's driver: the methods of its ``egodriver.EgodriverService``.

gRPC is not needed here. A servicer of theirs hands each request on as it is (docs/drive.md shows it): messages are read by the
names of their fields, which protobuf's and plain objects share; answers are dicts of such names, for ``json_format.ParseDict``.

What comes in, of interface v0 (NVlabs/alpasim 3032e0c, in src/grpc/alpasim_grpc/v0: egodriver, common and sensorsim.proto):

* ``start_session``: session_uuid; rollout_spec.vehicle.available_cameras, each with logical_id, ``rig_to_camera`` (the camera's
  pose in the rig, in spite of the name: vec, and quat w x y z; it looks along z, its y is down) and ``intrinsics`` (a pinhole, an
  OpenCV fisheye or an f-theta polynomial, for resolution_w x resolution_h);
* ``submit_image_observation``: camera_image with logical_id, frame_end_us, image_bytes (PNG or JPEG);
* ``submit_egomotion_observation``: trajectory.poses, each with timestamp_us and the rig's pose in the local frame, and as many
  dynamic_states in the rig's own axes;
* ``submit_route``: route.waypoints x y z in the rig frame of route.timestamp_us;
* ``drive``: time_now_us, time_query_us. Its answer is a trajectory of rig poses in the local frame, that of now first.

The rig frame is this project's ego frame: right-handed, its origin on the ground under the rear axle, x ahead, y left. Plans are
of the lidar; the rig's poses follow from them. The ground is taken as flat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from uniad.data.synthetic.sensors import yaw_quaternion
from uniad.deploy.sensors import Pose
from uniad.errors import UserError
from uniad.formats.layout import CAMERAS
from uniad.geometry.nuscenes import IMAGE_HW
from uniad.geometry.transforms import heading
from uniad.simulation.adapter import Adapter, Guide, Motion, Stepper, check_cameras, img_from_ego, pinhole
from uniad.simulation.log import FRAME_S, LIDAR_AHEAD_M

F64 = NDArray[np.float64]

# Which of AlpaSim's cameras stands for which of the model's
CAMERA_IDS = {
    "CAM_FRONT": "camera_front_wide_120fov", "CAM_FRONT_LEFT": "camera_cross_left_120fov",
    "CAM_FRONT_RIGHT": "camera_cross_right_120fov", "CAM_BACK": "camera_rear_tele_30fov",
    "CAM_BACK_LEFT": "camera_rear_left_70fov", "CAM_BACK_RIGHT": "camera_rear_right_70fov",
}  # fmt: skip
# Horizontal field of view of nuScenes' cameras, to which bent images are straightened
FOV_DEG = {name: 110.0 if name == "CAM_BACK" else 70.0 for name in CAMERAS}
OPENCV_ORDER = (0, 1, 4, 5, 6, 7)  # places of the radial coefficients among OpenCV's
LEAST_STEP_M = 0.05  # a plan's step below this has no direction


class AlpasimDriver:
    """Sessions of a model. ``open_runtime`` is called for each, because a model's state is one car's."""

    def __init__(self, open_runtime: Callable[[], Stepper], cameras: Mapping[str, str] | None = None) -> None:
        """cameras: AlpaSim's logical id by the model's camera."""
        self._open = open_runtime
        self.cameras = dict(CAMERA_IDS if cameras is None else cameras)
        check_cameras(self.cameras, "the choice of cameras")
        self._sessions: dict[str, _Session] = {}

    def start_session(self, request: Any) -> dict[str, Any]:
        if request.session_uuid in self._sessions:
            raise UserError(f"session {request.session_uuid} has begun already")
        known = {camera.logical_id: camera for camera in request.rollout_spec.vehicle.available_cameras}
        missing = [f"{wanted} (for {name})" for name, wanted in self.cameras.items() if wanted not in known]
        if missing:
            raise UserError(f"the vehicle has no camera {', '.join(missing)}; it has {', '.join(sorted(known))}")
        lenses = {wanted: Lens(known[wanted], FOV_DEG[name]) for name, wanted in self.cameras.items()}
        self._sessions[request.session_uuid] = _Session(Adapter(self._open()), self.cameras, lenses)
        return {}

    def close_session(self, request: Any) -> dict[str, Any]:
        self._session(request)
        del self._sessions[request.session_uuid]
        return {}

    def submit_image_observation(self, request: Any) -> dict[str, Any]:
        self._session(request).see(request.camera_image)
        return {}

    def submit_egomotion_observation(self, request: Any) -> dict[str, Any]:
        self._session(request).move(request.trajectory.poses, request.dynamic_states)
        return {}

    def submit_route(self, request: Any) -> dict[str, Any]:
        self._session(request).take_route(request.route)
        return {}

    def submit_recording_ground_truth(self, request: Any) -> dict[str, Any]:
        """What the real car did is not looked at."""
        self._session(request)
        return {}

    def drive(self, request: Any) -> dict[str, Any]:
        """The trajectory; without poses while a camera or the egomotion has not come, as AlpaSim's own driver answers."""
        return {"trajectory": {"poses": self._session(request).drive(int(request.time_now_us))}}

    def get_version(self, request: Any = None) -> dict[str, Any]:
        from uniad import __version__

        return {"version_id": f"uniad-{__version__}", "git_hash": "unknown"}

    def _session(self, request: Any) -> _Session:
        if request.session_uuid not in self._sessions:
            raise UserError(f"session {request.session_uuid} has not begun; start_session comes first")
        return self._sessions[request.session_uuid]


class _Session:
    """One car."""

    def __init__(self, loop: Adapter, cameras: Mapping[str, str], lenses: Mapping[str, Lens]) -> None:
        self.loop, self.cameras, self.lenses = loop, cameras, lenses
        self.images: dict[str, tuple[int, NDArray[np.uint8]]] = {}  # by logical id: when, and what
        self.poses: dict[int, tuple[Any, Any]] = {}  # by time: pose and dynamic state
        self.guide = Guide(np.zeros((0, 2)))

    def see(self, image: Any) -> None:
        if image.logical_id not in self.lenses:
            return  # of a camera that the model does not look through
        pixels = cv2.imdecode(np.frombuffer(image.image_bytes, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        if pixels is None:
            raise UserError(f"image of {image.logical_id} at {image.frame_end_us} us cannot be decoded; it is PNG or JPEG")
        if image.frame_end_us >= self.images.get(image.logical_id, (0, None))[0]:
            self.images[image.logical_id] = int(image.frame_end_us), pixels

    def move(self, poses: Any, states: Any) -> None:
        if len(poses) != len(states):
            raise UserError(f"{len(poses)} poses came with {len(states)} dynamic states; each pose has one")
        self.poses.update({int(pose.timestamp_us): (pose.pose, state) for pose, state in zip(poses, states)})

    def take_route(self, route: Any) -> None:
        if not self.poses or not len(route.waypoints):
            return
        now = min(self.poses, key=lambda at: abs(at - int(route.timestamp_us)))
        place = _matrix(self.poses[now][0])
        points = np.array([[p.x, p.y, p.z, 1.0] for p in route.waypoints]) @ place.T
        self.guide = Guide(points[:, :2])

    def drive(self, now_us: int) -> list[dict[str, Any]]:
        if len(self.images) < len(self.cameras) or not self.poses:
            return []
        pose, state = self.poses[max(self.poses)]
        place = _matrix(pose)
        motion = Motion(
            xy=place[:2, 3],
            heading=float(heading(place)),
            speed=float(np.hypot(state.linear_velocity.x, state.linear_velocity.y)),
            acceleration=(float(state.linear_acceleration.x), float(state.linear_acceleration.y)),
            yaw_rate=float(state.angular_velocity.z),
        )
        if self.loop.due(now_us / 1e6):
            views = {name: self.lenses[wanted].view(self.images[wanted][1]) for name, wanted in self.cameras.items()}
            images = {name: image for name, (image, _) in views.items()}
            projections = {name: matrix for name, (_, matrix) in views.items()}
            self.loop.step(images, projections, motion, now_us / 1e6, self.guide.command(motion))
        return [_pose_at(motion.xy, motion.heading, float(place[2, 3]), now_us), *self._ahead(motion, float(place[2, 3]), now_us)]

    def _ahead(self, motion: Motion, z: float, now_us: int) -> list[dict[str, Any]]:
        """The plan as poses of the rig: the lidar goes before it, in the direction of its way."""
        plan = self.loop.plan_now(now_us / 1e6)
        before = motion.xy + LIDAR_AHEAD_M * np.array([np.cos(motion.heading), np.sin(motion.heading)])
        yaw, poses = motion.heading, []
        for step, point in enumerate(plan, 1):
            way = point - before
            if np.linalg.norm(way) > LEAST_STEP_M:
                yaw = float(np.arctan2(way[1], way[0]))
            rig = point - LIDAR_AHEAD_M * np.array([np.cos(yaw), np.sin(yaw)])
            poses.append(_pose_at(rig, yaw, z, now_us + round(step * FRAME_S * 1e6)))
            before = point
        return poses


class Lens:
    """A camera as AlpaSim describes it: what the model needs of its images."""

    def __init__(self, camera: Any, fov_deg: float) -> None:
        """fov_deg: of the pinhole camera to which images of a bent lens are straightened."""
        spec = camera.intrinsics
        self.name, self.hw = camera.logical_id, (int(spec.resolution_h), int(spec.resolution_w))
        self._ego_from_camera = _matrix(camera.rig_to_camera)
        if _has(spec, "bivariate_windshield_model_param"):
            raise UserError(f"{self.name} looks through a modelled windshield, which is not taken out; choose a camera without")
        if min(self.hw) < 1:
            raise UserError(f"{self.name} has a resolution of {self.hw[1]}x{self.hw[0]}")
        self._map: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        height, width = IMAGE_HW
        focal = width / (2 * np.tan(np.radians(fov_deg) / 2))
        straight = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
        if _has(spec, "opencv_pinhole_param"):
            lens = spec.opencv_pinhole_param
            own = np.array([[lens.focal_length_x, 0, lens.principal_point_x], [0, lens.focal_length_y, lens.principal_point_y],
                            [0, 0, 1.0]])  # fmt: skip
            bent = np.zeros(12)
            for places, values in ((OPENCV_ORDER, lens.radial_coeffs), ((2, 3), lens.tangential_coeffs),
                                   ((8, 9, 10, 11), lens.thin_prism_coeffs)):  # fmt: skip
                for at, value in zip(places, values):
                    bent[at] = value
            if bent.any():
                self._map = cv2.initUndistortRectifyMap(own, bent, None, straight, (width, height), cv2.CV_32FC1)
            self._intrinsic = straight if bent.any() else own
        elif _has(spec, "opencv_fisheye_param"):
            lens = spec.opencv_fisheye_param
            own = np.array([[lens.focal_length_x, 0, lens.principal_point_x], [0, lens.focal_length_y, lens.principal_point_y],
                            [0, 0, 1.0]])  # fmt: skip
            bent = np.array([*lens.radial_coeffs, 0, 0, 0, 0][:4], np.float64)
            self._map = cv2.fisheye.initUndistortRectifyMap(own, bent, np.eye(3), straight, (width, height), cv2.CV_32FC1)
            self._intrinsic = straight
        elif _has(spec, "ftheta_param"):
            self._map, self._intrinsic = _ftheta_map(spec.ftheta_param, straight), straight
        else:
            raise UserError(
                f"{self.name} has no known lens: needed is opencv_pinhole_param, opencv_fisheye_param or ftheta_param"
            )

    def view(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], F64]:
        """An image [h, w, 3] of it, straightened, and the projection [4, 4] from the rig to its pixels."""
        # Renders may be smaller than the camera is described.
        scale = np.array([image.shape[1] / self.hw[1], image.shape[0] / self.hw[0]])
        k = self._intrinsic.copy()
        if self._map is None:
            k[:2] *= scale[:, None]
        else:
            x, y = ((place + 0.5) * s - 0.5 for place, s in zip(self._map, scale))
            image = cv2.remap(image, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR)
        return image, img_from_ego(pinhole(k[0, 0], k[1, 1], k[0, 2], k[1, 2]), self._ego_from_camera)


def _ftheta_map(lens: Any, straight: F64) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Where each pixel of a pinhole camera lies in an f-theta image; -1e4, outside, where the lens does not reach."""
    height, width = IMAGE_HW
    x, y = np.meshgrid(
        (np.arange(width) - straight[0, 2]) / straight[0, 0], (np.arange(height) - straight[1, 2]) / straight[1, 1]
    )
    away = np.hypot(x, y)
    angle = np.arctan(away)
    if len(lens.angle_to_pixeldist_poly):
        radius = np.polynomial.polynomial.polyval(angle, np.array(lens.angle_to_pixeldist_poly))
    elif len(lens.pixeldist_to_angle_poly):
        pixels = np.arange(0.0, 4000.0)
        angles = np.polynomial.polynomial.polyval(pixels, np.array(lens.pixeldist_to_angle_poly))
        rising = np.flatnonzero(np.diff(angles) <= 0)
        last = int(rising[0]) + 1 if len(rising) else len(pixels)
        radius = np.interp(angle, angles[:last], pixels[:last])
    else:
        raise UserError("an f-theta lens has neither angle_to_pixeldist_poly nor pixeldist_to_angle_poly")
    per_unit = np.divide(radius, away, out=np.zeros_like(radius), where=away > 1e-9)
    c, d, e = 1.0, 0.0, 0.0
    if _has(lens, "linear_cde"):
        c, d, e = lens.linear_cde.linear_c, lens.linear_cde.linear_d, lens.linear_cde.linear_e
    u = (c * x + d * y) * per_unit + lens.principal_point_x
    v = (e * x + y) * per_unit + lens.principal_point_y
    if lens.max_angle > 0:
        u[angle > lens.max_angle] = -1e4
    return u.astype(np.float32), v.astype(np.float32)


def _has(message: Any, field: str) -> bool:
    """Whether an optional field of a message is set; plain objects have it as an attribute, or None."""
    if hasattr(message, "HasField"):
        return message.HasField(field)
    return getattr(message, field, None) is not None


def _matrix(pose: Any) -> F64:
    """[4, 4] of a common.Pose."""
    quaternion = [pose.quat.w, pose.quat.x, pose.quat.y, pose.quat.z]
    return Pose([pose.vec.x, pose.vec.y, pose.vec.z], quaternion).checked("pose").matrix()


def _pose_at(xy: F64, yaw: float, z: float, at_us: int) -> dict[str, Any]:
    w, _, _, qz = yaw_quaternion(yaw)
    vec = {"x": float(xy[0]), "y": float(xy[1]), "z": z}
    return {"pose": {"vec": vec, "quat": {"w": w, "x": 0.0, "y": 0.0, "z": qz}}, "timestamp_us": at_us}
