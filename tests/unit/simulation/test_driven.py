"""Scenes for learning to drive: the car is off its way, the ground truth leads back; lights are seen and obeyed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

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
from uniad.simulation import driven
from uniad.simulation.driven import (
    EVENTS,
    HAND_OVER_FRAMES,
    Disturbance,
    Disturbed,
    DrivenScene,
    Learning,
    Lesson,
    event_of,
    lesson,
)
from uniad.simulation.log import CAR_FRONT_M, GREEN, LIDAR_AHEAD_M, PLAN_STEPS, RED, Planned
from uniad.simulation.policies import Expert
from uniad.simulation.routes import make_setup, setup_of
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
    train, val = (scene_specs(replace(PARAMS, train_scenes=7, val_scenes=7))[part] for part in (slice(7), slice(7, None)))
    assert all(event_of(a) != event_of(b) or EVENTS.count(event_of(a)) > 1 for a, b in zip(train, val)), "learnt by heart"


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


def test_a_scene_that_begins_later_shows_the_drive_from_there_on(lessons: dict[int, Lesson], monkeypatch: pytest.MonkeyPatch):
    found = lessons[RED_LATER]
    assert found.first > 0  # the world of this seed
    monkeypatch.setattr(driven, "lesson", lambda *args: found)
    scene, log = DrivenScene(PARAMS, SPECS[RED_LATER]), found.log
    lights: list[dict] = []
    monkeypatch.setattr(scene._cameras, "props", lambda given: lights.append(given) or [])
    actors = {actor.id: actor for actor in scene.actors}
    for k in (0, 3, PARAMS.frames - 1):
        entry, t = log.frames[found.first + k], 0.5 * k
        state = found.car.states[entry.tick]
        assert np.allclose(scene.ego_pose(t)[0], state.xy) and np.allclose(scene.motion(np.array([t])).xy[0], state.xy)
        scene.stage(t)
        assert lights[-1] == dict(zip(found.setup.approaches, log.signals[entry.tick].tolist()))
        for at, name in enumerate(log.actors.ids):
            assert np.allclose(actors[name].at(t)[:2], log.actors.pose[entry.tick, at, :2], atol=0.02), (k, name)
        plan = found.wanted[found.first + k] @ entry.global_from_lidar[:2, :2].T + entry.global_from_lidar[:2, 2]
        told = scene.expert(k)
        axle = np.array(told["plan"])
        assert np.allclose(axle[:, :2] + LIDAR_AHEAD_M * np.stack([np.cos(axle[:, 2]), np.sin(axle[:, 2])], -1), plan)
        assert told["command"] == entry.command


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


def test_a_disturbance_lasts_until_its_last_frame_and_leads_to_its_side():
    policy = Disturbed((Disturbance(2, 4, 1.0, 1.0),))
    straight_on = np.stack([np.zeros(PLAN_STEPS), 4.0 * np.arange(1, PLAN_STEPS + 1)], -1)
    policy.expert = SimpleNamespace(step=lambda *args: Planned(straight_on))
    plans = [policy.step(None, None).plan for _ in range(6)]
    assert [plan is straight_on for plan in plans] == [True, True, False, False, True, True]
    assert np.allclose(plans[2], straight_on - [1.0, 0.0] * np.minimum(straight_on[:, 1:] / 8.0, 1.0)), "left, within 8 m"
    assert all(wanted is straight_on for wanted in policy.wanted), "what is taught is the expert's"
    stands = 0.05 * straight_on
    assert driven._led_astray(stands, policy.disturbances[0]) is stands


def test_disturbances_fade_from_attempt_to_attempt_until_there_is_none(monkeypatch: pytest.MonkeyPatch):
    strengths: list[float] = []
    monkeypatch.setattr(driven, "_disturbances", lambda frames, rng, rare, strength: strengths.append(strength) or ())
    monkeypatch.setattr(driven, "drive", lambda *args, **more: SimpleNamespace(end="crash"))
    with pytest.raises(RuntimeError, match="no drive without a crash"):
        lesson(PARAMS, SPECS[WALKER])
    assert strengths[0] == 1.0 and strengths[-1] == 0.0 and (np.diff(strengths) < 0).all()


def relieved(frames: list[tuple[float, float, float]]) -> list[bool]:
    """Whether the expert has the wheel, by how far aside (m), how fast (m/s) and how far the expert would go (m)."""
    policy = Learning(SimpleNamespace(reset=lambda route: None))
    policy.expert = SimpleNamespace(reset=lambda route: None)
    policy.reset(SimpleNamespace(project=lambda xy, near: (0.0, xy)))
    wanted = np.stack([np.zeros(PLAN_STEPS), np.arange(1, PLAN_STEPS + 1) / PLAN_STEPS], -1)
    return [policy._relieved(SimpleNamespace(xy=aside, route_s=0.0, speed=speed), way * wanted) for aside, speed, way in frames]


def test_a_learner_that_is_lost_is_helped_until_it_is_back_on_its_way():
    assert relieved([(1.9, 5.0, 9.0), (-2.1, 5.0, 9.0), (-1.0, 5.0, 9.0), (-0.3, 5.0, 9.0), (-1.0, 5.0, 9.0)]) == [
        False, True, True, False, False,
    ]  # fmt: skip


def test_a_learner_that_stands_is_helped_where_the_expert_would_go_alone():
    assert not any(relieved([(0.0, 0.0, 1.0)] * 12)), "at a red light"
    assert relieved([(0.0, 0.0, 9.0)] * Learning.STOOD_FRAMES)[-2:] == [False, True]


class Wheel:
    """A model that plans as it is told, and counts the images that it was given."""

    def __init__(self, plan) -> None:
        self.plan, self.seen = plan, 0

    def reset(self, route) -> None:
        self.expert = Expert()
        self.expert.reset(route)

    def step(self, observation, privileged) -> Planned:
        assert observation.sensors is not None, "asked without images"
        self.seen += 1
        return Planned(self.plan(self.expert, privileged))


def straight(speed_mps: float, right_m: float = 0.0):
    """A plan straight ahead, a little to the right of it."""
    ahead = 0.5 * speed_mps * np.arange(1, PLAN_STEPS + 1)
    return lambda expert, now: np.stack([right_m * ahead / ahead.max() if speed_mps else 0 * ahead, ahead], -1)


def along(speed_mps: float):
    """A plan along the route, whoever is in the way."""
    return lambda expert, now: expert._on_route(now, now.route_s + 0.5 * speed_mps * np.arange(1, PLAN_STEPS + 1))


@pytest.fixture
def no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cameras, "sensors", lambda *args: "images")


def taught(monkeypatch: pytest.MonkeyPatch, scene: int, wheel: Wheel) -> tuple[Lesson, list[Learning]]:
    """A lesson of that learner, and who had the wheel in its attempts."""
    attempts: list[Learning] = []
    begin = Learning.__init__
    monkeypatch.setattr(Learning, "__init__", lambda self, model: (begin(self, model), attempts.append(self))[0])
    return lesson(PARAMS, SPECS[scene], lambda: wheel), attempts


def test_a_learner_that_drifts_off_is_led_back_and_every_frame_has_the_truth(monkeypatch, no_images):
    found, (policy,) = taught(monkeypatch, WALKER, Wheel(straight(5.0, right_m=3.0)))
    aside = np.array([float(found.setup.route.project(found.car.states[f.tick].xy)[1]) for f in found.log.frames])
    assert aside.min() < -Learning.LOST_M and (aside > -4.0).all(), "it goes astray, and not for good"
    assert aside[np.argmin(aside) :].max() > -Learning.BACK_M
    assert len(policy.wanted) == len(found.log.frames) and found.log.end == "time"
    s, off = on_route(found)
    far = (off[:, 0] < -1.0) & (s[:, -1] - s[:, 0] > 12.0)
    assert far.any() and (np.abs(off[far, -1]) < 0.4 * np.abs(off[far, 0])).all()


def test_before_a_learner_crashes_the_expert_takes_over_and_nothing_is_rendered_twice(monkeypatch, no_images):
    wheel = Wheel(along(9.0))  # does not brake for the leader
    logs, drive = [], driven.drive
    monkeypatch.setattr(driven, "drive", lambda *args, **more: (logs.append(drive(*args, **more)), logs[-1])[1])
    found, (policy,) = taught(monkeypatch, LEADER, wheel)
    assert found.log.end == "time" and found.log.crash_tick is None
    until = int(policy.until)
    assert HAND_OVER_FRAMES <= until < len(found.log.frames) - HAND_OVER_FRAMES
    ticks = slice(found.log.frames[until].tick)
    assert len(logs) > 1 and found.log is logs[-1]
    assert np.array_equal(logs[0].actors.pose[ticks], found.log.actors.pose[ticks]), "others have driven before"
    assert until < wheel.seen == len(policy.made) < len(found.log.frames) + HAND_OVER_FRAMES
    own = [np.array_equal(f.plan, plan) for f, plan in zip(found.log.frames, policy.made)][:until]
    assert sum(own) > until / 2, "the learner has the wheel until then"
    assert all(np.array_equal(f.plan, w) for f, w in zip(found.log.frames[until:], policy.wanted[until:]))


def test_a_learner_that_stands_for_no_reason_is_set_going_again(monkeypatch, no_images):
    found, (policy,) = taught(monkeypatch, WALKER, Wheel(straight(0.0)))
    speed = np.array([found.car.states[f.tick].speed for f in found.log.frames])
    stands = np.flatnonzero(speed < Learning.STANDS_MPS)
    assert len(stands) >= Learning.STOOD_FRAMES and speed[stands[0] :].max() > 1.0
    wanted = [np.linalg.norm(policy.wanted[k][-1]) for k in stands]
    assert max(wanted) > Learning.GOES_M, "nothing teaches it to start"


def test_some_scenes_begin_at_rest_and_in_some_the_car_halts_for_nobody():
    rng = np.random.default_rng(0)
    lead = setup_of(PARAMS, SPECS[2], None, "lesson", 0).traffic("reactive").lead()
    starts = [driven._beside(lead, rng, rng, 1.0).v[-1] for _ in range(60)]
    assert 3 <= sum(v == 0 for v in starts) <= 18 and max(starts) > 3.0
    halts = [d for _ in range(40) for d in driven._disturbances(40, rng, rng, 1.0) if d.pace == 0]
    assert halts and all(d.aside_m == 0 for d in halts)
    assert not any(d.pace == 0 for _ in range(40) for d in driven._disturbances(40, rng, rng, 0.5))


def test_a_world_names_its_learner_and_other_worlds_keep_their_stamp():
    assert PARAMS.as_dict()["driven"] == 2 and "learner" not in PARAMS.as_dict()
    assert replace(PARAMS, learner="abc").as_dict()["learner"] == "abc"
    with pytest.raises(ValueError, match="learner"):
        DrivenScene(replace(PARAMS, learner="abc"), SPECS[0])
