"""make quantize, and engines of its graph: what is made of what, and when again."""

from __future__ import annotations

import pytest

from helpers.make_tree import Tree

INT8 = "onnx/uniad_nano_cp_int8.onnx"


def test_the_int8_graph_is_made_of_the_fp32_one_scored_beside_it_and_only_once(tree: Tree):
    tree.done("export", "VARIANT=nano")
    tree.calls()
    tree.done("quantize", "VARIANT=nano")
    made, scored = tree.calls()
    assert made.startswith(f"tools/quantize.py [onnx/uniad_nano_cp.onnx] [--out] [{INT8}]")
    assert scored == f"tools/compare_precision.py [onnx/uniad_nano_cp.onnx] [{INT8}] [--out] [{INT8}.metrics.json]"
    tree.done("quantize", "VARIANT=nano")
    assert tree.tools() == []
    assert "tools/" not in tree.done("-n", "quantize", "VARIANT=nano")


def test_a_bare_tree_comes_to_an_int8_graph_by_one_command(tree: Tree):
    tree.done("quantize", "VARIANT=nano")
    assert tree.tools()[-3:] == ["export_onnx", "quantize", "compare_precision"]


def test_an_int8_engine_is_built_of_the_int8_graph_without_scoring_it_and_rebuilt_when_that_changes(tree: Tree):
    tree.done("export", "VARIANT=nano")
    tree.calls()
    tree.done("engine", "VARIANT=nano", "PRECISION=int8")
    quantised, built = tree.calls()
    assert quantised.startswith("tools/quantize.py") and f"[{INT8}]" in built and "[--precision] [int8]" in built
    tree.done("engine", "VARIANT=nano", "PRECISION=int8")
    assert tree.tools() == []
    tree.done("engine", "VARIANT=nano", "PRECISION=int8", "CALIB_SCENES=8")
    assert tree.tools() == ["quantize", "build_engine"]
    tree.done("engine", "VARIANT=nano", "PRECISION=fp32")
    assert tree.tools() == ["build_engine"], "fp32 has a graph and an engine of its own"


def test_what_is_asked_of_the_calibration_reaches_it(tree: Tree):
    words = ("CALIB_SCENES=8", "CALIB_FRAMES=40", "CALIB_METHOD=entropy", "KEEP_FP32=img_neck planning_head")
    tree.done("quantize", "VARIANT=nano", *words)
    (line,) = (line for line in tree.calls() if line.startswith("tools/quantize.py"))
    assert line.endswith("[--scenes] [8] [--frames] [40] [--method] [entropy] [--keep] [img_neck] [planning_head]")


def test_stage_1_has_an_int8_graph_of_its_own_name(tree: Tree):
    tree.done("quantize", "VARIANT=nano", "STAGE=1")
    assert (tree.root / "onnx/uniad_nano_track_map_int8.onnx.metrics.json").is_file()


@pytest.mark.parametrize("word, output", [
    ("CALIB_SCENES=few", "CALIB_SCENES=few is no whole number"),
    ("CALIB_METHOD=mean", "CALIB_METHOD=mean is unknown: choose auto, percentile, entropy, minmax"),
])  # fmt: skip
def test_a_wrong_value_is_one_line(tree: Tree, word: str, output: str):
    result = tree.make("quantize", word)
    assert result.returncode != 0 and output in result.stderr


def test_a_failed_quantisation_leaves_no_graph_and_is_done_again(tree: Tree):
    result = tree.make("quantize", "VARIANT=nano", FAIL="quantize", LEAVE=INT8)
    assert result.returncode != 0 and not (tree.root / INT8).exists()
    tree.calls()
    tree.done("quantize", "VARIANT=nano")
    assert tree.tools() == ["quantize", "compare_precision"]
