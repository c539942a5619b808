"""Our programs as a person starts them, and what they have to be pointed at."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from helpers import REPO
from helpers.forked import run_forked
from helpers.specs import config_path

ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPO / "projects"), "PYTHON": sys.executable}
NANO = config_path("nano")


def start(*command: object, **more: Any) -> subprocess.Popen:
    """One of our programs as a process to watch and to send signals to. Whose end alone counts is quicker ``ran``."""
    words = [str(word) for word in command]
    if words[0].endswith(".py"):
        words.insert(0, sys.executable)
    return subprocess.Popen(words, env=ENV, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)


def ran(*command: object) -> tuple[int, str, str]:
    """Exit status, output and messages of one of our programs."""
    words = [str(word) for word in command]
    if words[0].endswith(".py"):
        done = run_forked(words, REPO, ENV)
    else:
        done = subprocess.run(words, env=ENV, cwd=REPO, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def tool(name: str) -> ModuleType:
    """A program of tools/ as a module, to be called in this process."""
    spec = importlib.util.spec_from_file_location(f"tools_{name}", REPO / f"tools/{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def refused(*command: object) -> str:
    """Runs a command that must fail, and returns the one line that says why."""
    code, out, err = ran(*command)
    output = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(output) == 1, (code, out, err)
    assert "Traceback" not in err and "Traceback" not in out, err
    return output[0]


class World:
    """A data set, its info files, and the arguments that point a program at them."""

    def __init__(self, root: Path, infos: Path):
        self.root, self.infos = root, infos

    def train(self, work_dir: Path, *more: object) -> tuple[object, ...]:
        return (
            "tools/train.py", NANO, "--from-scratch", "--data-root", self.root, "--info-root", self.infos, "--work-dir", work_dir,
            "--samples-per-gpu", 1, "--workers", 0, "--device", "cpu", "--no-tensorboard", *more,
        )  # fmt: skip

    def data_options(self) -> tuple[str, ...]:
        """For tools/test.py, which takes the data set from the config alone."""
        folder = f"{self.infos}/nuscenes_infos_temporal"
        return (
            f"data.val.data_root={self.root}", f"data.val.ann_file={folder}_val.pkl",
            f"data.train.data_root={self.root}", f"data.train.ann_file={folder}_train.pkl",
            f"data.test.data_root={self.root}", f"data.test.ann_file={folder}_val.pkl", "data.workers_per_gpu=0",
        )  # fmt: skip


def create_data(*args: str | Path) -> subprocess.CompletedProcess[str]:
    return run_forked(["tools/create_data.py", *map(str, args)], REPO, ENV)
