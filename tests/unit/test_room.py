"""What a run of tests leaves on disk: nothing where it passed, what explains a failure where it did not."""

from __future__ import annotations

import getpass
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers import REPO

FIRST = """
import pytest

@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("kept")

@pytest.fixture(scope="module")
def world(kept, tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    (folder / "image").write_text("pixels")
    yield folder
    assert (folder / "image").exists(), "a fixture's own teardown finds its folder"

def test_one(world, tmp_path):
    (tmp_path / "mine").touch()
    (world.parent / "tmp_path_of_one").write_text(str(tmp_path))

def test_two(world, kept):
    assert (world / "image").exists()
    assert not (world.parent / "kept.one").exists()
    (kept / "one").touch()
    assert {fails} == 0
"""
SECOND = """
from pathlib import Path

def test_after(tmp_path_factory):
    base = tmp_path_factory.getbasetemp()
    assert not Path((base / "tmp_path_of_one").read_text()).exists()
    assert bool(list(base.glob("world*"))) == bool({fails}), "of a module that is over"
    assert tmp_path_factory.mktemp("world").name == "world1", "a cache by path knows world0"
    assert (base / "kept0" / "one").exists(), "of the session"
"""


def run(place: Path, fails: int, *words: str) -> Path:
    """Runs the tests of two modules under this repository's settings; the folder where pytest keeps what runs leave."""
    for name, text in (("test_first.py", FIRST), ("test_second.py", SECOND)):
        (place / name).write_text(text.replace("{fails}", str(fails)))
    (place / "tmp").mkdir(exist_ok=True)
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    env |= {"TMPDIR": str(place / "tmp"), "PYTHONPATH": str(REPO / "tests")}
    command = [sys.executable, "-m", "pytest", "-q", "-c", REPO / "pyproject.toml", "--rootdir", place, "-p", "no:cacheprovider",
               "-p", "helpers.room", *words, place]  # fmt: skip
    done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == fails, done.stdout + done.stderr
    return place / "tmp" / f"pytest-of-{getpass.getuser()}"


@pytest.mark.parametrize("words", [(), ("-n", "1", "--dist", "loadfile")], ids=["alone", "xdist"])
def test_a_run_that_passed_leaves_nothing_and_a_module_nothing_for_the_next(tmp_path: Path, words: tuple[str, ...]) -> None:
    left = run(tmp_path, 0, *words)
    assert list(left.iterdir()) == []


def test_of_runs_that_failed_the_last_keeps_what_explains_it_and_a_killed_one_goes(tmp_path: Path) -> None:
    left = run(tmp_path, 1)
    gone = subprocess.Popen(["true"])
    gone.wait()
    for name, pid, age_s in (("pytest-1", gone.pid, 7200), ("pytest-2", gone.pid, 60), ("pytest-3", os.getpid(), 7200)):
        (left / name).mkdir()
        (left / name / ".lock").write_text(str(pid))
        os.utime(left / name / ".lock", (time.time() - age_s,) * 2)
    run(tmp_path, 1)
    assert {path.name for path in left.glob("pytest-*") if not path.is_symlink()} == {"pytest-2", "pytest-3", "pytest-4"}
    assert {path.name for path in (left / "pytest-4").iterdir()} >= {"world0", "kept0"}
