"""make says what it takes a checkpoint for, and how to say otherwise."""

from __future__ import annotations

from pathlib import Path

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


# variant, what it starts from, and what that adds to the words
WHOLE = {
    "base from its own stage 0": ("base", "STAGE0=1", ["uniad_base_bevformer", "uniad_base_track_map", "uniad_base_e2e"]),
    "base from BEVFormer's file": ("base", "FROM_SCRATCH=0", ["uniad_base_track_map", "uniad_base_e2e"]),
    "tiny of Bench2Drive from theirs": ("b2d-tiny", "FROM_SCRATCH=0", ["b2d-tiny_track_map", "b2d-tiny_e2e"]),
    "base of Bench2Drive from nothing": ("b2d-base", "FROM_SCRATCH=1", ["b2d-base_track_map", "b2d-base_e2e"]),
}
STARTS = {"base": "ckpts/bevformer_r101_dcn_24ep.pth", "b2d-tiny": "ckpts/bevformer_tiny_b2d.pth"}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_training_goes_from_stage_to_stage_and_is_kept(tree: Tree, name: str):
    variant, start, stages = WHOLE[name]
    words = ["train", f"VARIANT={variant}", "DATASET=synthetic", "MAX_ITERS=2", start]
    if start == "FROM_SCRATCH=0":
        given = tree.root / STARTS[variant]
        given.parent.mkdir(exist_ok=True)
        given.write_text("brought")
    tree.done(*words)
    calls = [line.split() for line in tree.calls()]
    trainings = [" ".join(line) for line in calls if line[0] == "tools/train.py"]
    assert [Path(line.split()[1].strip("[]")).stem for line in trainings] == stages
    assert ["[--from-scratch]" in line for line in trainings] == [start != "FROM_SCRATCH=0", *[False] * (len(stages) - 1)]
    # anchors are made between the stages, of the world that is learnt
    tools = [line[0] for line in calls]
    assert tools[-2:] == ["tools/make_motion_anchors.py", "tools/train.py"]
    for before, line in zip(stages, trainings[1:]):
        assert f"ckpts/{before}.pth" in line or before.endswith("track_map")  # the config of stage 2 names stage 1's place itself
    for stage in stages:
        assert (tree.root / f"ckpts/{stage}.pth").exists()
    assert (tree.root / f"ckpts/{stages[-1]}_ep20.pth").exists()
    tree.done(*words)
    assert not [line for line in tree.calls() if "train.py" in line]
