"""Fixtures that every test may use. Golden data is optional: a test that needs it is skipped where it is absent."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from helpers import REPO
from helpers.recorded import golden_dir
from helpers.shared import shared

pytest_plugins = ["helpers.room"]

# Who starts the tests in the background (`make test &`, some CI) hands down an ignored Ctrl-C, and every child would ignore it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Whoever manages Pythons by shims (pyenv) pays a tenth of a second for each `python3`, and the tests of make start thousands.
BASE = Path(sys.base_prefix) / "bin"
if (BASE / "python3").exists():
    os.environ["PATH"] = f"{BASE}{os.pathsep}{os.environ['PATH']}"

# Tests share two cores; a library that starts a thread per core makes every test slower, not faster.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session")
def golden() -> Path:
    """Path of the golden data; skips the test where it is absent (set UNIAD_GOLDEN to its folder)."""
    path = golden_dir()
    if path is None:
        pytest.skip("golden data absent: set UNIAD_GOLDEN to the folder that holds weight_rule.py")
    return path


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def synthetic_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny synthetic data set (v1.0-trainval, one scene each for training and validation, 6 frames): read, never written."""
    from uniad.data.synthetic.generate import generate
    from uniad.data.synthetic.params import WorldParams

    params = WorldParams(train_scenes=1, val_scenes=1, frames=6, lidar_columns=180)
    return shared(tmp_path_factory, "synthetic", lambda folder: generate(params, folder / "world")) / "world"


@pytest.fixture(scope="session")
def synthetic_infos(synthetic_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the info files of that data set: read, never written."""
    from uniad.data.infos import create_infos

    return shared(tmp_path_factory, "infos", lambda folder: create_infos(synthetic_root, folder, workers=1, progress=False))
