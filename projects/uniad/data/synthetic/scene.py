"""One scene: its town, light, people and vehicles, and what every sensor records at an instant."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from uniad.data.synthetic.dynamics import Actor, Signals, simulate
from uniad.data.synthetic.ground import Ground
from uniad.data.synthetic.lidar import Sweep, cast, count_in_boxes
from uniad.data.synthetic.look import make_look
from uniad.data.synthetic.mesh import Mesh
from uniad.data.synthetic.motion import Motion, motion_along
from uniad.data.synthetic.paint import Item, Painted, Stage, View, make_item, paint
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

if TYPE_CHECKING:
    from typing import TypeAlias

SCENERY_M = 130.0
ANNOTATE_M = 75.0  # from the ego car to an object's middle
STRIDE_M = 0.75  # a pedestrian's step


@lru_cache(maxsize=4)
def town_of(seed: int, location: str, three_heads: bool = False) -> tuple[Town, list[Prop]]:
    """A town and what stands in it. three_heads: see ``build_scenery``."""
    town = build_town(seed, location)
    return town, build_scenery(seed, town, three_heads)


class Course(NamedTuple):
    """Who is in a scene, and where the ego car comes by."""

    ego: Actor
    actors: list[Actor]  # actor k has id k + 1
    driven: np.ndarray  # [n, 2] what lies far from these points is not drawn


class Seen(NamedTuple):
    """An actor where it is to be drawn."""

    actor: Actor
    pose: tuple[float, float, float]  # x, y of the middle, yaw
    walked_m: float  # moves a pedestrian's legs


def recorded_course(params: WorldParams, spec: SceneSpec, town: Town) -> Course:
    """The course of a scene of a data set."""
    rng = rng_for(params.seed, spec.name, "traffic")
    duration_s = (params.frames - 1) * KEYFRAME_S
    ego = make_ego(town, spec.manoeuvre, duration_s, rng)
    reach = ego_reach(ego, duration_s)
    movers = make_traffic(town, ego, reach, 1, duration_s, rng)
    crowd = make_crowd(town, reach, 1 + len(movers), rng_for(params.seed, spec.name, "crowd"))
    actors: list[Actor] = [*movers, *crowd]
    # One scene in six waits at red signals like everybody else.
    priority = None if spec.index % 6 != 5 else frozenset[int]()
    simulate(town, actors, ego, duration_s + 1.0, Signals(town, rng.uniform(0, 40, len(town.junctions)), priority))
    return Course(ego, actors, ego.trajectory.at(np.arange(0.0, duration_s + 0.5, 0.5))[0])


class Scene:
    """A scene's whole course, from parameters alone: any process that builds it gets the same one.

    ``course``: another than that of the data set.
    """

    def __init__(self, params: WorldParams, spec: SceneSpec, course: Course | None = None) -> None:
        self.params, self.spec = params, spec
        self.town, props = town_of(params.seed, spec.location, params.driven)
        self.vehicle = "n008" if spec.location.startswith("boston") else "n015"
        self.sensors = build_sensors(params.seed, self.vehicle)
        self.duration_s = (params.frames - 1) * KEYFRAME_S
        self.ego, self.actors, self._driven = course or recorded_course(params, spec, self.town)
        near = [p for p in props if np.linalg.norm(self._driven - p.pose[:2], axis=1).min() < SCENERY_M]
        self.look = make_look(self._rng("look"))
        self.props = [make_item(prop.mesh, prop.pose, self.look) for prop in near]
        self.signals = {number: prop.signal for number, prop in enumerate(near) if prop.signal}  # by number of the prop
        self.shapes: dict[int, tuple[Mesh, ...]] = {actor.id: _shapes(actor) for actor in self.actors}
        self._background: tuple[Ground, np.ndarray] | None = None  # the ground, and the sky all round

    def _rng(self, *words: object) -> np.random.Generator:
        return rng_for(self.params.seed, self.spec.name, *words)

    def ego_pose(self, t_s: float) -> tuple[np.ndarray, float]:
        """Position of the rear axle on the ground [2] and heading."""
        xy, yaw, _, _ = self.ego.trajectory.at(t_s)
        return xy, float(yaw)

    def motion(self, t_s: np.ndarray) -> Motion:
        """The ego car's motion at times [n] since the first keyframe."""
        return motion_along(self.ego.trajectory, self.spec.start_us, t_s)

    def expert(self, index: int) -> dict | None:
        """What an expert would do at a keyframe, where that is not what the car does."""
        return None

    def stage(self, t_s: float, hide: frozenset[int] = frozenset()) -> Stage:
        """Everything that can be seen at a time. ``hide`` leaves out actors by id."""
        return self.stage_of(self.seen_at(t_s, hide))

    def seen_at(self, t_s: float, hide: frozenset[int] = frozenset()) -> list[Seen]:
        """The actors where they are at a time."""
        seen = []
        for actor in self.actors:
            if actor.id not in hide:
                walked = float(actor.trajectory.motion(t_s)[0]) if actor.mode == "walking" else 0.0
                seen.append(Seen(actor, actor.at(t_s)[:3], walked))
        return seen

    def stage_of(self, seen: Iterable[Seen], props: list[Item] | None = None) -> Stage:
        """Everything that can be seen, with the actors where they are told to be. ``props``: in place of the scene's own."""
        items = list(self.props if props is None else props)
        for actor, pose, walked in seen:
            if np.linalg.norm(self._driven - pose[:2], axis=1).min() > SCENERY_M:
                continue
            shapes = self.shapes[actor.id]
            phase = int(walked / STRIDE_M) % 2 if actor.mode == "walking" else 0
            items.append(make_item(shapes[phase % len(shapes)], pose, self.look, actor.id))
        return Stage(items)

    def camera_view(self, channel: str, t_s: float) -> View:
        """A camera's pose at a time."""
        return self.view_from(channel, *self.ego_pose(t_s))

    def view_from(self, channel: str, xy: np.ndarray, yaw: float) -> View:
        """A camera's pose where the ego car's rear axle is at xy [2] with a heading."""
        sensor = self.sensors[channel]
        if sensor.intrinsic is None:
            raise ValueError(f"{channel} is no camera")
        return View(sensor.intrinsic, inverse(global_from_ego(xy, yaw) @ sensor.ego_from_sensor))

    def render(self, channel: str, stage: Stage, t_s: float, measure: bool = True) -> tuple[np.ndarray, list[Painted]]:
        """The picture [900, 1600, 3] BGR that a camera takes at a time, and what it sees of each actor."""
        return self.render_view(self.camera_view(channel, t_s), stage, measure)

    def render_view(self, view: View, stage: Stage, measure: bool = True) -> tuple[np.ndarray, list[Painted]]:
        """The same from any camera pose."""
        if self._background is None:
            low, high = self._driven.min(axis=0) - 110.0, self._driven.max(axis=0) + 110.0
            ground = Ground(self.town, low, high, self.look, self._rng("ground"))
            self._background = ground, self.look.sky(self._rng("sky"))
        ground, sky = self._background
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

    def expert(self) -> dict | None:
        """What an expert would do from here on, where that is not what the car does; see ``formats.layout.EXPERT``."""
        return self.scene.expert(self.index)


def encode(image: np.ndarray, quality: int) -> bytes:
    """JPEG bytes with 4:2:0 colour."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    if hasattr(cv2, "IMWRITE_JPEG_SAMPLING_FACTOR"):  # before OpenCV 4.7 it is always 4:2:0
        options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    ok, data = cv2.imencode(".jpg", image, options)
    if not ok:
        raise RuntimeError("OpenCV could not encode a JPEG")
    return data.tobytes()


MakeScene: TypeAlias = "Callable[[WorldParams, SceneSpec], Scene]"  # a function of a module: worker processes get its name


@lru_cache(maxsize=2)
def build_scene(params: WorldParams, spec: SceneSpec, make: MakeScene = Scene) -> Scene:
    """A scene; the last two stay in memory, because a worker gets one scene's frames in pieces."""
    return make(params, spec)
