"""A car as its topics describe it, and what it delivers at one instant: messages in, ``Sensors`` out, in a bag as on the road."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from uniad.deploy.plausible import Limits
from uniad.deploy.sensors import CheckedPose as Pose
from uniad.deploy.sensors import Sensors
from uniad.errors import UserError
from uniad.geometry import transforms as tf
from uniad.geometry.nuscenes import IMAGE_HW
from uniad.interface.command import COMMANDS
from uniad.ros import messages as m
from uniad.ros.synchronise import Instant
from uniad.ros.topics import Topics, frame_like, lidar_like
from uniad.ros.transforms import MOST_GAP_NS, Commands, NoMotion, NoPose, PoseSeries, Series, Tree, compose

F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

TF_TOPICS = ("/tf_static", "/tf")
STRAIGHT = COMMANDS.index("straight")
# Where nuScenes' cars have their lidar, x to the right and y ahead: models know the world from there.
NUSCENES_LIDAR = Pose(np.array([0.943, 0.0, 1.84]), np.array([math.sqrt(0.5), 0.0, 0.0, -math.sqrt(0.5)]))
NEAR_M = (1.0, 0.5)  # from there, along the ground and up: a lidar this near is taken as it is
STRAIGHT_ON = math.cos(math.radians(20))
LOOKS_DEG = {
    "CAM_FRONT": 0, "CAM_FRONT_RIGHT": -55, "CAM_FRONT_LEFT": 55, "CAM_BACK": 180, "CAM_BACK_LEFT": 110, "CAM_BACK_RIGHT": -110,
}  # fmt: skip
ASTRAY_DEG = 60  # from there, and two names were mixed up
SAME_MATRIX = 0.02  # of the focal length
MOST_SCALE = 8.0  # an image smaller than that shows a car at 20 m in a pixel or two
LEAST_SEEN = 0.4  # of an image: more is not cut off to make it as wide as the model's
LEAST_UNBENT = 0.5  # of the pixels without distortion have one in the image that they are taken from


@dataclass(frozen=True)
class _Fit:
    """How an image becomes one of the size that the model was made for."""

    scale: float
    left: int  # columns that are cut off on each side, once scaled; negative: black ones are added
    top: int

    @classmethod
    def of(cls, height: int, width: int) -> _Fit:
        scale = max(IMAGE_HW[1] / width, IMAGE_HW[0] / height)
        return cls(scale, (round(width * scale) - IMAGE_HW[1]) // 2, (round(height * scale) - IMAGE_HW[0]) // 2)

    def check(self, height: int, width: int, where: str) -> None:
        """UserError for an image that is no picture of a camera of this kind: a strip, or a thumbnail."""
        seen = IMAGE_HW[0] * IMAGE_HW[1] / (width * height * self.scale**2)
        if self.scale > MOST_SCALE or seen < LEAST_SEEN:
            raise UserError(
                f"{where}: the image has {width}x{height} pixels; the model's have {IMAGE_HW[1]}x{IMAGE_HW[0]}, and images from "
                f"{IMAGE_HW[1] / MOST_SCALE:.0f} columns on, about as wide, are scaled: record larger ones, or leave it out"
            )

    @property
    def matrix(self) -> F64:
        """Pixels of the new image from those of the old one, [4, 4]: the centre of the first pixel is 0, 0."""
        half = 0.5 * self.scale - 0.5
        out = np.eye(4)
        out[0, 0] = out[1, 1] = self.scale
        out[0, 2], out[1, 2] = half - self.left, half - self.top
        return out

    def apply(self, image: U8) -> U8:
        size = (round(image.shape[1] * self.scale), round(image.shape[0] * self.scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA if self.scale < 1 else cv2.INTER_LINEAR)
        return image[self.top : self.top + IMAGE_HW[0], self.left : self.left + IMAGE_HW[1]]


class Car:
    """Add what its topics say; ask what it delivered at an instant.

    calibration: of ``formats.topics.read_calibration``, where the car's own CameraInfo and TF are not to be used. where: the bag
    or car, for messages. live: forget what is older than half a minute.
    """

    def __init__(
        self, topics: Topics, calibration: Mapping[str, Any] | None = None, where: str = "the car", live: bool = False
    ) -> None:
        self.topics, self.calibration, self.where = topics, calibration, where
        self.tree = Tree(live)
        self.poses = PoseSeries(live)
        self.motions: Series[m.Motion] = Series(live)
        self.inertias: Series[m.Inertia] = Series(live)
        self.commands = Commands(live)
        self.infos: dict[str, Series[m.Lens]] = {name: Series(live) for name in topics.cameras}
        self.cloud_frame = ""  # of the point cloud that is the reference
        self.notes: list[str] = []  # what was assumed, for people
        self._child = self._odometry_frame = ""
        self._origin: F64 | None = None
        self._lidar: Pose | None = None
        self._info_of = {camera.info: name for name, camera in topics.cameras.items() if camera.info}
        self._maps: dict[str, tuple[bytes, U8]] = {}

    # --- what is told

    @property
    def small(self) -> list[str]:
        """Topics that ``add`` takes: all but images and point clouds."""
        named = (self.topics.odometry, self.topics.imu, self.topics.command)
        return [*TF_TOPICS, *(topic for topic in named if topic), *self._info_of]

    def add(self, topic: str, stamp_ns: int, message: Any) -> None:
        """One message of ``small``. stamp_ns: when it came, for a type without a header."""
        where = f"{self.where}: {topic}"
        if topic in TF_TOPICS:
            for transform in message.transforms:
                parent, child, pose = m.edge(transform, where)
                stamp = None if topic == "/tf_static" else m.nanoseconds(transform.header.stamp, where)
                self.tree.add(parent, child, pose, stamp)
        elif topic == self.topics.odometry:
            motion = m.motion(message, where)
            stamp_ns = m.nanoseconds(message.header.stamp, where) or stamp_ns
            self._child, self._odometry_frame = motion.child.lstrip("/"), motion.frame.lstrip("/")
            self.poses.add(stamp_ns, motion.pose, where)
            self.motions.add(stamp_ns, motion)
        elif topic == self.topics.imu:
            self.inertias.add(m.nanoseconds(message.header.stamp, where) or stamp_ns, m.inertia(message, where))
        elif topic == self.topics.command:
            self.commands.said(stamp_ns, m.command(message, where))
        else:
            name = self._info_of[topic]
            self.infos[name].add(m.nanoseconds(message.header.stamp, where) or stamp_ns, m.lens(message, where))

    def remember_rig(self, before: Car) -> None:
        """What was said once and holds for the next drive, too: static transforms and calibrations."""
        for child, pose in before.tree.fixed.items():
            self.tree.add(before.tree.parent[child], child, pose, None)
        self.infos = before.infos

    # --- what is asked

    def check(self, stamp_ns: int, frames: Mapping[str, str]) -> None:
        """UserError where frames, poses or matrices do not fit together. frames: of the images, by camera."""
        self._ego(stamp_ns)
        lidar = self._lidar_pose(stamp_ns).matrix()
        for name in self.topics.cameras:
            if self.calibration is None:
                ego_from_camera = self._mounted(name, frames.get(name, ""), stamp_ns).matrix()
            else:
                ahead, down = (self.calibration["cameras"][name][row, :3] for row in (2, 1))
                axes = np.stack((np.zeros(3), down / np.linalg.norm(down), ahead / np.linalg.norm(ahead)), 1)
                ego_from_camera = lidar[:3, :3] @ axes
            self._check_view(name, frames.get(name, ""), ego_from_camera)

    def lacks(self, stamp_ns: int, image_stamps_ns: Iterable[int]) -> dict[str, str]:
        """What is not known at an instant or when its images were taken, and why: of "pose" and "motion"; {} where all is."""
        try:
            for stamp in (stamp_ns, *image_stamps_ns):
                self._ego(stamp)
        except NoPose as error:
            return {"pose": str(error)}
        try:
            self._check_motion(stamp_ns)
        except NoMotion as error:
            return {"motion": str(error)}
        return {}

    def sensors(self, instant: Instant, images: Mapping[str, Any], start_ns: int) -> tuple[Sensors, frozenset[str]]:
        """What an instant delivers, and the cameras whose pixels are those of their message. images: messages by camera."""
        pictures, projections, untouched = {}, [], set()
        ego, lidar = self._ego(instant.stamp_ns), self._lidar_pose(instant.stamp_ns)
        global_from_lidar = ego.matrix() @ lidar.matrix()
        lidar_from_global = tf.inverse(global_from_lidar)
        intrinsics, lidar_from_cameras = [], []
        for name, camera in self.topics.cameras.items():
            stamp, message = instant.picked[name][0], images[name]
            where = f"{self.where}: {camera.topic} at {stamp / 1e9:.3f} s"
            pictures[name], intrinsic, same = self._picture(name, m.image(message, where), stamp, where)
            if same:
                untouched.add(name)
            global_from_ego = self._ego(stamp).matrix()
            if self.calibration is None:
                mounted = self._mounted(name, message.header.frame_id, stamp)
                lidar_from_cameras.append(lidar_from_global @ (global_from_ego @ mounted.matrix()))
            else:
                lidar_from_cameras.append(lidar_from_global @ (global_from_ego @ lidar.matrix()))
            intrinsics.append(intrinsic)
        # As the info table does it, all at once, so that a dataset's frames come out to the last bit.
        projections = np.stack(intrinsics) @ tf.inverse(np.stack(lidar_from_cameras))
        command = self.commands.last(instant.stamp_ns)
        sensors = Sensors(
            images=pictures,
            lidar2img=dict(zip(self.topics.cameras, projections)),
            ego2global=ego,
            lidar2ego=lidar,
            time_s=(instant.stamp_ns - start_ns) / 1e9,
            command=STRAIGHT if command is None else command,
            can_bus=self._can_bus(instant.stamp_ns),
        )
        return sensors, frozenset(untouched)

    # --- frames

    @property
    def base(self) -> str:
        """The frame of the car: x ahead, y left, z up."""
        named = self.topics.frames.get("base") or frame_like("base", self.tree.frames) or self._child
        if not named:
            known = ", ".join(self.tree.frames[:20]) or "none"
            raise UserError(f"{self.where}: no frame of the car: name it in a file of topics (frames: base); TF has {known}")
        return named

    @property
    def world(self) -> str:
        """The frame that poses are in."""
        return self._odometry_frame or self.topics.frames.get("world") or frame_like("world", self.tree.frames) or "map"

    def _ego(self, stamp_ns: int) -> Pose:
        """global_from_ego, from a place nearby where the map's origin is far away."""
        if len(self.poses):
            pose = self.poses.at(stamp_ns, f"{self.where}: {self.topics.odometry}")
            if self._child and self._child != self.base:
                pose = compose(pose, self.tree.lookup(self._child, self.base, stamp_ns))
        else:
            if self.topics.odometry:
                raise UserError(f"{self.where}: {self.topics.odometry} has no message")
            world = self.topics.frames.get("world") or frame_like("world", self.tree.frames)
            if world is None:
                known = ", ".join(self.tree.frames[:20]) or "none"
                raise UserError(f"{self.where}: no Odometry, nor a frame of the world in TF (it has {known}): say which is which")
            pose = self.tree.lookup(world, self.base, stamp_ns)
            self._note("no Odometry: poses are TF's, and velocities 0")
        if self._origin is None:
            far = float(np.linalg.norm(pose.translation)) > Limits().position_m
            self._origin = np.floor(pose.translation) if far else np.zeros(3)
            if far:
                x, y, z = self._origin
                self._note(f"positions count from {x:.0f}, {y:.0f}, {z:.0f} m, where the drive begins, as float32 needs them")
        return Pose(pose.translation - self._origin, pose.rotation) if self._origin.any() else pose

    def _lidar_pose(self, stamp_ns: int) -> Pose:
        """ego_from_lidar of the frame in which the model sees: x right, y ahead."""
        if self._lidar is None:
            self._lidar = self._choose_lidar(stamp_ns)
        return self._lidar

    def _choose_lidar(self, stamp_ns: int) -> Pose:
        if self.calibration is not None:
            pose = Pose(**self.calibration["lidar2ego"])
            if pose.matrix()[0, 1] < STRAIGHT_ON:
                found = f"{self.where}: lidar2ego of the calibration: its y axis is not ahead"
                raise UserError(f"{found}; the model's lidar frame is nuScenes', x right and y ahead")
            return pose
        named = self.topics.frames.get("lidar")
        frame = named or self.cloud_frame or lidar_like(self.tree.frames)
        if frame is None or (not named and frame not in self.tree):
            self._note("no frame of a lidar in TF: the model looks from where nuScenes' cars have theirs")
            return NUSCENES_LIDAR
        pose = self.tree.lookup(self.base, frame, stamp_ns)
        away = pose.translation - NUSCENES_LIDAR.translation
        if np.linalg.norm(away[:2]) > NEAR_M[0] or abs(away[2]) > NEAR_M[1]:
            x, y, z = pose.translation
            self._note(f"{frame} at {x:.2f}, {y:.2f}, {z:.2f} m is not where models know a lidar: they look from nuScenes' place")
            return NUSCENES_LIDAR
        matrix = pose.matrix()
        if matrix[0, 1] < STRAIGHT_ON or matrix[2, 2] < STRAIGHT_ON:
            self._note(f"{frame} has its y axis not ahead: the model looks from its place, x right and y ahead")
            return Pose(pose.translation, NUSCENES_LIDAR.rotation)
        return pose

    def _mounted(self, name: str, frame: str, stamp_ns: int) -> Pose:
        """ego_from_camera."""
        lens = self._lens(name, stamp_ns)
        frame = (self.topics.cameras[name].frame or frame or lens.frame).lstrip("/")
        if not frame:
            topic = self.topics.cameras[name].topic
            raise UserError(f"{self.where}: {topic}: its messages name no frame; name it in a file of topics")
        return self.tree.lookup(self.base, frame, stamp_ns)

    def _check_view(self, name: str, frame: str, ego_from_camera: F64) -> None:
        topic, frame = self.topics.cameras[name].topic, self.topics.cameras[name].frame or frame or "the calibration"
        ahead, down = ego_from_camera[:3, 2], ego_from_camera[:3, 1]
        if abs(ahead[2]) > 0.7 or down[2] > -0.7:
            raise UserError(
                f"{self.where}: {name} ({topic}): frame {frame} is not a camera's optical frame (z ahead, y down): name that one "
                "in a file of topics"
            )
        looks = math.degrees(math.atan2(ahead[1], ahead[0]))
        if abs((looks - LOOKS_DEG[name] + 180) % 360 - 180) > ASTRAY_DEG:
            raise UserError(
                f"{self.where}: {name} ({topic}, frame {frame}) looks {looks:.0f} degrees to the left; {name} looks about "
                f"{LOOKS_DEG[name]}: topics or frames are mixed up"
            )

    # --- images and what is measured

    def _lens(self, name: str, stamp_ns: int) -> m.Lens:
        series = self.infos[name]
        lens = series.last(stamp_ns) or series.following(stamp_ns)
        if lens is None:
            raise UserError(f"{self.where}: {self.topics.cameras[name].info} has no message: {name} is not calibrated")
        return lens

    def _picture(self, name: str, image: U8, stamp_ns: int, where: str) -> tuple[U8, F64, bool]:
        """The image without distortion and at its size, its matrix [4, 4], and whether pixels are as they came.

        The matrix is of the camera; with a calibration file, of the lidar frame at that time.
        """
        camera, has_lens = self.topics.cameras[name], len(self.infos[name]) > 0
        matrix = np.eye(4)
        if self.calibration is not None:
            matrix = self.calibration["cameras"][name]
            if not has_lens:
                self._note("no CameraInfo: images are taken to be free of distortion, as their calibration file says")
        height, width = image.shape[:2]
        same = True
        if has_lens:
            lens = self._lens(name, stamp_ns)
            if lens.width and (lens.width, lens.height) != (width, height):
                raise UserError(
                    f"{where}: the image has {width}x{height} pixels, its CameraInfo speaks of {lens.width}x{lens.height}: "
                    "record both alike, or give a calibration file without CameraInfo"
                )
            if self.calibration is None:
                matrix = np.eye(4)
                if camera.rectified:
                    if lens.p[0, 0] <= 0:
                        raise UserError(f"{where}: its CameraInfo has no matrix p, which a rectified image needs")
                    matrix[:3] = lens.p
                    matrix = matrix @ tf.from_rotation(lens.r, np.zeros(3))
                else:
                    matrix[:3, :3] = lens.k
            if lens.distorted and not camera.rectified:
                if self.calibration is not None:
                    self._check_matrix(name, matrix, lens, where)
                image = self._undistorted(name, image, lens, where)
                self._note("lens distortion is taken out with the coefficients of CameraInfo")
                same = False
        if (height, width) != IMAGE_HW:
            fit = _Fit.of(height, width)
            fit.check(height, width, where)
            cut = f" and cut to {IMAGE_HW[1]}x{IMAGE_HW[0]}" if fit.left or fit.top else ""
            self._note(f"{width}x{height} images are scaled by {fit.scale:.4g}{cut}, their matrices with them")
            image, matrix, same = fit.apply(image), fit.matrix @ matrix, False
        return image, matrix, same

    def _check_matrix(self, name: str, lidar2img: F64, lens: m.Lens, where: str) -> None:
        """Distortion can only be taken out with the matrix that it was measured with."""
        right, down, ahead = lidar2img[:3, :3]
        centre = np.array([right @ ahead, down @ ahead])
        focal = np.array([np.linalg.norm(right - centre[0] * ahead), np.linalg.norm(down - centre[1] * ahead)])
        found, wanted = np.concatenate((focal, centre)), lens.k[[0, 1, 0, 1], [0, 1, 2, 2]]
        if np.abs(found - wanted).max() > SAME_MATRIX * lens.k[0, 0]:
            raise UserError(
                f"{where}: the image is distorted, and the calibration file's matrix of {name} is not that of its CameraInfo "
                f"(focal length {focal[0]:.0f} against {lens.k[0, 0]:.0f}): give rectified images"
            )

    def _undistorted(self, name: str, image: U8, lens: m.Lens, where: str) -> U8:
        key = lens.k.tobytes() + lens.d.tobytes() + lens.model.encode()
        if name not in self._maps or self._maps[name][0] != key:
            size, k = (image.shape[1], image.shape[0]), lens.k
            if lens.model in ("equidistant", "fisheye"):
                maps = cv2.fisheye.initUndistortRectifyMap(k, lens.d, np.eye(3), k, size, cv2.CV_16SC2)
            else:
                maps = cv2.initUndistortRectifyMap(k, lens.d, np.eye(3), k, size, cv2.CV_16SC2)
            if _unbent(maps[0], *size) < LEAST_UNBENT:
                given = ", ".join(f"{value:.4g}" for value in lens.d)
                raise UserError(f"{where}: distortion {given} folds most of the image, or takes it away: calibrate again")
            self._maps[name] = key, maps
        return cv2.remap(image, *self._maps[name][1], interpolation=cv2.INTER_LINEAR)

    def _can_bus(self, stamp_ns: int) -> F64 | None:
        """nuScenes' vector from the first messages after the instant, as its converter has it; None where there is no message."""
        self._check_motion(stamp_ns)
        inertia, motion = self.inertias.following(stamp_ns), self.motions.following(stamp_ns)
        if inertia is None and motion is None:
            return None
        vector = np.zeros(18)
        if motion is not None:
            vector[10:13] = self._turned(motion.rate, motion.child, stamp_ns)
            vector[13:16] = self._turned(motion.velocity, motion.child, stamp_ns)
        if inertia is not None:
            vector[7:10] = self._turned(inertia.acceleration, inertia.frame, stamp_ns)
            vector[10:13] = self._turned(inertia.rate, inertia.frame, stamp_ns)
        return vector

    def _check_motion(self, stamp_ns: int) -> None:
        """NoMotion where what was measured long before or after would be taken for how the car moves now."""
        series: tuple[tuple[str | None, Series[Any]], ...] = (
            (self.topics.imu, self.inertias), (self.topics.odometry, self.motions),
        )  # fmt: skip
        for topic, values in series:
            if (away := values.away_ns(stamp_ns)) > MOST_GAP_NS:
                told = f"the next message is {away / 1e6:.0f} ms away (null in a file of topics does without)"
                raise NoMotion(f"{self.where}: {topic}: {told}")

    def _turned(self, vector: F64, frame: str, stamp_ns: int) -> F64:
        frame = frame.lstrip("/")
        if not frame or frame == self.base:
            return vector
        return tf.rotation_matrix(self.tree.lookup(self.base, frame, stamp_ns).rotation) @ vector

    def _note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)


def _unbent(map_xy: NDArray[np.int16], width: int, height: int) -> float:
    """Share of the pixels that come from inside of the image, and from the right of what their left neighbour comes from."""
    coarse = map_xy[::8, ::8].astype(np.int64)
    x, y = coarse[..., 0], coarse[..., 1]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return float((inside[:, 1:] & (np.diff(x, axis=1) > 0)).mean())


def absent_notes(topics: Topics) -> list[str]:
    """What is assumed where a topic is not there."""
    notes = [] if topics.command else ["no command topic: the command is straight on"]
    if not topics.imu:
        notes.append("no Imu: the CAN bus's acceleration is 0")
    return notes
