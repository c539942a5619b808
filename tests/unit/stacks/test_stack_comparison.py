"""The comparison of both stacks says what is missing, and finds what differs."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from helpers import REPO

SCRIPT = REPO / "tests/stacks/compare_stacks.py"
sys.path.insert(0, str(SCRIPT.parent))

import compare_stacks as compare  # noqa: E402


def run(*words):
    done = subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True, cwd=REPO)
    return done.returncode, done.stdout.strip()


def test_without_the_upstream_environment_it_is_skipped_with_the_reason():
    code, output = run()
    assert code == 77 and output.startswith("skipped: ") and "UPSTREAM_PYTHON=" in output


def test_a_tree_without_our_patch_is_named(tmp_path):
    code, output = run("--python", sys.executable, "--tree", tmp_path)
    assert code == 77 and str(tmp_path) in output and "make overlay" in output


@pytest.mark.parametrize("python", ["/nowhere/python3", sys.executable])
def test_an_interpreter_that_cannot_run_the_upstream_half_is_named(tmp_path, python):
    (tmp_path / "projects/mmdet3d_plugin/uniad_compat").mkdir(parents=True)
    code, output = run("--python", python, "--tree", tmp_path)
    assert code == 77 and output.startswith(f"skipped: {python}") and len(output.splitlines()) == 1


def test_both_halves_get_what_the_caller_named_although_they_run_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "out/upstream").mkdir(parents=True)
    (tmp_path / "out/upstream/of_other_code").touch()
    monkeypatch.chdir(tmp_path)
    words = ["--python", "bin/python", "--tree", "tree", "--out", "out", "--weights", "w.pth", "--parts", "evaluate"]
    monkeypatch.setattr(sys, "argv", ["compare_stacks.py", *words])
    seen = []
    monkeypatch.setattr(compare, "why_not", lambda python, tree: "")
    monkeypatch.setattr(compare, "prepare", lambda out: None)
    monkeypatch.setattr(compare, "upstream", lambda *words: seen.append(words))
    monkeypatch.setattr(compare, "compare_evaluation", lambda *words: [])
    assert compare.main() == 0
    config = tmp_path / "tree" / compare.CONFIG
    assert seen == [(str(tmp_path / "bin/python"), tmp_path / "tree", "evaluate", config, tmp_path / "w.pth", [])]
    assert not (tmp_path / "out/upstream").exists()


def test_every_exception_has_a_reason():
    assert all(reason for reason in compare.NOT_NATIVE.values())
    assert all(reason for _, reason in {**compare.ALLOWED, **compare.CELLS}.values())


def test_differences_are_found():
    wanted = np.zeros((7, 50, 50), np.int64)
    assert compare.difference("gt_inds/#", wanted, wanted) == 0
    assert compare.difference("gt_inds/#", wanted + 1, wanted) == 1
    assert compare.difference("gt_inds/#", wanted[:6], wanted) == np.inf
    assert compare.difference("scene_token", np.asarray("a"), np.asarray("b")) == np.inf
    other = wanted.copy()
    other[0, 0, 0] = 55
    assert compare.difference("gt_instance", other, wanted) == pytest.approx(1 / wanted.size)


def test_metrics_of_both_stacks_are_paired_by_name():
    errors = {f"{kind}_err": 1.0 for kind in ("trans", "scale", "orient", "vel", "attr")}
    native = {
        "detection": {"NDS": 0.1, "mAP": 0.2, "errors": errors, "AP": {}},
        "tracking": {"amota": 0.0},
        "map": {"lanes_iou": None},
    }
    prefix = "pts_bbox_NuScenes/"
    theirs = {prefix + "NDS": 0.1, prefix + "mAP": 0.25, prefix + "amota": 0.0, "lanes_iou": float("nan")}
    theirs |= {prefix + name: 1.0 for name in ("mATE", "mASE", "mAOE", "mAVE", "mAAE")}
    lines = compare.compare_metrics(native, {"metrics": theirs, "motion": []})
    assert [line.name for line in lines if not line.agrees] == ["detection: mAP"]
    assert len(lines) == 9
