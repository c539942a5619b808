"""One scene: its town, light, people and vehicles, and what every sensor records at an instant."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np

from uniad.data.synthetic.dynamics import Actor, simulate
from uniad.data.synthetic.ground import Ground
from uniad.data.synthetic.lidar import Sweep, cast, count_in_boxes
from uniad.data.synthetic.look import make_look
from uniad.data.synthetic.mesh import Mesh
from uniad.data.synthetic.paint import Painted, Stage, View, make_item, paint
from uniad.data.synthetic.params import KEYFRAME_S, SceneSpec, WorldParams, rng_for
from uniad.data.synthetic.population import make_crowd
from uniad.data.synthetic.roads import Town, build_town
from uniad.data.synthetic.scenery import Prop, build_scenery
from uniad.data.synthetic.sensors import (
    CAMERA_DELAY_US,
    HEIGHT,
    LIDAR,
    WIDTH,
    build_sensors,
    global_from_ego,
    inverse,
)  # fmt: skip
from uniad.data.synthetic.shapes import build_shape
from uniad.data.synthetic.traffic import ego_reach, make_ego, make_traffic

SCENERY_M = 130.0
ANNOTATE_M = 75.0  # from the ego car to an object's middle
STRIDE_M = 0.75  # a pedestrian's step


@lru_cache(maxsize=4)
def _town(seed: int, location: str) -> tuple[Town, list[Prop]]:
    town = build_town(seed, location)
    return town, build_scenery(seed, town)


class Scene:
    """A scene's whole course, from parameters alone: any process that builds it gets the same one."""

    def __init__(self, params: WorldParams, spec: SceneSpec) -> None:
        self.params, self.spec = params, spec
        self.town, props = _town(params.seed, spec.location)
        self.vehicle = "n008" if spec.location.startswith("boston") else "n015"
        self.sensors = build_sensors(params.seed, self.vehicle)
        rng = self._rng("traffic")
        self.duration_s = (params.frames - 1) * KEYFRAME_S
        self.ego = make_ego(self.town, spec.manoeuvre, self.duration_s, rng)
        reach = ego_reach(self.ego, self.duration_s)
        movers = make_traffic(self.town, self.ego, reach, 1, self.duration_s, rng)
        crowd = make_crowd(self.town, reach, 1 + len(movers), self._rng("crowd"))
        self.actors: list[Actor] = [*movers, *crowd]  # actor k has id k + 1
        # One scene in six waits at red signals like everybody else.
        priority = spec.index % 6 != 5
        phase = rng.uniform(0, 40, len(self.town.junctions))
        simulate(self.town, self.actors, self.ego, self.duration_s + 1.0, priority, phase)
        driven = self.ego.trajectory.at(np.arange(0.0, self.duration_s + 0.5, 0.5))[0]
        near = [p for p in props if np.linalg.norm(driven - p.pose[:2], axis=1).min() < SCENERY_M]
        self.look = make_look(self._rng("look"))
        self.props = [make_item(prop.mesh, prop.pose, self.look) for prop in near]
        self.shapes: list[tuple[Mesh, ...]] = [_shapes(actor) for actor in self.actors]
        self._driven = driven
        self._background: tuple[Ground, np.ndarray] | None = None  # the ground, and the sky all round

    def _rng(self, *words: object) -> np.random.Generator:
        return rng_for(self.params.seed, self.spec.name, *words)

    def ego_pose(self, t_s: float) -> tuple[np.ndarray, float]:
        """Position of the rear axle on the ground [2] and heading."""
        xy, yaw, _, _ = self.ego.trajectory.at(t_s)
        return xy, float(yaw)

    def stage(self, t_s: float, hide: frozenset[int] = frozenset()) -> Stage:
        """Everything that can be seen at a time. ``hide`` leaves out actors by id."""
        items = list(self.props)
        for actor, shapes in zip(self.actors, self.shapes):
            if actor.id in hide:
                continue
            x, y, yaw, _ = actor.at(t_s)
            if np.linalg.norm(self._driven - [x, y], axis=1).min() > SCENERY_M:
                continue
            phase = 0
            if actor.mode == "walking":
                phase = int(actor.trajectory.motion(t_s)[0] / STRIDE_M) % 2
            items.append(make_item(shapes[phase % len(shapes)], (x, y, yaw), self.look, actor.id))
        return Stage(items)

    def camera_view(self, channel: str, t_s: float) -> View:
        """A camera's pose at a time."""
        sensor = self.sensors[channel]
        if sensor.intrinsic is None:
            raise ValueError(f"{channel} is no camera")
        global_from_cam = global_from_ego(*self.ego_pose(t_s)) @ sensor.ego_from_sensor
        return View(sensor.intrinsic, inverse(global_from_cam))

    def render(self, channel: str, stage: Stage, t_s: float, measure: bool = True) -> tuple[np.ndarray, list[Painted]]:
        """The picture [900, 1600, 3] BGR that a camera takes at a time, and what it sees of each actor."""
        if self._background is None:
            low, high = self._driven.min(axis=0) - 110.0, self._driven.max(axis=0) + 110.0
            ground = Ground(self.town, low, high, self.look, self._rng("ground"))
            self._background = ground, self.look.sky(self._rng("sky"))
        ground, sky = self._background
        view = self.camera_view(channel, t_s)
        image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        heading = np.arctan2(view.cam_from_global[2, 1], view.cam_from_global[2, 0])
        start = int((-heading / (2 * np.pi)) % 1.0 * WIDTH)
        rows = sky.shape[0]
        image[:rows] = sky[:, start : start + WIDTH]
        ground.paint(image, view.k, view.cam_from_global)
        return image, paint(image, stage, view, self.look, measure)

    def lidar_sweep(self, stage: Stage, t_s: float, *words: object) -> Sweep:
        """One lidar turn at a time; ``words`` name it for its noise."""
        pose = global_from_ego(*self.ego_pose(t_s)) @ self.sensors[LIDAR].ego_from_sensor
        return cast(stage, pose, self.params.lidar_columns, self._rng("lidar", *words))

    def keyframe(self, index: int) -> Keyframe:
        return Keyframe(self, index)


