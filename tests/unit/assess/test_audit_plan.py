"""What a plan rests on: planted cheaters are named, an honest planner is not accused, and the numbers are worked by hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import shapely

from helpers.specs import edit
from helpers.stand_ins import Planner, Ready, StandIn, blank_result
from uniad.assess import ego_alone
from uniad.assess.audit import (
    AS_IS,
    CONDITIONS,
    EGO_ALONE,
    NO_EGO,
    NO_IMAGES,
    OTHER_COMMAND,
    OTHER_IMAGES,
    OtherScene,
    deliver_for,
    other_command,
)
from uniad.assess.audit_report import PICTURE, run
from uniad.assess.frames import Recorded
from uniad.assess.plans import ALL, PlanScores, crosses_curb, manoeuvre_of, score_plans, truths, without_a_model
from uniad.config.spec import BENCH2DRIVE_WORDS, Spec
from uniad.data.transforms import decode_all
from uniad.deploy.sensors import Sensors
from uniad.deploy.sources import FrameRecord
from uniad.errors import UserError
from uniad.evaluation.planning import constant_velocity_plan
from uniad.formats.report import Report, read_report

RIGHT, LEFT, STRAIGHT = 0, 1, 2


@pytest.fixture(scope="module")
def recorded(spec: Spec) -> Recorded:
    return Recorded(spec)


@pytest.fixture(scope="module")
def records(recorded: Recorded) -> list[FrameRecord]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uniad.deploy.sources.decode_all", decoded_once)
        return list(recorded.scenes[0])


@pytest.fixture(scope="module")
def truth(recorded: Recorded) -> list:
    return list(truths(recorded))


def test_a_model_of_other_commands_is_refused_before_anything_is_read(spec: Spec) -> None:
    other = edit(spec, data__vocabulary=BENCH2DRIVE_WORDS, data__data_root="no/such/folder/")
    with pytest.raises(UserError, match="nuScenes' maps and commands"):
        Recorded(other)


def mark(sensors: Sensors) -> bytes:
    """What an image shows, for planners that look at it."""
    return sensors.images["CAM_FRONT"][::50, ::50].tobytes()


def bend(command: int) -> np.ndarray:
    """By how much a path is bent to the side of a command, [6, 2] metres."""
    side = {RIGHT: 1.0, LEFT: -1.0, STRAIGHT: 0.0}[command]
    return np.stack([side * 0.2 * np.arange(1, 7) ** 1.5, np.zeros(6)], axis=1)


def speed_of(sensors: Sensors) -> float:
    return float(np.asarray(sensors.can_bus)[13])


@pytest.fixture(scope="module")
def planners(recorded: Recorded, records: list[FrameRecord], truth: list) -> dict[str, Planner]:
    """Honest: knows where the driver goes by what it sees, and bends with the command. The others cheat."""
    seen = {mark(record.sensors): (np.where(t.known[:, None], t.path, t.path[t.known][-1]), record.sensors.command)
            for record, t in zip(records, truth)}  # fmt: skip

    def look(sensors: Sensors) -> np.ndarray | None:
        return seen[mark(sensors)][0] if mark(sensors) in seen else None

    def honest(sensors: Sensors) -> np.ndarray:
        found = look(sensors)
        if found is None:
            return np.zeros((6, 2)) + bend(sensors.command)
        return found + bend(sensors.command) - bend(seen[mark(sensors)][1])

    def ego_status_alone(sensors: Sensors) -> np.ndarray:
        return constant_velocity_plan([0.0, speed_of(sensors)]) + bend(sensors.command)

    def deaf(sensors: Sensors) -> np.ndarray:
        found = look(sensors)
        return np.zeros((6, 2)) if found is None else found

    def glance(sensors: Sensors) -> np.ndarray:
        """Moves a little with what it sees, and is no worse for it."""
        return ego_status_alone(sensors) + (0.0 if look(sensors) is None else [[0.3 * (-1) ** n, 0.0] for n in range(6)])

    return {"honest": honest, "ego status alone": ego_status_alone, "deaf": deaf, "glance": glance}


@cache
def _decoded(paths: tuple[str, ...]) -> list[np.ndarray]:
    return decode_all(list(paths))


def decoded_once(paths: list[str], threads: int) -> list[np.ndarray]:
    return _decoded(tuple(paths))


@pytest.fixture(scope="module")
def audits(
    recorded: Recorded, planners: dict[str, Planner], spec: Spec, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, tuple[Report, Path]]]:
    blank = blank_result(recorded)
    out = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("uniad.assess.audit_report.find_model", lambda *_: SimpleNamespace(spec=spec, path=Path("toy.onnx")))
        patch.setattr(ego_alone, "STEPS", 200)
        patch.setattr("uniad.deploy.sources.decode_all", decoded_once)
        for number, (name, planner) in enumerate(planners.items()):
            folder = tmp_path_factory.mktemp("audit")
            if name != "honest":  # one page is enough
                patch.setattr("uniad.assess.audit_page.draw", lambda *_: None)
            out[name] = run(Ready(StandIn(spec, planner, blank)), folder, jobs=1 + number % 2), folder
        yield out


def verdict(report: Report, about: str) -> tuple[str, str]:
    found = next(v for v in report.details["verdicts"] if v["about"] == about)
    return found["state"], found["text"]


def test_a_planner_that_uses_ego_status_alone_is_named(audits: dict) -> None:
    report, _ = audits["ego status alone"]
    assert report.passed is False
    state, text = verdict(report, "images")
    assert state == "bad" and text.startswith("IGNORES THE IMAGES")
    assert verdict(report, "ego status")[1].startswith("Rests on ego status more than on the images")
    assert verdict(report, "command")[0] == "good"


def test_a_planner_that_ignores_the_command_is_named(audits: dict) -> None:
    report, _ = audits["deaf"]
    assert report.passed is False
    state, text = verdict(report, "command")
    assert state == "bad" and text.startswith("IGNORES THE COMMAND")
    assert verdict(report, "images")[0] == "good"


def test_a_planner_that_only_glances_at_the_images_is_named(audits: dict) -> None:
    state, text = verdict(audits["glance"][0], "images")
    assert state == "bad" and text.startswith("HARDLY RESTS ON THE IMAGES")


def test_an_honest_planner_is_not_accused(audits: dict) -> None:
    report, _ = audits["honest"]
    assert report.passed is True, report.findings
    assert verdict(report, "images")[0] == "good" and verdict(report, "command")[0] == "good"
    assert verdict(report, "ego status")[1].startswith("Does not need ego status")
    assert verdict(report, "baselines")[1].startswith("Better than ego status alone")
    assert report.details["scores"][AS_IS][ALL]["L2_avg"] < 0.01


def test_the_page_the_record_and_the_picture_are_there(audits: dict) -> None:
    report, folder = audits["honest"]
    assert sorted(p.name for p in folder.iterdir()) == [PICTURE, "report.json", "report.md"]
    assert (folder / PICTURE).read_bytes()[:4] == b"\x89PNG"
    read = read_report(folder)
    assert read.kind == "audit" and read.findings == list(report.findings)
    assert [row[0] for row in read.tables[0].rows] == [*CONDITIONS, EGO_ALONE, "constant velocity", "standing still"]
    page = (folder / "report.md").read_text()
    assert "## Error by manoeuvre" in page and "## Error by speed" in page and "curb crossings (%)" in page


def test_conditions_take_away_just_what_they_say(recorded: Recorded, records: list[FrameRecord]) -> None:
    scene = recorded.scenes[0]
    source = OtherScene(recorded, scene)

    def delivered(condition: str) -> list[Sensors]:
        deliver = deliver_for(condition, scene, lambda _: source)
        return [deliver(record.sensors) for record in records]

    given = [record.sensors for record in records]
    assert all(a is b for a, b in zip(delivered(AS_IS), given))
    dark = delivered(NO_IMAGES)
    assert not any(image.any() for image in dark[1].images.values()) and dark[1].ego2global is given[1].ego2global
    assert all(np.array_equal(a.images["CAM_BACK"], b.images["CAM_BACK"]) for a, b in zip(delivered(OTHER_IMAGES), given))
    still = delivered(NO_EGO)
    assert not any(np.asarray(s.can_bus).any() for s in still) and all(s.ego2global is given[0].ego2global for s in still)
    assert still[2].images is given[2].images and still[2].time_s == given[2].time_s
    assert all(a.command != b.command for a, b in zip(delivered(OTHER_COMMAND), given))
    assert [other_command(c, n) for c, n in ((LEFT, 0), (RIGHT, 5), (STRAIGHT, 0), (STRAIGHT, 1))] == [RIGHT, LEFT, LEFT, RIGHT]


def test_a_footprint_over_the_edge_is_a_curb_crossing() -> None:
    road = shapely.box(-3.0, -10.0, 3.0, 40.0)  # 6 m wide; the car is 1.85 m wide and 4.08 m long
    ahead = 2.0 * np.arange(1, 7)
    straight = np.stack([np.zeros(6), ahead], axis=1)
    assert not crosses_curb(straight, road).any()
    assert not crosses_curb(straight + [2.0, 0.0], road)[1:].any()  # its side is at 2.9 m
    assert crosses_curb(straight + [2.2, 0.0], road)[1:].all()
    drifting = np.stack([0.2 * np.arange(1, 7) ** 1.5, ahead], axis=1)
    assert list(crosses_curb(drifting, road)) == [False] * 3 + [True] * 3  # its side at 2.52, and turned at 3.2


@pytest.mark.parametrize("step, share", [(1, 0), (2, 100), (3, 0), (4, 100), (5, 0), (6, 100)])
def test_curb_crossings_are_those_at_1_2_and_3_seconds(recorded: Recorded, truth: list, step: int, share: float) -> None:
    """Half a second a step, the first of them half a second from now."""
    path = np.stack([np.zeros(6), 2.0 * np.arange(1, 7)], axis=1)
    frame = replace(truth[0], path=path, known=np.ones(6, bool), road=shapely.box(-3.0, -10.0, 3.0, 40.0))
    plan = path + [[3.0 * (n == step), 0.0] for n in range(1, 7)]
    # The footprint keeps the heading of the way there, also on the step back: only this one is over the edge.
    assert crosses_curb(plan, frame.road)[step - 1]
    scores = PlanScores.empty(recorded)
    scores.add(plan, frame)
    assert scores.numbers()["curbs"] == pytest.approx(share / 3)


@pytest.mark.parametrize("path, speed, command, told", [
    ([(0, 2.5 * n) for n in range(1, 7)], 5.0, STRAIGHT, "straight"),
    ([(0, y) for y in (2.5, 4.5, 6.0, 7.0, 7.5, 7.5)], 5.0, STRAIGHT, "braking"),
    ([(0, y) for y in (2.5, 4.5, 6.0, 7.0, 7.5, 7.5)], 5.0, LEFT, "left"),
    ([(0, 0.05 * n) for n in range(1, 7)], 0.1, STRAIGHT, "standing"),
    ([(0, 0.05)], 0.1, RIGHT, "standing"),
    ([(0, 2.5)], 5.0, RIGHT, "right"),
])  # fmt: skip
def test_manoeuvres_are_told_apart(path: list, speed: float, command: int, told: str) -> None:
    assert manoeuvre_of(np.array(path, float), speed, command) == told


def test_both_definitions_of_the_error_by_hand(recorded: Recorded, truth: list) -> None:
    known = np.array([t.known for t in truth])
    plans = {t.key: t.path + [0.0, 1.0] for t in truth}  # one metre off at every step
    found = score_plans(recorded, truth, plans)
    share = known.mean(0)  # of the frames that have ground truth at each step
    for t, step in ((1, 1), (2, 3)):
        assert found[ALL][f"L2_{t}s"] == pytest.approx(share[step])  # what is unknown counts as no error
        assert found[ALL][f"L2_avg_{t}s"] == pytest.approx(1.0)
    assert found[ALL]["frames"] == len(truth) == sum(s["frames"] for n, s in found.items() if n.endswith("m/s"))
    exact = score_plans(recorded, truth, {t.key: t.path for t in truth})
    assert exact[ALL]["L2_avg"] == exact[ALL]["curbs"] == exact[ALL]["collisions"] == 0.0
    assert set(without_a_model(truth)) == {"constant velocity", "standing still"}


def test_ego_status_alone_learns_in_seconds_and_the_same_each_time(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ego_alone, "STEPS", 300)
    status = ego_alone.ego_status(recorded.table, recorded.labeller, 3)
    assert status.shape == (19,) and status[-3:].sum() == 1 and status[-4] == 1
    forward = float(np.asarray(recorded.table.can_bus[3])[13])
    assert status[1] == pytest.approx(forward, abs=0.5)  # the way it came from, per second, is its speed
    one, two = (ego_alone.train(recorded.table, recorded.labeller, seed=1) for _ in range(2))
    assert np.array_equal(one.plan(status), two.plan(status))
    future = recorded.labeller.ego_future(0).planning[0, :4, :2]
    assert np.abs(one.plan(ego_alone.ego_status(recorded.table, recorded.labeller, 0))[:4] - future).max() < 1.0


def test_a_model_without_a_plan_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: Spec) -> None:
    from helpers.specs import edit

    first = SimpleNamespace(spec=edit(spec, model__stage2=None), path=Path("toy.pth"))
    monkeypatch.setattr("uniad.assess.audit_report.find_model", lambda *_: first)
    with pytest.raises(UserError, match="of stage 1 and has no plan to audit"):
        run(Ready(None), tmp_path / "out")
