"""Random weights by seed: the same checkpoint each time, exported with a card that says what they are."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from helpers.command_line import NANO, World, ran, refused
from helpers.specs import config_path
from uniad.training.checkpoint import is_random

MAKE = "tools/make_random_weights.py"


def made(out: Path, *words: object) -> dict:
    code, output, err = ran(MAKE, *words, "--out", out)
    assert code == 0 and "random weights" in output, err
    return torch.load(out, weights_only=True)


def test_a_seed_gives_the_same_weights_and_another_one_others(anchors: Path, tmp_path: Path):
    stage2 = (config_path("nano", 2), "--cfg-options", f"anchor_root={anchors}/")
    one, same = (made(tmp_path / name, *stage2) for name in ("a.pth", "b.pth"))
    other = made(tmp_path / "a.pth", *stage2, "--seed", 3)  # over random weights it may write
    states = [content["state_dict"] for content in (one, same, other)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])
    assert is_random(one) and one["meta"]["uniad"]["variant"] == "nano" and one["meta"]["uniad"]["stage"] == 2


def test_trained_weights_are_not_written_over(nano_checkpoint: Path):
    before = nano_checkpoint.read_bytes()
    assert "holds weights that are not random, and stays" in refused(MAKE, NANO, "--out", nano_checkpoint)
    assert nano_checkpoint.read_bytes() == before


def test_their_export_says_what_they_are(world: World, tmp_path: Path):
    made(tmp_path / "random.pth", NANO)
    options = ("--cfg-options", *world.data_options())
    onnx = tmp_path / "uniad_nano_track_map_dummy.onnx"
    words = ("tools/export_onnx.py", NANO, tmp_path / "random.pth", "--out", onnx, "--frames", 2, *options)
    code, output, err = ran(*words)
    assert code == 0 and "random weights, which say nothing of a scene" in output, err
    (card,) = tmp_path.glob("*.json")
    assert json.loads(card.read_text())["weights"] == "random"
