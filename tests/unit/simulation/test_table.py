"""The tables of a closed loop: what stands in a cell follows from the drives, and baselines stand beside the model."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.drives import Other, driven, expert, street
from uniad.formats.report import Report, page, plain, read_report, write_report
from uniad.simulation.log import RED
from uniad.simulation.score import Scores, score_all
from uniad.simulation.table import findings, routes_table, summary, tables


@pytest.fixture(scope="module")
def scores() -> list[Scores]:
    routes = street(("red_light",), 0), street((), 1)
    logs = []
    for route in routes:
        logs += [
            expert(route),
            driven(0.0, 19.0, policy="standing still", route=route),
            driven(8.0, 19.0, policy="constant velocity", route=route, signal=RED),
        ]
    logs += [
        driven(6.0, 19.0, route=routes[0]),
        driven(8.0, 19.0, route=routes[1], others=(Other("traffic_cone", (60.0, -1.75), size=(0.4, 0.4, 1)),)),
    ]
    return score_all(logs)


def test_a_row_holds_mean_and_spread_over_the_routes(scores: list[Scores]):
    pdm, bench, kinds = tables(scores)
    rows = {row[0]: dict(zip(pdm.columns, row)) for row in pdm.rows}
    assert list(rows) == ["expert", "standing still", "constant velocity", "model"] and rows["model"]["routes"] == 2
    assert rows["expert"]["driving score"] == "1.00 +- 0.00"
    assert rows["standing still"]["driving score"] == "0.00 +- 0.00" == rows["standing still"]["moves on"]
    assert rows["constant velocity"]["lights"] == "0.00 +- 0.00"
    first, second = (5 * 0.75 + 7) / 12, 0.5 * (5 + 2) / 12  # slower than the expert; into a cone, which it came too close to
    wanted = f"{(first + second) / 2:.2f} +- {abs(first - second) / 2:.2f}"
    assert rows["model"]["driving score"] == wanted and rows["model"]["no collision at fault"] == "0.75 +- 0.25"
    ours = dict(zip(bench.columns, next(row for row in bench.rows if row[0] == "model")))
    assert ours["success %"] == "0.0 +- 0.0" and ours["infraction penalty"] == "0.82 +- 0.17" and ours["efficiency %"] is None
    theirs = dict(zip(bench.columns, next(row for row in bench.rows if row[0] == "expert")))
    assert theirs["success %"] == "100.0 +- 0.0", "a share becomes per cent"
    assert kinds.columns == ["policy", "straight (2)", "red light (1)"]
    assert kinds.rows[-1] == ["model", wanted, f"{first:.2f} +- 0.00"]


def test_programs_get_the_numbers(scores: list[Scores]):
    found = summary(scores)["model"]
    assert found["pdm"]["ego_progress"] == {"mean": pytest.approx(0.875), "std": pytest.approx(0.125), "n": 2}
    assert found["bench2drive"]["efficiency"] == {"mean": None, "n": 0}


def test_every_drive_says_what_went_wrong_first(scores: list[Scores]):
    table = routes_table(scores)
    told = {(row[0], row[1]): row[-1] for row in table.rows}
    assert told["seed-0100-route-00", "expert"] == "" and told["seed-0100-route-00", "standing still"] == "hardly moves"
    assert "red" in told["seed-0100-route-01", "constant velocity"]
    assert "traffic cone" in told["seed-0100-route-01", "model"] and told["seed-0100-route-01", "model"].endswith(" s")


def test_the_findings_are_sentences_and_a_report_holds_it_all(scores: list[Scores], tmp_path):
    said = findings(scores, "model")
    assert "driving score of 0.59 over 2 routes; the expert has 1.00" in said[0] and "above every baseline" in said[1]
    assert "the best of them, expert" not in said[1], "the expert is no baseline"
    assert "not above" in findings(scores, "standing still")[1] and "collisions at fault: 1" in said[2]
    report = Report("drive", "t", {}, {}, [*tables(scores), routes_table(scores)], said, details=summary(scores))
    write_report(report, tmp_path)
    assert page(read_report(tmp_path)) == (tmp_path / "report.md").read_text()
    assert max(len(line) for line in plain(tables(scores)[2]).splitlines()) < 100


def test_an_order_of_drives_changes_no_number(scores: list[Scores]):
    shuffled = [scores[i] for i in np.random.default_rng(0).permutation(len(scores))]
    assert summary(shuffled) == summary(scores)
