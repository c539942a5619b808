"""One format for what a person is told about a model: drives, broken sensors, audits, canaries, soaks.

A report is a folder: ``report.json`` for programs, ``report.md`` for people, and the pictures that it names. Both
files say the same; the page is made from the record and from nothing else.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from uniad.errors import UserError
from uniad.files import atomic_path, read_json, write_results
from uniad.formats.fields import Choice, Each, Flag, Maybe, Named, Record, Text, refuse

VERSION = 1
KINDS = ("drive", "robust", "audit", "canary", "soak", "weights", "bag")
_FILE_NAME = re.compile(r"[^/\\\x00-\x1f]+")
JSON_FILE, PAGE_FILE = "report.json", "report.md"


@dataclass(frozen=True)
class Table:
    """Rows of cells below named columns. A cell is a text, a number, a flag, or None: not measured, or not defined.

    ``digits``: decimals of the floats on the page, one for all columns or one a column. The record keeps them whole.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    digits: int | Sequence[int] = 3
    note: str = ""

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"a row of {self.title!r} has {len(row)} cells for {len(self.columns)} columns")
        if not isinstance(self.digits, int) and len(self.digits) != len(self.columns):
            raise ValueError(f"{self.title!r} has digits for {len(self.digits)} of {len(self.columns)} columns")


@dataclass(frozen=True)
class Report:
    """What was tried on which model, what came out, and what that means.

    ``subject``: what was judged (model, digest, backend, device ...). ``setting``: what it was judged on (data, seed, routes ...)
    and whatever else the numbers depend on. ``findings``: plain sentences, the most important first. ``passed``: None where
    nothing is judged. ``pictures``: files of the same folder, with their captions. ``details``: anything more, for programs.
    """

    kind: str
    title: str
    subject: Mapping[str, Any]
    setting: Mapping[str, Any]
    tables: Sequence[Table]
    findings: Sequence[str] = ()
    passed: bool | None = None
    pictures: Mapping[str, str] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"no report is a {self.kind!r}; there are {', '.join(KINDS)}")


