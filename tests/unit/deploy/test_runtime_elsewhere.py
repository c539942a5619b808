"""The runtime on a car: any folder, no repository, no PyTorch; what it says is what the full environment says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers import REPO, runtime_elsewhere
from uniad.deploy.runtime import Runtime
from uniad.deploy.sources import DatasetFrames
from uniad.errors import UserError


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder with the package alone, and the program that drives it."""
    shutil.copytree(REPO / "projects" / "uniad", tmp_path / "package" / "uniad", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPO / "tests" / "helpers" / "runtime_elsewhere.py", tmp_path)
    return tmp_path


@pytest.fixture
def car(onnx: Path, package: Path) -> Path:
    """What a person carries to a car: the package, the graph and its card."""
    for source in (onnx, Path(f"{onnx}.json")):
        shutil.copy(source, package)
    return package


def python(car: Path, *words: object) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(car / "package"), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([sys.executable, *map(str, words)], cwd=car, env=env, capture_output=True, text=True, timeout=300)


def rewrite_card(onnx: Path, **changes: object) -> None:
    path = Path(f"{onnx}.json")
    card = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in card.items() if value is not None}))


@pytest.mark.slow
def test_it_says_the_same_without_repository_and_training_packages(car: Path, spec) -> None:
    graph = car / "uniad_nano_cp.onnx"
    rewrite_card(graph, config="projects/configs/no/such.py")  # relative to a repository that is not there
    frames = [record.sensors for record in DatasetFrames(spec.data).scene("0", 3)]
    runtime_elsewhere.save_sensors(car / "sensors.npz", frames)
    done = python(car, "runtime_elsewhere.py", graph, "sensors.npz", "out.npz", "--blocked")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(car / "package" / "uniad" / "__init__.py")
    here = runtime_elsewhere.results_of(str(graph), frames)
    with np.load(car / "out.npz") as there:
        assert set(there.files) == set(here) and any(len(here[f"{n}/tracks/ids"]) for n in range(3))
        for name, value in here.items():
            np.testing.assert_array_equal(there[name], value, err_msg=name)


def test_what_a_car_imports_needs_no_training_package(package: Path) -> None:
    """Of every module on the way, also those that only engines and trtexec take."""
    modules = (
        "deploy.runtime", "deploy.sensors", "postprocess.result", "postprocess.collision", "backends.cuda",
        "backends.trtexec_runner", "verify.run", "jetson.ondevice",
    )  # fmt: skip
    code = "import sys, runtime_elsewhere; sys.meta_path.insert(0, runtime_elsewhere.Blocker)\n"
    code += "".join(f"import uniad.{name}\n" for name in modules) + "import uniad.cli"
    done = python(package, "-c", code)
    assert done.returncode == 0, done.stderr


def test_running_a_checkpoint_without_pytorch_is_one_line(car: Path) -> None:
    code = (
        "import sys, runtime_elsewhere; sys.meta_path.insert(0, runtime_elsewhere.Blocker)\n"
        "from uniad.errors import run_cli\nfrom uniad.deploy.runtime import Runtime\n"
        "run_cli(lambda: Runtime.open('uniad_nano_cp.onnx', backend='torch'))"
    )
    done = python(car, "-c", code)
    assert done.returncode == 2 and "takes PyTorch, which is not installed here" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1


def test_cards_of_before_find_their_config_in_the_repository(car: Path, nano, monkeypatch) -> None:
    graph = car / "uniad_nano_cp.onnx"
    monkeypatch.chdir(car)
    rewrite_card(graph, config_values=None, config=str(Path(nano.config).relative_to(REPO)))
    with Runtime.open(graph) as runtime:
        assert runtime.spec.model.track.score_thresh == 0.38, "with the options that the card names"
    rewrite_card(graph, config="projects/configs/no/such.py")
    with pytest.raises(UserError, match="of an earlier version, needs its config .*such.py, which is not here: name it"):
        Runtime.open(graph)


def test_options_change_what_the_card_says(car: Path, monkeypatch) -> None:
    graph = car / "uniad_nano_cp.onnx"
    monkeypatch.chdir(car)
    rewrite_card(graph, config="projects/configs/no/such.py")
    with Runtime.open(graph, options=["model.planning_head.use_col_optim=False"]) as runtime:
        assert not runtime.spec.model.stage2.plan.use_col_optim
    with pytest.raises(UserError, match="data_root=x/ need its config"):
        Runtime.open(graph, options=["data_root=x/"])  # other values follow from it
