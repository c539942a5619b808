"""Published figures beside an evaluation's: which entry, which values, and when they compare."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from uniad.evaluation.official import Coverage
from uniad.evaluation.published import FIGURES, TABLE, compare, found_in, is_published_split, published_of

METRICS = {
    "tracking": {"amota": 0.3655, "amotp": 1.31, "recall": 0.48},
    "map": {"lanes_iou": 0.30},
    "motion": {"model": {"car/min_ade_err": 0.7055}},
    "occupancy": {"areas": ["30x30", "100x100"], "model": {"occ_iou_30x30": 0.6371}},
    "planning": {
        "model": {f"obj_box_col_{t}s": 0.01 for t in (1, 2, 3)},
        "model_with_collision_optimiser": {"obj_box_col_1s": 0.001, "obj_box_col_2s": 0.002, "obj_box_col_3s": 0.0057},
    },
}


def test_every_published_figure_has_a_source_a_tolerance_and_a_value_to_compare():
    for entry in json.loads(TABLE.read_text()):
        assert entry["source"] and published_of(entry["generation"], entry["model"], entry["stage"]) == entry
        assert entry["figures"].keys() <= FIGURES.keys() == found_in({}).keys()
    assert published_of("uniad-v1", "tiny", 2) is None


def test_what_is_published_is_what_the_table_of_files_says():
    from uniad.formats.published import PUBLISHED

    for file in PUBLISHED:
        entry = published_of(str(file.generation), file.model, file.stage or 0)
        if file.kind == "checkpoint" and entry is not None:
            assert f"AMOTA {entry['figures']['AMOTA']:.3f}" in file.figures


def test_values_stand_beside_with_their_difference_and_whether_it_is_allowed():
    record, lines = compare(METRICS, published_of("uniad-v1", "base", 2), whole=True)
    shown = "\n".join(lines)
    assert record["figures"]["AMOTA"]["within"] and record["figures"]["collisions"]["here"] == pytest.approx(0.29)
    assert not record["figures"]["lane IoU"]["within"]
    row = next(line for line in lines if "lane IoU" in line)
    assert row.split() == ["lane", "IoU", "0.313", "0.300", "-0.013", "0.005", "outside"]
    assert "UniAD v1, README.md" in shown and "outside" not in next(line for line in lines if "AMOTA" in line)


def test_a_part_of_the_split_is_not_compared():
    record, lines = compare(METRICS, published_of("uniad-v1", "base", 1), whole=False)
    assert record == {"source": record["source"], "comparable": False} and "no comparison" in lines[-1]


def test_a_made_up_world_with_the_split_s_names_is_not_the_split():
    whole = Coverage("val", 6019, 6019, (), 0, True)
    assert is_published_split("v1.0-trainval", whole)
    for other in (None, replace(whole, samples=2, samples_of_split=2), replace(whole, whole=False)):
        assert not is_published_split("v1.0-trainval", other)
    assert not is_published_split("v1.0-mini", whole)


def test_what_was_not_measured_is_said():
    _, lines = compare({}, published_of("uniad-v2", "base", 1), whole=True)
    assert sum("not measured" in line for line in lines) == 4
