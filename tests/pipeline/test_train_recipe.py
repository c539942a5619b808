"""A recipe from nothing to an end-to-end checkpoint on a CPU: one world, two steps a phase, and the same command again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from helpers import REPO

pytestmark = pytest.mark.slow
RECIPE = """
configs = {1: "projects/configs/stage1_track_map/nano_track_map.py", 2: "projects/configs/stage2_e2e/nano_e2e.py"}
worlds = dict(scenes=2, frames=6)
clips = 2
phases = [
    dict(name="first", stage=1, seeds=[11], frames=1, steps=2, lr=8e-4),
    dict(name="towns", stage=1, seeds=[11], frames=2, steps=2, lr=8e-4, dense_bev=True),
    dict(name="heads", stage=2, seeds=[11], frames=2, steps=2, lr=8e-4),
    dict(name="wheel", stage=2, seeds=[], learner=[12], frames=2, steps=HEADS, lr=8e-4),
]
"""


def run(folder: Path, *words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "tools/train_recipe.py", folder / "small.py", "--work-dir", folder / "work", "--packs", folder / "packs",
         "--device", "cpu", "--jobs", "1", "--out", folder / "model.pth", "--cfg-options", "anchor_root=weights/nano/", *words],
        cwd=REPO, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    folder = tmp_path_factory.mktemp("recipe")
    (folder / "small.py").write_text(RECIPE.replace("HEADS", "2"))
    result = run(folder)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder, result


def test_phases_continue_each_other_and_end_in_an_end_to_end_checkpoint(trained) -> None:
    folder, result = trained
    log = result.stderr
    assert "from scratch: no weights are loaded" in log and log.count("from scratch") == 1, "the first phase alone"
    assert f"{folder}/work/first/iter_2.pth: 460 loaded" in log and f"{folder}/work/towns/iter_2.pth: 460 loaded" in log
    content = torch.load(folder / "model.pth", weights_only=True)
    assert content["meta"]["iter"] == 2 and any(key.startswith("planning_head.") for key in content["state_dict"])
    made = {str(p.relative_to(folder / "packs" / "2x6")) for p in (folder / "packs" / "2x6").rglob("*.pt")}
    assert "11.pt" in made and len(made) == 2, "the worlds themselves are gone again"
    (learner,) = made - {"11.pt"}
    assert learner.startswith("learner.2/") and learner.endswith("/12.pt"), "of the model that has the wheel there"
    assert "without" not in result.stdout and "days" in result.stdout, "a CPU takes long, and it is said before"


def test_the_same_command_again_trains_nothing_and_a_changed_phase_alone_is_trained_anew(trained) -> None:
    folder, _ = trained
    again = run(folder)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("done before") == 4 and "making" not in again.stdout and "step" not in again.stderr
    (folder / "small.py").write_text(RECIPE.replace("HEADS", "3"))
    longer = run(folder)
    assert longer.returncode == 0, longer.stderr
    assert longer.stdout.count("done before") == 3 and "it was set aside as" in longer.stdout
    assert torch.load(folder / "model.pth", weights_only=True)["meta"]["iter"] == 3


@pytest.mark.parametrize("words, output", [
    (["--gpus", "3"], "do not divide among so many processes"), (["--stage", "2"], "name that checkpoint with --load-from"),
    (["--device", "cuda"], "finds no GPU here"),
])  # fmt: skip
def test_what_cannot_be_is_one_line(trained, words, output, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # so that no GPU is there
    result = run(trained[0], *words)
    assert result.returncode == 2 and output in result.stderr and result.stderr.count("\n") == 1, result.stderr
