"""The simulated sensors are the data set's: along a recorded scene's own way they deliver what was recorded, to the bit."""

from __future__ import annotations

import numpy as np
import pytest

from uniad.config.spec import Spec
from uniad.data.synthetic.dynamics import Track
from uniad.data.synthetic.generate import stamp_of
from uniad.data.synthetic.motion import Motion, motion_along
from uniad.data.synthetic.params import WorldParams, scene_specs
from uniad.data.synthetic.scene import Scene, Seen
from uniad.deploy.sources import DatasetFrames
from uniad.geometry.nuscenes import IMAGE_HW
from uniad.simulation.log import AMBER, GREEN, LIDAR_AHEAD_M, RED
from uniad.simulation.world import MEAN_BGR, Cameras, command_of, later_on_route


class RecordedCar:
    """A car that drives a track to the letter: the data set's own, for comparing what its sensors deliver."""

    def __init__(self, track: Track, start_us: int) -> None:
        self.track, self.start_us = track, start_us

    def at(self, t_s: np.ndarray) -> Motion:
        return motion_along(self.track, self.start_us, np.asarray(t_s, np.float64))


@pytest.fixture(scope="module")
def scene(nano) -> Scene:
    stamp = stamp_of(nano.world)
    assert stamp is not None
    params = WorldParams(**{name: value for name, value in stamp.items() if name != "format"})
    return Scene(params, next(spec for spec in scene_specs(params) if spec.split == "val"))


@pytest.fixture(scope="module")
def car(scene: Scene) -> RecordedCar:
    return RecordedCar(scene.ego.trajectory, scene.spec.start_us)


def seen_at(scene: Scene, t_s: float) -> list[Seen]:
    walked = lambda a: float(a.trajectory.motion(t_s)[0]) if a.mode == "walking" else 0.0  # noqa: E731
    return [Seen(actor, actor.at(t_s)[:3], walked(actor)) for actor in scene.actors]


def lidar_at(cameras: Cameras, car: RecordedCar, t_s: float) -> np.ndarray:
    moment = car.at(np.array([t_s]))
    return cameras.global_from_lidar(moment.xy[0], float(moment.yaw[0]))


def test_along_a_recorded_way_the_sensors_deliver_what_was_recorded(spec: Spec, scene: Scene, car: RecordedCar):
    cameras = Cameras(scene, lamps=False)
    records = list(DatasetFrames(spec.data).scene("0"))
    for record in records:
        t_s, last = record.number * 0.5, (len(records) - 1) * 0.5
        now, later = (lidar_at(cameras, car, t) for t in (t_s, min(t_s + 3.0, last)))
        command = command_of(now, later[:2, 2])
        found = cameras.sensors(t_s, car, seen_at(scene, t_s), {}, command)
        wanted = record.sensors
        for name in wanted.images:
            assert np.array_equal(found.images[name], wanted.images[name]), (record.number, name)
            assert np.array_equal(found.lidar2img[name], wanted.lidar2img[name]), (record.number, name)
        assert np.array_equal(found.can_bus, wanted.can_bus)
        assert found.time_s == wanted.time_s and found.command == wanted.command
        for pose in ("ego2global", "lidar2ego"):
            assert np.array_equal(getattr(found, pose).matrix(), getattr(wanted, pose).matrix())


def test_only_the_lit_lamp_of_a_signal_tells_a_state_from_another(scene: Scene, car: RecordedCar):
    cameras = Cameras(scene)
    view = scene.view_from("CAM_FRONT", *scene.ego_pose(0.0))
    pictures = {}
    for state in (RED, AMBER, GREEN):
        lights = {approach: state for approach in scene.signals.values()}
        pictures[state] = scene.render_view(view, scene.stage_of([], cameras.props(lights)), measure=False)[0]
    for state in (AMBER, GREEN):
        differs = (pictures[state] != pictures[RED]).any(-1).sum()
        assert 0 < differs < 2000


def test_blank_images_are_of_the_right_size_and_all_else_is_as_ever(scene: Scene, car: RecordedCar):
    cameras = Cameras(scene)
    full, blank = (cameras.sensors(0.5, car, seen_at(scene, 0.5), {}, 2, kind) for kind in ("rendered", "blank"))
    for name, image in blank.images.items():
        assert image.shape == (*IMAGE_HW, 3) and (image == MEAN_BGR).all()
        assert np.array_equal(blank.lidar2img[name], full.lidar2img[name])
    assert np.array_equal(blank.can_bus, full.can_bus) and blank.command == full.command


@pytest.mark.parametrize("bend, command", [(0.0, 2), (0.08, 1), (-0.08, 0)])
def test_the_command_is_where_the_route_leads_within_three_seconds(bend: float, command: int):
    s = np.arange(0.0, 60.0, 0.5)
    yaw = bend * s
    centre = np.cumsum(np.stack([np.cos(yaw), np.sin(yaw)], -1) * 0.5, axis=0)
    later = later_on_route(s, centre, yaw, np.full(len(s), 8.0), 0.0, 6.0)
    # x right, y ahead; the lidar at the start
    global_from_lidar = np.array([[0.0, 1.0, centre[0, 0] + LIDAR_AHEAD_M], [-1.0, 0.0, centre[0, 1]], [0.0, 0.0, 1.0]])
    assert command_of(global_from_lidar, later) == command