def write_report(report: Report, folder: str | Path) -> Path:
    """Writes ``report.json`` and ``report.md`` into the folder, each as a whole; returns the page's path.

    The same report gives the same bytes. Raises OSError where the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # The record goes last: a folder that has one is finished.
    with atomic_path(folder / PAGE_FILE) as part:
        part.write_text(page(report), encoding="utf-8")
    with atomic_path(folder / JSON_FILE) as part:
        part.write_text(json.dumps(_record(report), indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    return folder / PAGE_FILE


def keep_report(report: Report, folder: str | Path, draw: Callable[[Path], object] = lambda folder: None) -> Path:
    """``write_report`` at the end of long work: a folder that does not take it any more loses nothing, see ``write_results``.

    draw: writes the report's pictures into the folder that it is given, first.
    """

    def write(place: Path) -> Path:
        place.mkdir(parents=True, exist_ok=True)
        draw(place)
        return write_report(report, place)

    return write_results(folder, write, lambda: page(report))


def read_report(folder: str | Path) -> Report:
    """The report of a folder, or of its ``report.json``.

    Raises UserError of one line where it is damaged, of another version, or holds what no report holds.
    """
    path = Path(folder)
    path = path / JSON_FILE if path.is_dir() else path
    try:
        value = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; a run that was interrupted has none yet: the same command goes on") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged, or no JSON ({error}): make the report again") from None
    record = _REPORT.check(value, str(path))
    outside = [name for name in record["pictures"] if not _FILE_NAME.fullmatch(name) or name.startswith(".")]
    if outside:
        raise UserError(f"{path}: pictures names {outside[0]!r}; needed are names of files beside it")
    tables = []
    for number, table in enumerate(record["tables"]):
        try:
            tables.append(Table(table["title"], table["columns"], table["rows"], table["digits"], table["note"]))
        except ValueError as error:
            raise UserError(f"{path}: tables[{number}]: {error}") from None
    return Report(
        kind=record["report"],
        title=record["title"],
        subject=record["subject"],
        setting=record["setting"],
        tables=tables,
        findings=record["findings"],
        passed=record["passed"],
        pictures=record["pictures"],
        details=record["details"],
    )


def page(report: Report) -> str:
    """The report as Markdown."""
    lines = [f"# {_line(report.title)}", ""]
    if report.passed is not None:
        lines += [f"**{'Passed' if report.passed else 'Not passed'}.**", ""]
    lines += [f"* {_line(text)}" for text in report.findings]
    lines += [""] * bool(report.findings)
    for name, caption in report.pictures.items():
        lines += [f"![{_line(caption)}]({name})", ""]
    for table in report.tables:
        lines += [f"## {_line(table.title)}", "", *_grid(table), ""]
        lines += [_line(table.note), ""] if table.note else []
    for heading, facts in (("What was judged", report.subject), ("On what", report.setting)):
        lines += [f"## {heading}", "", "| | |", "|---|---|", *(f"| {_cell(k)} | {_cell(v)} |" for k, v in facts.items()), ""]
    return "\n".join(lines).rstrip() + "\n"


def plain(table: Table) -> str:
    """A table for a terminal: columns in line, numbers to the right, no line longer than its cells need."""
    digits = _digits(table)
    cells = [[str(c) for c in table.columns], *([_cell(c, d) for c, d in zip(row, digits)] for row in table.rows)]
    right = [any(_is_number(row[i]) for row in table.rows) for i in range(len(table.columns))]
    wide = [max(len(row[i]) for row in cells) for i in range(len(table.columns))]
    body = ("  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, wide, right)).rstrip() for row in cells)
    return "\n".join([table.title, *("  " + line for line in body), *(["  " + table.note] if table.note else [])])


def _grid(table: Table) -> list[str]:
    digits = _digits(table)
    right = [any(_is_number(row[i]) for row in table.rows) for i in range(len(table.columns))]
    return [
        "| " + " | ".join(_cell(c) for c in table.columns) + " |",
        "|" + "|".join("---:" if r else "---" for r in right) + "|",
        *("| " + " | ".join(_cell(c, d) for c, d in zip(row, digits)) + " |" for row in table.rows),
    ]


def _digits(table: Table) -> Sequence[int]:
    return [table.digits] * len(table.columns) if isinstance(table.digits, int) else table.digits


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _cell(value: Any, digits: int = 3) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_cell(v, digits) for v in value)
    return _line(str(value)).replace("|", "\\|")


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


def _record(report: Report) -> dict[str, Any]:
    return {
        "version": VERSION,
        "report": report.kind,
        "title": report.title,
        "passed": report.passed,
        "findings": list(report.findings),
        "subject": _plain_values(report.subject),
        "setting": _plain_values(report.setting),
        "tables": [
            {
                "title": table.title,
                "columns": list(table.columns),
                "rows": [[_plain_values(cell) for cell in row] for row in table.rows],
                "digits": table.digits if isinstance(table.digits, int) else list(table.digits),
                "note": table.note,
            }
            for table in report.tables
        ],
        "pictures": dict(report.pictures),
        "details": _plain_values(report.details),
    }


def _plain_values(value: Any) -> Any:
    """What JSON can hold: NumPy's numbers as Python's, a number that is not finite as null."""
    if isinstance(value, Mapping):
        return {str(k): _plain_values(v) for k, v in value.items()}
    if hasattr(value, "tolist"):  # of NumPy, an array or a single number
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain_values(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)


@dataclass(frozen=True)
class _Cells:
    """What a table's cell may be."""

    wanted: str = "a text, a finite number, true, false or null"

    def check(self, value: Any, where: str) -> Any:
        finite = not isinstance(value, float) or math.isfinite(value)
        if not finite or not (value is None or isinstance(value, (str, bool, int, float))):
            raise refuse(value, where, self.wanted)
        return value


@dataclass(frozen=True)
class _Digits:
    wanted: str = "decimals from 0 to 12, or a list of them"

    def check(self, value: Any, where: str) -> Any:
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= 12 for v in values):
            raise refuse(value, where, self.wanted)
        return value


@dataclass(frozen=True)
class _Facts:
    wanted: str = "a mapping of names"

    def check(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise refuse(value, where, self.wanted)
        return value


_TABLE = Record(
    {
        "title": Text(),
        "columns": Each(Text()),
        "rows": Each(Each(_Cells())),
        "digits": _Digits(),
        "note": Text(),
    },
    wanted="a table",
)
_REPORT = Record(
    {
        "version": Choice((VERSION,)),
        "report": Choice(KINDS),
        "title": Text(empty=False),
        "passed": Maybe(Flag()),
        "findings": Each(Text()),
        "subject": _Facts(),
        "setting": _Facts(),
        "tables": Each(_TABLE),
        "pictures": Named(Text()),
        "details": _Facts(),
    },
    wanted="a report",
)
