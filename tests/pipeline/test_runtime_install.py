"""`pip install uniad[runtime]` in a fresh environment runs an exported graph, far from the repository, with the same numbers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

from helpers import REPO, runtime_elsewhere
from helpers.command_line import World, ran
from helpers.stage2_work import Work
from uniad.artifacts.card import read_card, spec_of
from uniad.deploy.sources import DatasetFrames

pytestmark = [pytest.mark.slow, pytest.mark.long]
NOT_INSTALLED = ("torch", "scipy", "pandas", "nuscenes", "matplotlib", "onnx")


def ended(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A command where nothing tells of the repository, which the tests' own environment does."""
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run([str(word) for word in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=900)


def elsewhere(*command: object, cwd: Path) -> str:
    done = ended(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_a_fresh_environment_with_the_runtime_alone_says_the_same(world: World, tmp_path: Path):
    work = Work(tmp_path, world)
    graph = tmp_path / "uniad_nano_cp.onnx"
    code, _, err = ran(*work.export(graph, "--frames", 1))
    assert code == 0, err
    away = tmp_path / "away"
    away.mkdir()
    for source in (graph, Path(f"{graph}.json"), REPO / "tests" / "helpers" / "runtime_elsewhere.py"):
        shutil.copy(source, away)
    spec = spec_of(read_card(graph))
    frames = [record.sensors for record in DatasetFrames(spec.data).scene("0", 3)]
    runtime_elsewhere.save_sensors(away / "sensors.npz", frames)

    source = tmp_path / "source"  # building writes beside the sources
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy(REPO / name, source)
    for folder in ("projects/uniad", "tools"):
        shutil.copytree(REPO / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    elsewhere(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", away, source, cwd=tmp_path)
    (wheel,) = away.glob("uniad-*.whl")
    venv.create(away / "drive", with_pip=True)
    python = away / "drive" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-cache-dir", "--no-compile"]
    elsewhere(*install, f"uniad[runtime] @ {wheel.as_uri()}", cwd=away)  # 0.5 GB as it is, most of it casadi
    for name in NOT_INSTALLED:
        assert elsewhere(python, "-c", f"import importlib.util as u; print(u.find_spec({name!r}))", cwd=away).strip() == "None"

    where = elsewhere(python, "runtime_elsewhere.py", away / graph.name, "sensors.npz", "out.npz", cwd=away)
    assert Path(where.strip()).is_relative_to(away / "drive")
    here = runtime_elsewhere.results_of(str(graph), frames)
    with np.load(away / "out.npz") as there:
        assert set(there.files) == set(here)
        for name, value in here.items():
            np.testing.assert_array_equal(there[name], value, err_msg=name)
    # its command lines came along; what training needs did not
    assert "usage: convert_precision.py" in elsewhere(away / "drive/bin/uniad", "convert-precision", "--help", cwd=away)
    output = ended(away / "drive/bin/uniad", "eval", "x.py", "y.pth", cwd=away)
    lacking = "this needs the package torch, which is not installed: pip install 'uniad[train]'"
    assert output.returncode == 2 and output.stderr == f"error: {lacking}\n"
