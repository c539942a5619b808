"""The table of attacks: every row has tests, and the table that the page shows has nothing in its last two columns."""

from __future__ import annotations

import re
from collections import Counter
from types import SimpleNamespace

import pytest

import attacks


@pytest.mark.parametrize("area", attacks.AREAS)
def test_every_row_names_tests_that_there_are(area: str) -> None:
    for pattern in attacks.AREAS[area]:
        names = {f"{path.removeprefix(str(attacks.REPO / 'tests') + '/')}::{name}" for path in attacks._files(pattern)
                 for name in re.findall(r"^def (test_\w+)", open(path).read(), re.M)}  # fmt: skip
        assert any(re.match(pattern, name) for name in names), pattern


def test_the_page_shows_every_row_without_a_traceback_or_anything_silent() -> None:
    shown = attacks.PAGE.read_text().partition(attacks.BEGIN)[2].partition(attacks.END)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in shown.strip().splitlines()[2:]]
    assert [row[0] for row in rows] == [*attacks.AREAS, "**all**"], "python tests/attacks.py --write"
    assert all(row[-2:] == ["0", "0"] and row[1] == row[2] != "0" for row in rows)
    assert all(int(rows[-1][n]) == sum(int(row[n]) for row in rows[:-1]) for n in (1, 2))


def test_how_a_test_ended_decides_its_column() -> None:
    collector = attacks.Collector({"a": ("x",)})
    collector.area_of["n"] = "a"
    for failed, kind, text, attacked in (
        (False, "", "", 5), (False, "", "", 0), (True, "AssertionError", "assert 1", 0), (True, "Failed", "DID NOT RAISE", 0),
        (True, "KeyError", "'a'", 0), (True, "AssertionError", "Traceback (most recent call last)", 0),
    ):  # fmt: skip
        properties = [("attacks", attacked)] if attacked else []
        report = SimpleNamespace(nodeid="n", skipped=False, failed=failed, kind=kind, longrepr=text, when="call",
                                 user_properties=properties)  # fmt: skip
        collector.pytest_runtest_logreport(report)
    assert collector.counts["a"] == Counter(tried=10, held=6, silent=2, traceback=2)
    assert attacks.table(collector.counts)[2] == "| a | 10 | 6 | 2 | 2 |"
