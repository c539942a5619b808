"""The small tools that make leans on: where torch comes from, what the demo says at its end."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from helpers import REPO

sys.path[:0] = [str(REPO / "tools"), str(REPO / "mk/lib")]
import demo_summary  # noqa: E402
import setup_env  # noqa: E402


class Pip:
    """Stands for pip's dry run."""

    def __init__(self, version: str):
        self.stdout = json.dumps({"install": [{"metadata": {"version": version}}]}) if version else ""


@pytest.mark.parametrize("version, reachable, expected", [
    ("2.13.0+cpu", True, []),  # pip's own index has it
    ("2.13.0", True, ["--extra-index-url", setup_env.CPU_INDEX]),
    ("2.13.0", False, []),  # an index that cannot be reached must not break the installation
    ("", True, ["--extra-index-url", setup_env.CPU_INDEX]),  # an old pip without --report
])  # fmt: skip
def test_a_machine_without_a_gpu_gets_the_small_torch_where_it_can(monkeypatch, version, reachable, expected):
    monkeypatch.setattr(setup_env.machine, "gpus", lambda: [])
    monkeypatch.setattr(setup_env.subprocess, "run", lambda *a, **k: Pip(version))
    monkeypatch.setattr(setup_env, "reachable", lambda url: reachable)
    monkeypatch.setattr(setup_env.sys, "platform", "linux")
    assert setup_env.torch_source(Path("python"), "torch==2.13.0", "") == expected


def test_the_place_that_was_named_wins():
    assert setup_env.torch_source(Path("python"), "torch==2.13.0", "https://x") == ["--extra-index-url", "https://x"]


def test_pins_come_from_pyproject():
    assert setup_env.pinned((REPO / "pyproject.toml").read_text(), "torch").startswith("torch==")
    with pytest.raises(setup_env.Refused, match="pins no flask"):
        setup_env.pinned("", "flask")


def test_an_interpreter_that_cannot_hold_the_pins_is_refused(monkeypatch, tmp_path: Path):
    monkeypatch.setattr(setup_env.sys, "version_info", (3, 14, 0))
    with pytest.raises(setup_env.Refused, match="3.10, 3.11 or 3.12"):
        setup_env.make(tmp_path / "venv", "")
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize("found, continued, words", [
    (0.0, None, "hardly learnt"), (0.2, None, "and so are its scores"), (None, None, "and so are its scores"),
    (0.8, "weights/x.pth", "The model is weights/x.pth"),
])  # fmt: skip
def test_a_model_that_has_hardly_learnt_is_not_shown_as_one_that_works(found, continued, words):
    results = {"detection": {"AP": {"car": {"2.0": found}}}}
    assert words in demo_summary.verdict(results, continued)


def test_the_environment_is_not_compiled_whole_and_a_world_needs_pinned_packages_alone(monkeypatch, tmp_path: Path):
    asked = []
    monkeypatch.setattr(setup_env.subprocess, "run", lambda command, **k: asked.append(command) or Pip(""))
    monkeypatch.setattr(Pip, "returncode", 0, raising=False)
    monkeypatch.setattr(setup_env, "torch_source", lambda *a: pytest.fail("torch is not for a world"))
    assert setup_env.make(tmp_path / "venv", "", "world")
    installed = asked[-1]
    assert "--no-compile" in installed and "nuscenes-devkit==1.2.0" in installed
    assert not any("torch" in word for word in installed)
    assert not (tmp_path / "venv/installed.sha256").exists(), "the rest is still to come"


@pytest.mark.parametrize("continued, output", [
    ([], ["loss 12.50 -> 9.25 on the same 2 clips, lower on 1 of them (forecasts, plan)", "This training was a glimpse"]),
    (["--continued", "weights/x.pth"], ["The model is weights/x.pth", "FROM_SCRATCH=1 starts from nothing"]),
])  # fmt: skip
def test_the_demo_ends_with_what_was_made_and_what_to_type_next(monkeypatch, capsys, tmp_path: Path, continued, output):
    results = tmp_path / "results.json"
    content = {
        "detection": {"NDS": 0.1, "mAP": 0.05, "AP": {"car": {"2.0": 0.2}}},
        "tracking": {"amota": None},
        "occupancy": {"areas": ["8x8", "25x25"], "model": {"occ_iou_25x25": 0.4}},
        "motion": {"model": {"car/min_ade_mean": 1.5}},
        "planning": {"model": {"L2_3s": 2.25}, "constant_velocity": {"L2_3s": 4.5}},
    }
    results.write_text(json.dumps(content))
    held = tmp_path / "held.json"
    rows = [{"each": each} for each in ([20.0, 5.0], [12.5, 6.0])]
    held.write_text(json.dumps({"clips": 2, "learnt": ["motion", "planning"], "checkpoints": rows}))
    report = tmp_path / "verify.json"
    row = {"backend": "onnxruntime", "ok": True, "frames": 10, "tracks": 473, "worst": {"boxes_m": 2e-5, "plan_m": 3e-6}}
    report.write_text(json.dumps([row]))
    paths = {name: str(tmp_path / name) for name in ("data", "infos", "checkpoint", "onnx", "engine", "picture", "video")}
    paths |= {"results": str(results), "report": str(report), "held": str(held)}
    flags = [f"--{k}={v}" for k, v in paths.items()]
    monkeypatch.setattr(sys, "argv", ["demo_summary", "--variant", "nano", *flags, *continued])
    demo_summary.main()
    text = capsys.readouterr().out
    for words in (
        "cars found within 2 m (AP)            0.20", "onnxruntime agrees over 10 frames, 473 tracks", "minADE 1.500",
        "plan 3e-06 m", "occupancy IoU 0.400", "2.25 m   constant velocity 4.50 m", *output,
        "make train", "make help", paths["picture"], paths["video"],
    ):  # fmt: skip
        assert words in text
