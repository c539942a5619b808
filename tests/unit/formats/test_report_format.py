"""A report is read back as it was written, says the same on its page, and one that is damaged is refused by one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from uniad.errors import UserError
from uniad.formats.report import Report, Table, page, plain, read_report, write_report

ROWS = [["fog | 2", 0.12345, 3, True], ["none", None, 0, False]]
REPORT = Report(
    kind="robust",
    title="Broken sensors",
    subject={"model": "nano.onnx", "backend": "onnxruntime"},
    setting={"seed": 3, "cameras": ["CAM_FRONT", "CAM_BACK"]},
    tables=[Table("Scores", ["fault", "AP", "refused", "ok"], ROWS, [0, 2, 0, 0])],
    findings=["Fog halves\nthe range."],
    passed=False,
    pictures={"heat.png": "one row a fault"},
    details={"per_class": {"car": 0.5}},
)


def test_it_is_read_back(tmp_path: Path):
    write_report(REPORT, tmp_path)
    again = read_report(tmp_path)
    assert again == replace(REPORT, tables=[Table(**{**vars(REPORT.tables[0])})])
    before = (tmp_path / "report.json").read_bytes()
    write_report(again, tmp_path)
    assert (tmp_path / "report.json").read_bytes() == before


def test_the_page_says_what_the_record_says():
    text = page(REPORT)
    assert "**Not passed.**" in text and "* Fog halves the range." in text and "![one row a fault](heat.png)" in text
    assert "| fog \\| 2 | 0.12 | 3 | yes |" in text and "| none | - | 0 | no |" in text
    assert "|---|---:|---:|---|" in text, "numbers stand to the right"
    assert "| cameras | CAM_FRONT, CAM_BACK |" in text


def test_a_terminal_sees_columns_in_line():
    lines = plain(REPORT.tables[0]).splitlines()
    assert lines[0] == "Scores" and lines[2].index("0.12") + 4 == lines[3].index("-") + 1


def test_numbers_of_numpy_and_what_is_not_finite(tmp_path: Path):
    table = Table("t", ["a", "b"], [[np.float32(0.5), float("nan")], [np.int64(2), np.inf]])
    write_report(replace(REPORT, tables=[table], details={"x": np.arange(2)}), tmp_path)
    read = read_report(tmp_path)
    assert list(read.tables[0].rows) == [[0.5, None], [2, None]] and read.details == {"x": [0, 1]}


def test_a_row_that_does_not_fit_is_a_mistake_of_the_caller():
    with pytest.raises(ValueError, match="1 cells for 2 columns"):
        Table("t", ["a", "b"], [[1]])
    with pytest.raises(ValueError, match="no report is"):
        replace(REPORT, kind="drvie")


@pytest.mark.parametrize(
    "change",
    [
        {"version": 2},
        {"report": "drvie"},
        {"passed": 1},
        {"tables": [{"title": "t", "columns": ["a"], "rows": [[1, 2]], "digits": 3, "note": ""}]},
        {"tables": [{"title": "t", "columns": ["a"], "rows": [[[]]], "digits": 3, "note": ""}]},
        {"tables": [{"title": "t", "columns": ["a"], "rows": [], "digits": -1, "note": ""}]},
        {"findings": "all well"},
        {"subject": []},
        {"surprise": 1},
    ],
)
def test_what_is_no_report_is_one_line(tmp_path: Path, change: dict):
    write_report(REPORT, tmp_path)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError) as caught:
        read_report(tmp_path)
    assert "\n" not in str(caught.value) and "report.json" in str(caught.value)


def test_a_picture_lies_beside_its_report(tmp_path: Path):
    write_report(REPORT, tmp_path)
    path = tmp_path / "report.json"
    text = path.read_text()
    for name in ("../heat.png", "/etc/passwd", "..", "a/b.png", "a\\\\b.png", ""):
        path.write_text(text.replace('"heat.png"', f'"{name}"'))
        with pytest.raises(UserError, match="pictures names .*needed are names of files beside it"):
            read_report(tmp_path)


@pytest.mark.parametrize("spoil", [
    lambda text: "", lambda text: text[:100], lambda text: "[" * 100_000, lambda text: text.replace("0.12345", "1" + "0" * 5000),
    lambda text: text.replace("0.12345", "NaN"), lambda text: text.replace("0.12345", "1e999"), lambda text: "\0",
    lambda text: text.replace('"title": "Broken', '"title": "a", "title": "Broken'), lambda text: "null",
])  # fmt: skip
def test_a_damaged_report_is_one_line(tmp_path: Path, spoil):
    write_report(REPORT, tmp_path)
    path = tmp_path / "report.json"
    path.write_text(spoil(path.read_text()))
    with pytest.raises(UserError) as caught:
        read_report(tmp_path)
    assert "\n" not in str(caught.value) and "report.json" in str(caught.value)


def test_a_report_that_is_not_there_is_one_line(tmp_path: Path):
    with pytest.raises(UserError, match="does not exist"):
        read_report(tmp_path)
