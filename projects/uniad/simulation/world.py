"""What the car's sensors deliver where it stands: the cameras, poses and CAN bus of the data set, from any place in the world."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import cv2
import numpy as np

from uniad.data.infos import can_bus_vector
from uniad.data.labels import COMMAND_THRESHOLD_M
from uniad.data.synthetic.canbus import MARGIN_S, pose_messages
from uniad.data.synthetic.motion import Moment
from uniad.data.synthetic.paint import Item, make_item
from uniad.data.synthetic.scene import Scene, Seen, encode
from uniad.data.synthetic.scenery import signal_mesh
from uniad.data.synthetic.sensors import CAMERA_DELAY_US, CAMERAS, LIDAR, yaw_quaternion
from uniad.deploy.sensors import Pose, Sensors
from uniad.geometry import transforms as tf
from uniad.geometry.nuscenes import IMAGE_HW
from uniad.interface.command import COMMANDS
from uniad.simulation.log import AMBER, F64, FRAME_S, GREEN, LIDAR_AHEAD_M, PLAN_STEPS, RED

MEAN_BGR = (104, 116, 124)  # of the images that published weights were normalised with: what carries no content
RIGHT, LEFT, STRAIGHT = (COMMANDS.index(name) for name in ("right", "left", "straight"))


class Mover(Protocol):
    """A car whose motion is known: ``Car``, or one that drives a recorded track."""

    def at(self, t_s: F64) -> Moment:
        """The rear axle's motion at times [n] since tick 0."""


class Cameras:
    """The sensors of a scene's car. lamps: signals show their state; off, all their lamps are lit, as where data is recorded."""

    def __init__(self, scene: Scene, lamps: bool = True) -> None:
        self.scene, self.lamps = scene, lamps
        states = ((RED, 0), (AMBER, 1), (GREEN, 2)) if lamps else ()
        self._lit = {state: signal_mesh(lamp, scene.params.driven) for state, lamp in states}
        self._items: dict[tuple[int, int], Item] = {}  # signals by number of the prop and state

    def sensors(
        self, t_s: float, car: Mover, seen: Sequence[Seen], lights: dict[tuple[int, int], int], command: int,
        images: Literal["rendered", "blank"] = "rendered",
    ) -> Sensors:  # fmt: skip
        """The frame at a time since tick 0.

        seen: the actors at that time. lights: state by (junction, road) of the approaches. The world stands still while the
        cameras fire, and each has the pose of its own instant, as in the data set.
        """
        start_us = self.scene.spec.start_us
        at_us = round(t_s * 1e6)
        shots = {channel: (at_us + CAMERA_DELAY_US[channel]) / 1e6 for channel in CAMERAS} | {LIDAR: at_us / 1e6}
        motion = car.at(np.array(list(shots.values())))
        places = {channel: (motion.xy[i], float(motion.yaw[i])) for i, channel in enumerate(shots)}
        poses = {channel: _ego_pose(*place) for channel, place in places.items()}
        if images == "rendered":
            stage = self.scene.stage_of(seen, self.props(lights))
            pictures = {}
            for channel in CAMERAS:
                image, _ = self.scene.render_view(self.scene.view_from(channel, *places[channel]), stage, measure=False)
                data = np.frombuffer(encode(image, self.scene.params.jpeg_quality), np.uint8)
                pictures[channel] = cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
        else:
            pictures = {channel: np.full((*IMAGE_HW, 3), MEAN_BGR, np.uint8) for channel in CAMERAS}
        lidar = self.scene.sensors[LIDAR]
        lidar_from_global = tf.inverse(self._global_from_sensor(LIDAR, poses[LIDAR]))
        return Sensors(
            images=pictures,
            lidar2img={channel: self._projection(channel, poses[channel], lidar_from_global) for channel in CAMERAS},
            ego2global=poses[LIDAR],
            lidar2ego=Pose(list(lidar.translation), [float(q) for q in lidar.rotation]),
            time_s=at_us / 1e6,
            command=command,
            can_bus=can_bus(car, start_us, at_us),
        )

    def global_from_lidar(self, xy: F64, yaw: float) -> F64:
        """Plane transform [3, 3] of the lidar where the rear axle is at xy [2]."""
        whole = self._global_from_sensor(LIDAR, _ego_pose(xy, yaw))
        return whole[np.ix_((0, 1, 3), (0, 1, 3))]

    def props(self, lights: dict[tuple[int, int], int]) -> list[Item]:
        """The scene's props with every signal as it is: state by (junction, road) of its approach, red where none is given."""
        items = list(self.scene.props)
        for number, approach in self.scene.signals.items() if self.lamps else ():
            key = number, lights.get(approach, RED)
            if key not in self._items:
                prop = items[number]
                pose = float(prop.xy[0]), float(prop.xy[1]), float(prop.yaw)
                self._items[key] = make_item(self._lit[key[1]], pose, self.scene.look)
            items[number] = self._items[key]
        return items

    def _global_from_sensor(self, channel: str, ego: Pose) -> F64:
        sensor = self.scene.sensors[channel]
        ego_from_sensor = tf.pose_matrix([float(q) for q in sensor.rotation], list(sensor.translation))
        return ego.matrix() @ ego_from_sensor

    def _projection(self, channel: str, ego: Pose, lidar_from_global: F64) -> F64:
        """lidar2img [4, 4], as ``data.table`` makes it of an info."""
        lidar_from_camera = lidar_from_global @ self._global_from_sensor(channel, ego)
        intrinsic = np.eye(4)
        k = self.scene.sensors[channel].intrinsic
        assert k is not None  # a camera has one
        intrinsic[:3, :3] = k
        return intrinsic @ tf.inverse(lidar_from_camera)


def _ego_pose(xy: F64, yaw: float) -> Pose:
    return Pose([float(xy[0]), float(xy[1]), 0.0], yaw_quaternion(yaw))


def can_bus(car: Mover, start_us: int, at_us: int) -> F64:
    """The 18 numbers of a frame, from the pose messages round it; message and frame times are those of a data set."""
    t_s = at_us / 1e6
    times = np.arange(-MARGIN_S, t_s + 0.05, 1 / 50)[-6:]
    return can_bus_vector(pose_messages(car.at(times)), start_us + at_us)


def command_of(global_from_lidar: F64, later: F64) -> int:
    """The command of a car whose lidar [3, 3] will be at ``later`` [2], global, when the plan ends: 3 s ahead."""
    right = float((np.linalg.inv(global_from_lidar) @ [*later, 1.0])[0])
    return RIGHT if right >= COMMAND_THRESHOLD_M else LEFT if right <= -COMMAND_THRESHOLD_M else STRAIGHT


def later_on_route(s: F64, centre: F64, heading: F64, speed: F64, now_s: float, now_mps: float) -> F64:
    """Where the lidar will be 3 s ahead [2], driving a centreline [n] as fast as it allows, with nobody in the way."""
    way, v, dt = now_s, now_mps, 0.1
    for _ in range(round(PLAN_STEPS * FRAME_S / dt)):
        limit = float(np.interp(way + 0.5 * v, s, speed))
        v = max(min(v + 1.6 * (1 - (v / max(limit, 0.1)) ** 4) * dt, max(limit, v - 2.2 * dt)), 0.0)
        way += v * dt
    xy = np.array([np.interp(way, s, centre[:, 0]), np.interp(way, s, centre[:, 1])])
    yaw = float(np.interp(way, s, heading))
    return xy + LIDAR_AHEAD_M * np.array([np.cos(yaw), np.sin(yaw)])
