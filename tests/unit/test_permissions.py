"""Files that belong to somebody else, tried by a user to whom permissions are something: to root they are not.

What cannot be read may be whole, so nobody is told to delete it or to make it again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers import REPO

CONFIG = "projects/configs/stage2_e2e/nano_e2e.py"
TO_BLAME = ("damaged", "truncated", "not complete", "no log", "delete", "again")
MINE = pytest.mark.skipif(shutil.which("setpriv") is None and os.getuid() == 0, reason="setpriv of util-linux is not there")


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that anybody may enter; pytest's own are closed to others."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def as_a_user(*words: object) -> subprocess.CompletedProcess[str]:
    """A command by somebody who is not root: nobody where these tests are root's."""
    other = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"] if os.getuid() == 0 else []
    # make's PYTHON is a path that another user may not follow
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHON"}
    env = {**inherited, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/nonexistent", "MPLCONFIGDIR": "/tmp", "OMP_NUM_THREADS": "1"}
    return subprocess.run([*other, *map(str, words)], cwd=REPO, env=env, capture_output=True, text=True, timeout=120)


def line_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
    return done.stderr.strip().splitlines()[-1]


READERS = {
    "read_checkpoint": ("uniad.training.checkpoint", "a.pth"),
    "read_summary": ("uniad.deploy.records", "summary.json"),
    "read_frame": ("uniad.deploy.records", "0000.json"),
    "_read": ("uniad.viz.curves", "train.jsonl"),
    "load_config": ("uniad.config.file", "a.py"),
    "read_card": ("uniad.artifacts.card", "a.onnx.json"),
    "read_pack": ("uniad.data.image_pack", "a.pack"),
    "read_topics": ("uniad.formats.topics", "t.json"),
    "read_calibration": ("uniad.formats.topics", "rig.json"),
    "load": ("uniad.data.unpickle", "infos.pkl"),
    "Bag": ("uniad.ros.bag", "a.mcap"),
}


@MINE
@pytest.mark.parametrize("name", READERS)
def test_a_file_that_may_not_be_read_is_not_said_to_be_damaged(place: Path, name: str) -> None:
    module, file = READERS[name]
    (place / file).write_text("{}")
    (place / file).chmod(0)
    (place / "a.onnx").write_text("")
    what = {"read_summary": place, "read_card": place / "a.onnx"}.get(name, place / file)
    more = ", ['car']" if name == "read_frame" else ""
    code = f"import sys, pathlib; from uniad.errors import run_cli; from {module} import {name}\n"
    code += f"run_cli(lambda: {name}(pathlib.Path(sys.argv[1]){more}))"
    line = line_of(as_a_user(sys.executable, "-c", code, what))
    assert file in line and "permission denied" in line.lower(), line
    assert not any(word in line for word in TO_BLAME), line


@MINE
@pytest.mark.parametrize("words", [
    ("tools/train.py", CONFIG, "--device", "cpu", "--work-dir"),
    ("tools/test.py", CONFIG, "{model}", "--out"),
    ("tools/export_onnx.py", CONFIG, "{model}", "--out"),
    ("tools/make_bag.py", CONFIG, "--out"),
    ("tools/drive.py", "{model}", "--config", CONFIG, "--backend", "torch", "--device", "cpu", "--routes", "1", "--out"),
    ("tools/infer.py", "{model}", "--config", CONFIG, "--scene", "0", "--out"),
], ids=lambda words: Path(words[0]).stem)  # fmt: skip
def test_a_place_of_somebody_else_is_told_before_the_work_begins(place: Path, words: tuple[str, ...]) -> None:
    (place / "closed").mkdir()
    (place / "closed").chmod(0o555)
    name = "run.mcap" if "bag" in words[0] else "run.onnx" if "export" in words[0] else "run"
    model = REPO / "weights/nano/nano_e2e.pth"
    done = as_a_user(sys.executable, *(word.format(model=model) for word in words), place / "closed" / name)
    line = line_of(done)
    assert str(place / "closed") in line and "cannot be written (Permission denied)" in line, line
    assert list((place / "closed").iterdir()) == []
