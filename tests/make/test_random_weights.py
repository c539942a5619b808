"""RANDOM_WEIGHTS=1: an ONNX and a TensorRT engine without any training, never in the place of a trained one."""

from __future__ import annotations

import pytest

from helpers.make_tree import Tree

HERE = ("DATASET=synthetic", "STACK=native", "RUNTIME=host", "GPUS=0")


@pytest.mark.parametrize("variant, stage, onnx", [
    ("tiny", "2", "uniad_tiny_dummy"),  # upstream's name
    ("full", "2", "uniad_full_dummy"),
    ("tiny", "1", "uniad_tiny_track_map_dummy"),
])  # fmt: skip
def test_nothing_is_trained_and_the_names_are_its_own(tree: Tree, variant: str, stage: str, onnx: str):
    text = tree.done("-n", "export", "verify", "engine", f"VARIANT={variant}", f"STAGE={stage}", "RANDOM_WEIGHTS=1", *HERE)
    assert "tools/train.py" not in text and "preflight" not in text and "fetch_weights" not in text
    assert f"--out onnx/{onnx}.onnx" in text and f"--out engines/{onnx}.fp32.tensorrt_rtx.engine" in text
    order = ["make_synthetic_nuscenes", "create_data", *(["make_motion_anchors", "make_random_weights"] if stage == "2" else [])]
    found = [text.index(f"tools/{name}.py") for name in [*order, "export_onnx", "verify", "build_engine"]]
    assert found == sorted(found)


def test_what_was_trained_or_brought_stays(tree: Tree):
    before = {"ckpts/nano_e2e.pth": "mine", "ckpts/nano_e2e_ep20.pth": "mine", "onnx/uniad_nano_cp.onnx": "trained"}
    for name, text in before.items():
        (tree.root / name).parent.mkdir(exist_ok=True)
        (tree.root / name).write_text(text)
    tree.done("export", "VARIANT=nano", "RANDOM_WEIGHTS=1", *HERE)
    assert {name: (tree.root / name).read_text() for name in before} == before
    assert (tree.root / "onnx/uniad_nano_dummy.onnx").is_file()
    tree.calls()
    tree.done("export", "VARIANT=nano", "RANDOM_WEIGHTS=1", *HERE)
    assert tree.calls() == []
    tree.done("export", "VARIANT=nano", "RANDOM_WEIGHTS=1", "SEED=1", *HERE)
    assert tree.tools() == ["make_random_weights", "export_onnx"], "another seed, other weights"


@pytest.mark.parametrize("words, hint", [
    (("export", "CKPT=mine.pth"), "both say which weights"),
    (("train",), "neither trained nor scored"),
    (("eval",), "neither trained nor scored"),
])  # fmt: skip
def test_what_contradicts_it_is_refused(tree: Tree, words: tuple[str, ...], hint: str):
    (tree.root / "mine.pth").touch()
    done = tree.make(*words, "RANDOM_WEIGHTS=1", "VARIANT=nano", *HERE)
    assert done.returncode != 0 and hint in done.stderr and tree.calls() == []
