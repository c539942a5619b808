"""Ctrl-C in the middle of a tool that keeps what is done, as a terminal sends it: to the whole process group."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from helpers.command_line import World, ran, start
from helpers.nano import Nano
from helpers.waiting import eventually
from uniad.assess import conditions

DRIVES = ("tools/drive.py", "--routes", 1, "--seed", 102, "--policies", "constant-velocity", "standing-still")


def of_session(leader: int) -> list[str]:
    """Processes, other than those that have ended, that a command and its children are."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append((folder / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def files(folder: Path) -> dict[str, int]:
    """What there is, hidden or not, and when it was written."""
    return {str(p.relative_to(folder)): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def interrupt(words: Sequence[object], out: Path, kept: str, told: str) -> dict[str, int]:
    """Sends Ctrl-C once a file that fits ``kept`` is there; what is left in ``out``."""
    process = start(*words, start_new_session=True)
    eventually(lambda: list(out.glob(kept)), 90, f"no {kept} is made", process)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert (process.returncode, error) == (130, f"interrupted: {told}, the same command goes on\n")
    # The helper of multiprocessing ends when it sees that nobody is left
    eventually(lambda: not of_session(process.pid), 10, "processes are left")
    return files(out)


@pytest.mark.parametrize("jobs", [1, 2])
def test_drives(tmp_path: Path, jobs: int) -> None:
    out = tmp_path / "out"
    words = (*DRIVES, "--jobs", jobs, "--out", out)
    left = interrupt(words, out, "*/seed-*.json", "finished drives are kept")
    assert "run.json" in left and 2 <= len(left) < 4 and not any(name.rpartition("/")[2].startswith(".") for name in left), left
    code, _, error = ran(*words)
    now = files(out)
    assert code == 0 and "report.json" in now, error
    assert len([name for name in now if "/seed-" in name]) == 3, "two policies and the expert"
    assert all(now[name] == written for name, written in left.items())


@pytest.mark.slow
@pytest.mark.parametrize("tool, more, first, jobs", [
    ("robust", ("--faults", "Fog", "Snow", "--frames", 2), "clean", 1),
    ("audit", ("--frames", 2), "as-it-is", 2),
])  # fmt: skip
def test_conditions(world: World, tmp_path: Path, tool: str, more: tuple[object, ...], first: str, jobs: int) -> None:
    nano, out = Nano(world.root, world.infos), tmp_path / "out"
    words = (f"tools/{tool}.py", nano.checkpoint, "--config", nano.config, "--device", "cpu", "--out", out, "--jobs", jobs, *more,
             "--cfg-options", *nano.options)  # fmt: skip
    left = interrupt(words, out, f".unfinished/{first}.json", "finished conditions are kept")
    assert left and all(name.startswith(".unfinished/") and "/." not in name for name in left), left
    for name in left:  # what says in the report that it was taken
        cell = json.loads((out / name).read_text())
        value = {**cell["value"], "backend": "of the first run"}
        (out / name).write_text(json.dumps({**cell, "value": value, "sha256": conditions._digest(value)}))
    code, _, error = ran(*words)
    assert code == 0, error
    assert json.loads((out / "report.json").read_text())["subject"]["backend"] == "of the first run"
    assert not (out / ".unfinished").exists(), "all is done"