def _shapes(actor: Actor) -> tuple[Mesh, ...]:
    strides = (1.0, -1.0) if actor.mode == "walking" else (1.0,)
    return tuple(
        build_shape(actor.kind, actor.size, actor.look, rider=actor.rider and actor.mode == "driving", stride=stride)
        for stride in strides
    )


class Keyframe:
    """All that the sensors record at a keyframe. The world stands still while the six cameras fire within 43 ms; the
    ego car's pose is that of each camera's own instant. So boxes and pixels agree exactly, for movers too."""

    def __init__(self, scene: Scene, index: int) -> None:
        self.scene, self.index = scene, index
        self.t_s = index * KEYFRAME_S
        self.stage = scene.stage(self.t_s)
        self.alone = np.zeros(len(scene.actors) + 1, int)
        self.seen = np.zeros(len(scene.actors) + 1, int)

    def image(self, channel: str) -> np.ndarray:
        """The picture of one camera; adds what it saw to the keyframe's tally."""
        image, painted = self.scene.render(channel, self.stage, self.t_s + CAMERA_DELAY_US[channel] / 1e6)
        for label, alone, seen in painted:
            self.alone[label] += alone
            self.seen[label] += seen
        return image

    def jpeg(self, channel: str) -> bytes:
        return encode(self.image(channel), self.scene.params.jpeg_quality)

    def lidar(self) -> Sweep:
        return self.scene.lidar_sweep(self.stage, self.t_s, self.index)

    def observations(self, sweep: Sweep) -> list[dict]:
        """Every actor in range: its box, what lidar and cameras got of it. Call after all six images."""
        scene = self.scene
        ego_xy, ego_yaw = scene.ego_pose(self.t_s)
        pose = global_from_ego(ego_xy, ego_yaw) @ scene.sensors[LIDAR].ego_from_sensor
        points = sweep.points[:, :3].astype(float) @ pose[:3, :3].T + pose[:3, 3]
        found, boxes = [], []
        for actor in scene.actors:
            x, y, yaw, speed = actor.at(self.t_s)
            if np.hypot(x - ego_xy[0], y - ego_xy[1]) > ANNOTATE_M:
                continue
            boxes.append((np.array([x, y, actor.size[2] / 2]), yaw, actor.size))
            found.append({"id": actor.id, "x": x, "y": y, "yaw": yaw, "speed": speed,
                          "alone": int(self.alone[actor.id]), "seen": int(self.seen[actor.id])})  # fmt: skip
        for row, count in zip(found, count_in_boxes(points, boxes)):
            row["lidar"] = int(count)
        return found


def encode(image: np.ndarray, quality: int) -> bytes:
    """JPEG bytes with 4:2:0 colour."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if hasattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR"):  # before OpenCV 4.7 it is always 4:2:0
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    ok, data = cv2.imencode(".jpg", image, options)
    if not ok:
        raise RuntimeError("OpenCV could not encode a JPEG")
    return data.tobytes()


@lru_cache(maxsize=2)
def build_scene(params: WorldParams, spec: SceneSpec) -> Scene:
    """A scene; the last two stay in memory, because a worker gets one scene's frames in pieces."""
    return Scene(params, spec)
