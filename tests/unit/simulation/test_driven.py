"""Scenes for learning to drive: the car is off its way, the ground truth leads back; lights are seen and obeyed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from uniad.data import unpickle
from uniad.data.infos import create_infos
from uniad.data.synthetic import WorldParams, generate
from uniad.data.synthetic.params import MANOEUVRES, scene_specs
from uniad.data.synthetic.scenery import build_scenery
from uniad.errors import UserError
from uniad.formats.layout import EXPERT
from uniad.simulation.driven import EVENTS, DrivenScene, Lesson, event_of, lesson
from uniad.simulation.log import CAR_FRONT_M, GREEN, LIDAR_AHEAD_M, RED
from uniad.simulation.routes import make_setup
from uniad.simulation.world import Cameras

PARAMS = WorldParams(train_scenes=12, val_scenes=0, frames=20, seed=43, driven=True)
SPECS = scene_specs(PARAMS)
RED_LIGHT, LEADER, WALKER, RED_LATER = 0, 1, 4, 5  # scenes, by what happens in them


@pytest.fixture(scope="module")
def lessons() -> dict[int, Lesson]:
    return {index: lesson(PARAMS, SPECS[index]) for index in (RED_LIGHT, LEADER, WALKER, RED_LATER)}


def on_route(found: Lesson) -> tuple[np.ndarray, np.ndarray]:
    """Of every recorded frame's plan the rear axle's arc length and distance to the side [F, 1 + P], beginning with now."""
    route, rows = found.setup.route, []
    for frame in range(found.first, len(found.wanted)):
        entry = found.log.frames[frame]
        state = found.car.states[entry.tick]
        there = found.wanted[frame] @ entry.global_from_lidar[:2, :2].T + entry.global_from_lidar[:2, 2]
        near = float(route.project(state.xy)[0])
        rows.append(np.stack([route.project(np.concatenate([[state.xy], there]), near, 50.0)], -1))
    way = np.array(rows)[:, :, :, 0]  # [F, 2, 1 + P]
    way[:, 0, 1:] -= LIDAR_AHEAD_M
    return way[:, 0], way[:, 1]


def test_every_event_happens_with_every_manoeuvre_in_every_town():
    specs = scene_specs(replace(PARAMS, train_scenes=84))
    met = {(event_of(spec), spec.manoeuvre, spec.location) for spec in specs}
    assert len(met) == len(set(EVENTS)) * len(MANOEUVRES) * 4


def test_a_car_that_starts_beside_its_way_is_led_back(lessons: dict[int, Lesson]):
    _, aside = on_route(lessons[LEADER])
    assert abs(aside[0, 0]) > 0.6  # the world of this seed
    assert (np.diff(np.abs(aside[0])) < 0.02).all() and abs(aside[0, -1]) < 0.15


def test_whatever_leads_the_car_astray_the_truth_leads_back(lessons: dict[int, Lesson]):
    s, aside = on_route(lessons[WALKER])
    astray = np.abs(aside[:, 0]) > 0.4
    assert astray[5:].any(), "nothing disturbs this scene"
    long = astray & (s[:, -1] - s[:, 0] > 12.0)
    assert (np.abs(aside[long, -1]) < 0.4 * np.abs(aside[long, 0])).all()


def test_the_plan_before_a_red_light_ends_at_its_line_and_the_car_goes_on_at_green(lessons: dict[int, Lesson]):
    for found in (lessons[RED_LIGHT], lessons[RED_LATER]):
        lines = found.setup.route.stop_lines
        own = min((k for k, line in enumerate(lines) if np.isfinite(line.route_s)), key=lambda k: lines[k].route_s)
        s, _ = on_route(found)
        speed = np.array([found.car.states[f.tick].speed for f in found.log.frames])[found.first :]
        state = np.array([found.log.signals[f.tick, own] for f in found.log.frames])[found.first :]
        before = s[:, 0] + CAR_FRONT_M < lines[own].route_s
        stops = before & (state != GREEN)
        assert stops.sum() >= 4 and (s[stops] + CAR_FRONT_M < lines[own].route_s + 0.3).all()
        assert (speed[stops] < 0.3).any(), "it never stands"
        went = before & (state == GREEN)
        assert (s[went, -1] - s[went, 0]).max() > 5.0, "no plan starts again"


def test_a_leader_that_brakes_is_not_run_into_and_nobody_is_hit(lessons: dict[int, Lesson]):
    for found in lessons.values():
        assert found.log.crash_tick is None and found.log.end == "time"
    speed = np.array([state.speed for state in lessons[LEADER].car.states])
    assert speed.max() > 6.0 and speed[-1] < 1.0


def test_three_heads_show_a_light_and_nothing_else_of_a_town_changes():
    setup = make_setup(100, 1)
    scene, route = setup.scene, setup.route
    plain, large = (build_scenery(100, scene.town, three) for three in (False, True))
    others = [[(p.pose, p.mesh.verts.tobytes()) for p in props if not p.signal] for props in (plain, large)]
    assert others[0] == others[1]
    assert [p.pose for p in plain if p.signal] == [p.pose for p in large if p.signal][::3]
    # Where braking begins, in a quarter of the size, as nano sees it
    line = min((line for line in route.stop_lines if np.isfinite(line.route_s)), key=lambda line: line.route_s)
    cameras, s = Cameras(scene), line.route_s - 25.0
    at = np.array([np.interp(s, route.s, route.centre[:, k]) for k in (0, 1)])
    view = scene.view_from("CAM_FRONT", at, float(np.interp(s, route.s, route.heading)))
    approach = setup.approaches[route.stop_lines.index(line)]
    images = [
        cv2.resize(scene.render_view(view, scene.stage_of([], cameras.props({approach: state})), False)[0], (400, 225),
                   interpolation=cv2.INTER_AREA).astype(int)
        for state in (RED, GREEN)
    ]  # fmt: skip
    assert (np.abs(images[0] - images[1]).max(-1) > 60).sum() >= 30


def test_a_driven_world_has_the_plans_in_its_infos_and_others_stay_as_they_were(tmp_path: Path):
    params = replace(PARAMS, train_scenes=1, frames=2, lidar_columns=90)
    root = tmp_path / "world"
    assert generate(params, root, make=DrivenScene) and not generate(params, root, make=DrivenScene)
    create_infos(root, tmp_path, workers=1, progress=False)
    info = unpickle.load(tmp_path / "nuscenes_infos_temporal_train.pkl")["infos"][1]
    scene = DrivenScene(params, scene_specs(params)[0])
    found, entry = scene.lesson, scene.lesson.log.frames[scene.lesson.first + 1]
    assert info["expert_command"] == entry.command
    plan = info["expert_plan"]
    lidar = plan[:, :2] + LIDAR_AHEAD_M * np.stack([np.cos(plan[:, 2]), np.sin(plan[:, 2])], -1)
    wanted = found.wanted[found.first + 1] @ entry.global_from_lidar[:2, :2].T + entry.global_from_lidar[:2, 2]
    assert np.allclose(lidar, wanted, atol=1e-6)
    assert np.allclose(info["ego2global_translation"][:2], found.car.states[entry.tick].xy)
    assert "driven" not in replace(params, driven=False).as_dict()
    (root / "v1.0-trainval" / EXPERT).write_text("{}")
    with pytest.raises(UserError, match="no plan and command"):
        create_infos(root, tmp_path, workers=1, progress=False)
