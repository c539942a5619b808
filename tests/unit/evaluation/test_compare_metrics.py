"""Two graphs of a model, scored beside each other."""

from __future__ import annotations

import pytest

from uniad.evaluation.compare_metrics import ROWS, comparison_table, differences


def metrics(plan: float, nds: float) -> dict:
    planning = {"model": {"L2_1s": plan, "L2_2s": plan, "L2_3s": plan, "L2_avg_3s": plan, "obj_box_col_3s": 0.0}}
    occupancy = {"areas": ["30x30", "100x100"], "model": {"occ_iou_30x30": 0.5, "occ_iou_100x100": None}}
    motion = {"model": {"car/EPA": 0.25, "car/min_ade_mean": plan}}
    return {"samples": 3, "motion": motion, "detection": {"NDS": nds, "mAP": 0.1}, "planning": planning, "occupancy": occupancy}


def test_each_task_that_was_scored_has_its_rows_and_absent_numbers_no_difference() -> None:
    rows = {(row["task"], row["metric"]): row for row in differences(metrics(1.0, 0.3), metrics(1.25, 0.2))}
    assert {task for task, _ in rows} == {"detection", "motion", "planning", "occupancy"}
    assert rows["motion", "vehicles EPA"]["reference"] == 0.25 and rows["motion", "vehicles minADE (m)"]["difference"] == 0.25
    assert rows["planning", "L2 at 3 s (m)"]["difference"] == 0.25
    assert rows["detection", "NDS"]["difference"] == pytest.approx(-0.1)
    assert rows["occupancy", "IoU near"]["difference"] == 0 and rows["occupancy", "IoU far"]["difference"] is None
    assert all(row["task"] in {r[0] for r in ROWS} for row in rows.values())


def test_the_table_marks_what_became_worse_and_nothing_else() -> None:
    def side(precision: str, found: dict) -> dict:
        return {"precision": precision, "metrics": found}

    first, second = metrics(1.0, 0.3), metrics(1.25, 0.35)
    report = {
        "reference": side("fp32", first), "other": side("int8", second), "differences": differences(first, second),
        "plans_apart_m": {"mean": 0.003, "worst_frame": 0.01, "frames": 3},
    }  # fmt: skip
    lines = comparison_table(report).splitlines()
    marked = [line.split()[0] for line in lines if line.endswith("worse")]
    assert marked == ["vehicles", *["L2"] * 4] and "fp32" in lines[1] and "int8" in lines[1]
    assert "plans apart: 0.0030 m" in lines[-1]


def test_whether_more_is_better_follows_what_a_number_measures() -> None:
    """Shares of what was found and done right grow; distances, switches, misses and collisions shrink."""
    grows = {"NDS", "mAP", "AMOTA", "recall", "IoU", "VPQ", "EPA"}
    for task, title, path, better in ROWS:
        assert better == ("+" if grows & set(title.split()) else "-"), title
        assert path.split("/")[0] == task
        assert ("(m)" in title) == (title.startswith("L2") or any(word in title for word in ("minADE", "minFDE", "AMOTP"))), title
    for name, place in (("vehicles", "/car/"), ("pedestrians", "/pedestrian/"), ("near", "{near}"), ("far", "{far}")):
        assert all((place in path) == (name in title.split()) for _, title, path, _ in ROWS), name
    assert len({path for _, _, path, _ in ROWS}) == len({title for _, title, _, _ in ROWS}) == len(ROWS)
