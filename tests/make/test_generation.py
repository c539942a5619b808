"""make says what it takes a checkpoint for, and how to say otherwise."""

from __future__ import annotations

import pytest

from helpers.make_tree import Tree
from helpers.published import of_bench2drive, stand_in

ON_NUSCENES = ["DATASET=nuscenes"]


def test_a_published_file_gets_its_variant_stage_and_conventions(tree: Tree):
    stand_in(tree.root / "uniad_base_e2e.pth")
    stand_in(tree.root / "uniad_base_track_map.pth", 1, v2=True)
    shown = tree.done("-n", "eval", "CKPT=uniad_base_e2e.pth", *ON_NUSCENES)
    assert "uniad_base_e2e.pth: taken for UniAD v1, stage 2 (by its keys:" in shown
    assert "if it is of UniAD v2.0: GENERATION=uniad-v2" in shown and "native.compat=uniad-v1" in shown
    assert "stage2_e2e/uniad_base_e2e.py" in shown
    shown = tree.done("-n", "eval", "CKPT=uniad_base_track_map.pth", *ON_NUSCENES)
    assert "taken for UniAD v2.0, stage 1" in shown and "native.compat=uniad-v2" in shown and "_track_map.py" in shown


def test_whoever_says_what_it_is_is_heard_unless_that_cannot_be(tree: Tree):
    stand_in(tree.root / "uniad_base_e2e.pth")
    shown = tree.done("-n", "eval", "CKPT=uniad_base_e2e.pth", "GENERATION=uniad-v2", *ON_NUSCENES)
    assert "taken for UniAD v2.0, as you say (UniAD v1 by its keys" in shown and "native.compat=uniad-v2" in shown
    stand_in(tree.root / "b2d.pth", change=of_bench2drive)
    refused = tree.make("-n", "eval", "CKPT=b2d.pth", "GENERATION=uniad-v1", *ON_NUSCENES)
    assert refused.returncode and "b2d.pth is of Bench2DriveZoo's UniAD (by its shapes: 9 object classes" in refused.stderr
    refused = tree.make("-n", "eval", "CKPT=uniad_base_e2e.pth", "GENERATION=bench2drive", *ON_NUSCENES)
    assert refused.returncode and "uniad_base_e2e.pth has 10 object classes where Bench2Drive's has 9" in refused.stderr
    refused = tree.make("-n", "eval", "GENERATION=v2", *ON_NUSCENES)
    assert refused.returncode and "GENERATION=v2 is unknown: choose uniad-v1, uniad-v2, bench2drive" in refused.stderr


@pytest.mark.parametrize("words", [["GENERATION=uniad-v2"], ["CONVENTION=uniad-v2"]])
def test_made_worlds_have_infos_of_either_convention_beside_each_other(tree: Tree, words: list[str]):
    shown = tree.done("-n", "data", "DATASET=synthetic", *words)
    assert "--out-dir 'data/synthetic/infos_uniad-v2'" in shown and "--convention uniad-v2" in shown
    shown = tree.done("-n", "anchors", "DATASET=synthetic", *words)
    assert "others_uniad-v2" in shown and "native.compat=uniad-v2" in shown
    assert "infos_uniad-v2" not in tree.done("-n", "data", "DATASET=synthetic")


def test_stage_0_is_trained_on_its_own_and_stage_1_starts_from_it(tree: Tree):
    alone = tree.done("-n", "train-stage0", "VARIANT=nano", "DATASET=synthetic", "MAX_ITERS=3")
    assert "bevformer/nano_bevformer.py" in alone and "ckpts/nano_bevformer.pth" in alone and "stage1_track_map" not in alone
    both = tree.done("-n", "train-stage1", "VARIANT=nano", "DATASET=synthetic", "STAGE0=1", "MAX_ITERS=3")
    assert both.index("nano_bevformer.py") < both.index("nano_track_map.py") and "load_from=ckpts/nano_bevformer.pth" in both
    assert "bevformer/nano" not in tree.done("-n", "train-stage1", "VARIANT=nano", "DATASET=synthetic", "MAX_ITERS=3")
    shown = tree.done("-n", "train-stage0", "VARIANT=tiny", *ON_NUSCENES)
    assert "ckpts/resnet50-0676ba61.pth" in shown and "--from-scratch" not in shown
