"""Commands as a person starts them, on what others have damaged: one line, a status that is not 0, and nothing half-written."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.command_line import ran, refused
from helpers.toy_graph import write_toy
from uniad.files import alone_in

BASELINES = ("--routes", 1, "--policies", "standing-still", "--jobs", 1, "--traffic", "replay")


def left(folder: Path) -> list[str]:
    """Files by name, but for those of the recorder of what the place was: no half of anything, hidden or not."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.fixture(scope="module")
def drives(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("drives") / "out"
    code, _, err = ran("tools/drive.py", "--out", out, *BASELINES)
    assert code == 0, err
    return out


ROUTE = "standing-still/seed-0100-route-0.json"
DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: os.truncate(path, 100),
    "empty": lambda path: os.truncate(path, 0),
    "a list": lambda path: path.write_text("[]"),
    "null": lambda path: path.write_text("null"),
    "deep": lambda path: path.write_text("[" * 100_000),
    "no text": lambda path: path.write_bytes(bytes(range(256)) * 9),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a link to nothing": lambda path: (path.unlink(), path.symlink_to("nowhere")),
    "a loop": lambda path: (path.unlink(), path.symlink_to(path.name)),
}


@pytest.mark.parametrize("file", [ROUTE, "run.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_drives_of_a_former_run_that_are_damaged(drives: Path, tmp_path: Path, file: str, damage: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(drives, out)
    DAMAGE[damage](out / file)
    (out / "report.json").unlink()
    before = left(out)
    code, _, err = ran("tools/drive.py", "--out", out, *BASELINES)
    if code == 0:  # made anew
        assert json.loads((out / file).read_text()) == json.loads((drives / file).read_text())
    else:
        assert code == 2 and err.count("error: ") == 1 and "Traceback" not in err and left(out) == before, err


def test_two_at_once_do_not_write_into_one_folder(tmp_path: Path, record_property) -> None:
    """Drives of one model beside the identity of another would be taken for its own by the next run."""
    toy, out = write_toy(tmp_path / "toy.onnx"), tmp_path / "out"
    commands = (
        ("tools/drive.py", "--out", out, *BASELINES),
        ("tools/soak.py", toy, "--out", out, "--minutes", "0.01", "--threads", 1),
        ("tools/canary.py", "--backend", "onnxruntime", "--only", "top_k", "--out", out),
    )
    with alone_in(out):
        for command in commands:
            assert f"{out}: another process writes results there: wait for it to end" in refused(*command)
        assert left(out) == []
    record_property("attacks", len(commands))
