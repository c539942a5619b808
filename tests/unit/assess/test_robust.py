"""Scores under faults: clean is what an evaluation gives, a frame without a result is scored, workers change nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from helpers import REPO
from helpers.nano import Nano
from helpers.stand_ins import Ready, StandIn, blank_result
from helpers.waiting import eventually
from uniad.assess import heatmap
from uniad.assess.conditions import CELLS, Opening, done, run_conditions
from uniad.assess.faults import FAULTS, find_faults
from uniad.assess.frames import DROPPED, REFUSED, Held, Recorded, moved_on, outcomes
from uniad.assess.robust import CLEAN, METRICS, condition_name, findings, judge, relative, resilience, tables
from uniad.assess.robust_report import run
from uniad.config.spec import Spec
from uniad.data.dataset import SceneStream
from uniad.deploy.plausible import Limits
from uniad.deploy.sensors import Sensors
from uniad.errors import UserError
from uniad.evaluation.future import MODEL, FutureScores
from uniad.evaluation.run import collect, score
from uniad.formats.report import read_report

FRAMES = 6  # the world's scene


@pytest.fixture(scope="module")
def recorded(spec: Spec) -> Recorded:
    return Recorded(spec)


@pytest.fixture(scope="module")
def stand_in(recorded: Recorded) -> StandIn:
    """It drives straight on at 5 m/s."""
    plan = np.stack([np.zeros(6), 2.5 * np.arange(1, 7)], axis=1)
    return StandIn(recorded.spec, lambda sensors: plan, blank_result(recorded))


def test_clean_is_what_an_evaluation_gives_to_the_bit(nano: Nano, tmp_path: Path) -> None:
    with nano.open() as runtime:
        spec = runtime.spec
        clean = judge(runtime, Recorded(spec, most=3), None, 0, 0)
        runtime.limits = Limits.off()
        stream = SceneStream(spec.data, "val", stage=2)
        del stream.frames[3:]
        metrics = score(collect(runtime, stream), spec, "v1.0-trainval", tmp_path)
    assert clean["scores"] == {metric.key: metric.get(metrics) for metric in METRICS}
    assert clean["scores"]["driving"] is None  # not asked for
    assert clean["scores"]["NDS"] > 0 and clean["scores"]["L2"] > 0 and clean["frames"] == 3
    assert clean["missing"] == {} and clean["reasons"] == {}


@pytest.mark.parametrize("name", ["Fog", "FrameDrops"])
def test_severity_0_of_a_fault_is_clean(stand_in: StandIn, recorded: Recorded, name: str) -> None:
    assert judge(stand_in, recorded, FAULTS[name], 0, 5) == judge(stand_in, recorded, None, 0, 0)


def test_every_frame_has_an_outcome_in_its_order_and_what_is_refused_is_counted(stand_in: StandIn, recorded: Recorded) -> None:
    scene = recorded.scenes[0]
    cut = {1: None, 2: "lacks a camera", 4: "lacks a camera", 5: None}

    numbers = iter(range(FRAMES))

    def deliver(sensors: Sensors) -> Sensors | None:
        number = next(numbers)
        if number not in cut:
            return sensors
        if cut[number] is None:
            return None
        return replace(sensors, images={k: v for k, v in sensors.images.items() if k != "CAM_FRONT"})

    found = list(outcomes(stand_in, scene, deliver))
    assert [o.arrival.record.number for o in found] == list(range(FRAMES))
    assert [o.missing for o in found] == ["", DROPPED, REFUSED, "", REFUSED, DROPPED]
    assert "lacks CAM_FRONT" in found[2].why


def test_a_car_without_a_result_drives_on_along_its_plan() -> None:
    plan = np.stack([np.zeros(6), 2.0 * np.arange(1, 7)], axis=1)  # 4 m/s straight on
    then, now = np.eye(4), np.eye(4)
    now[:2, 3] = 0.5, 4.0  # a second later: as planned, and half a metre to the right
    np.testing.assert_allclose(moved_on(plan, 2, then, now), plan - [0.5, 0.0], atol=1e-6)
    turned = np.eye(4)
    turned[:2, :2] = [[0, -1], [1, 0]]  # it looks to the left of where it looked
    np.testing.assert_allclose(moved_on(plan, 0, then, turned), plan[:, ::-1], atol=1e-6)


def test_a_frame_without_a_result_costs(stand_in: StandIn, recorded: Recorded) -> None:
    clean = judge(stand_in, recorded, None, 0, 0)
    spoilt = judge(stand_in, recorded, FAULTS["CameraMissing"], 3, 1)
    assert spoilt["missing"][REFUSED] > 0 and "lacks CAM_FRONT" in next(iter(spoilt["reasons"]))
    # a plan that is the same at every frame is, moved on, nearly the one that would have come
    assert spoilt["scores"]["L2"] != clean["scores"]["L2"]
    held = Held(recorded.spec)
    scene = recorded.scenes[0]
    record = next(iter(scene))
    first = held.result(0, np.eye(4), recorded.truth(scene.keys[0], record.info), 1)
    assert not first.plan.path.any() and first.plan.command == 1 and not first.drivable.any()


def test_a_share_is_of_the_clean_score_and_errors_are_the_other_way_round() -> None:
    by_key = {metric.key: metric for metric in METRICS}
    assert relative(by_key["NDS"], 0.2, 0.8) == 0.25
    assert relative(by_key["L2"], 2.0, 1.0) == 0.5
    assert relative(by_key["EPA"], -0.3, 0.5) == 0.0
    assert relative(by_key["NDS"], None, 0.8) is None and relative(by_key["NDS"], 0.1, 0.0) is None
    assert relative(by_key["collisions"], 3.0, 1.0) is None


def test_every_column_reads_a_name_that_the_evaluation_writes(spec: Spec) -> None:
    scores = FutureScores(spec)
    metrics = scores.compute()
    for key, value in metrics["occupancy"][MODEL].items():
        assert value is None or isinstance(value, (int, float)), key
    names = {name for family in ("motion", "occupancy", "planning") for name in metrics[family][MODEL]}
    near = metrics["occupancy"]["areas"][0]
    metrics["occupancy"][MODEL] |= {f"occ_iou_{near}": 0.5, f"occ_pq_{near}": 0.25}
    assert {f"occ_iou_{near}", f"occ_pq_{near}", "car/min_ade_err", "car/EPA", "L2_3s", "obj_box_col_3s"} <= names
    by_key = {metric.key: metric.get(metrics) for metric in METRICS}
    assert (by_key["occ_IoU"], by_key["occ_VPQ"]) == (0.5, 0.25)


def row(**scores: float) -> dict:
    return {"scores": {m.key: scores.get(m.key) for m in METRICS}, "frames": 40, "missing": {}, "reasons": {}, "backend": "toy"}


@pytest.fixture
def found() -> dict:
    return {
        CLEAN: row(NDS=0.5, L2=1.0, collisions=0.0),
        "Fog.3": row(NDS=0.1, L2=4.0, collisions=7.5),
        "Snow.3": row(NDS=0.4, L2=0.9, collisions=0.0),
        "TimeJitter.3": row(NDS=0.5, L2=1.0, collisions=0.0) | {"missing": {REFUSED: 8}, "reasons": {"the step is 0.1 s": 8}},
    }


def test_the_tables_and_sentences_say_what_was_found(found: dict, tmp_path: Path) -> None:
    faults = find_faults(["Fog", "Snow", "TimeJitter"])
    left, plain, without, meaning = tables(found, faults, [3])
    assert left.columns == ["fault", "severity", "detection NDS", "plan L2 (m)", "plan collisions (%), added",
                            "frames without a result (%)"]  # fmt: skip
    np.testing.assert_allclose(np.array([r[2:] for r in left.rows], float),
                               [[20, 25, 7.5, 0], [80, 100 / 0.9, 0, 0], [100, 100, 0, 20]])  # fmt: skip
    assert plain.rows[0][:3] == [CLEAN, 0, 0.5] and without.rows == [["TimeJitter", 3, 0, 8, 40, "the step is 0.1 s"]]
    assert len(meaning.rows) == 3
    said = findings(found, faults, [3])
    assert said[0].startswith("Worst for the plan: Fog at severity 3") and "+7.5 percentage points" in said[2]
    assert "50.0 %" in said[3] and "refused 8 frames, under TimeJitter" in said[4]
    assert resilience(found, faults, [3]) == pytest.approx(0.5)
    heatmap.draw(found, faults, [3], "toy", tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes()[:4] == b"\x89PNG"
    heatmap.draw(found, faults, [3], "toy", tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "map.png").read_bytes()


def test_any_number_of_workers_writes_the_same_files(
    stand_in: StandIn, spec: Spec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SimpleNamespace(spec=spec, path=Path("toy.onnx"))
    monkeypatch.setattr("uniad.assess.robust_report.find_model", lambda *_: model)
    faults = find_faults(["FrameLost", "FrameDrops", "PoseNoise"])
    for jobs in (1, 3):
        run(Ready(stand_in), tmp_path / str(jobs), faults, [3], most=3, jobs=jobs)
    one, three = (sorted((tmp_path / str(jobs)).iterdir()) for jobs in (1, 3))
    assert [p.name for p in one] == ["heatmap.png", "report.json", "report.md"] == [p.name for p in three]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, three))
    report = read_report(tmp_path / "1")
    assert report.kind == "robust" and set(report.details["conditions"]) == {CLEAN, *(condition_name(f.name, 3) for f in faults)}


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def work(name: str) -> int:
        if name == "b" and not (tmp_path / "go").exists():
            raise UserError("no more")
        (tmp_path / f"ran-{name}").open("a").write("x")
        return ord(name)

    with pytest.raises(UserError, match="no more"):
        run_conditions(["a", "b"], work, 1, tmp_path / "out", {"seed": 1})
    assert json.loads((tmp_path / "out" / CELLS / "a.json").read_text())["value"] == 97
    (tmp_path / "go").touch()
    assert run_conditions(["a", "b"], work, 2, tmp_path / "out", {"seed": 1}) == {"a": 97, "b": 98}
    assert (tmp_path / "ran-a").read_text() == "x"
    assert run_conditions(["a"], work, 1, tmp_path / "out", {"seed": 2}) == {"a": 97}  # another run's cell is not taken
    assert (tmp_path / "ran-a").read_text() == "xx"
    cell = tmp_path / "out" / CELLS / "a.json"
    for damaged in (cell.read_text().replace("97", "79"), cell.read_text()[:20], "[" * 100_000):
        cell.write_text(damaged)
        assert run_conditions(["a"], work, 1, tmp_path / "out", {"seed": 2}) == {"a": 97}
    assert (tmp_path / "ran-a").read_text() == "xx" + 3 * "x"
    done(tmp_path / "out")
    assert os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize("change, told", [
    ({"severities": [4]}, "severity 4 is unknown: choose 1, 2 or 3"),
    ({"severities": [0]}, "severity 0 alone is the clean run"),
    ({"scenes": ["77"]}, "scene '77' is not in the val split"),
    ({"scenes": ["0", "0"]}, "asked for twice"),
])  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(nano: Nano, tmp_path: Path, change: dict, told: str) -> None:
    opening = Opening(str(nano.checkpoint), str(nano.config), tuple(nano.options))
    with pytest.raises(UserError, match=told):
        run(opening, tmp_path / "out", find_faults(["Fog"]), **change)
    assert not (tmp_path / "out").exists()


INTERRUPTED = """
import sys, time
from pathlib import Path
from uniad.assess.conditions import run_conditions
from uniad.errors import run_cli
out = Path(sys.argv[1])

def work(name):
    if name == "quick":
        return 1
    out.joinpath("begun").touch()
    time.sleep(60)

run_cli(lambda: run_conditions(["quick", "slow"], work, 2, out, {}))
"""


def test_ctrl_c_ends_all_processes_at_once_and_keeps_what_is_done(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(REPO / "projects")}
    run = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(tmp_path)], env=env, stderr=subprocess.PIPE, text=True)
    done = (tmp_path / "begun", tmp_path / CELLS / "quick.json")
    eventually(lambda: all(path.exists() for path in done), 60, "no condition is done", run)
    run.send_signal(signal.SIGINT)
    begun = time.monotonic()
    _, told = run.communicate(timeout=30)  # a child that lived on would hold the pipe open
    assert run.returncode == 130 and told == "interrupted\n" and time.monotonic() - begun < 20
    assert [p.name for p in (tmp_path / CELLS).iterdir()] == ["quick.json"]
