"""make verify and make compare-sampling: which graphs they make, and how a fault is looked for."""

from __future__ import annotations

import os
import time

import pytest

from helpers import REPO
from helpers.make_tree import Tree, bring_sources


def test_both_ways_of_sampling_are_exported_beside_the_deployed_graph_and_compared_once(tree: Tree):
    tree.done("export", "VARIANT=nano")
    tree.calls()
    tree.done("compare-sampling", "VARIANT=nano")
    exports, compared = tree.calls()[:2], "onnx/uniad_nano_cp"
    assert [line.rsplit("[", 1)[1] for line in exports] == ["gridsample]", "gather]"]
    assert all(f"[{compared}.{way}.onnx]" in line for way, line in zip(("gridsample", "gather"), exports))
    assert (tree.root / f"{compared}.sampling.json").exists()
    tree.done("compare-sampling", "VARIANT=nano")
    assert tree.tools() == [], "nothing is done twice"
    tree.done("compare-sampling", "VARIANT=nano", "EXPORT_FRAMES=3")
    assert tree.tools() == ["export_onnx", "export_onnx", "compare_sampling"]


@pytest.mark.parametrize("package, again", [("verify", True), ("backends", True), ("viz", False)])
def test_verification_is_done_again_after_a_change_of_what_verifies(tree: Tree, package: str, again: bool):
    bring_sources(tree).done("verify", "VARIANT=nano")
    changed = tree.root / "projects/uniad" / package / "changed.py"
    changed.parent.mkdir(exist_ok=True)
    changed.write_text("")
    os.utime(changed, (time.time() + 5,) * 2)
    assert ("tools/verify.py" in tree.done("-n", "verify", "VARIANT=nano")) == again


@pytest.mark.parametrize("value, words", [("", None), ("1", "[--locate] [always]"), ("0", "[--locate] [never]")])
def test_whether_a_fault_is_located_can_be_said(tree: Tree, value: str, words: str | None):
    tree.done("verify", "VARIANT=nano", f"LOCATE={value}")
    (line,) = (line for line in tree.calls() if line.startswith("tools/verify.py"))
    assert words in line if words else "--locate" not in line


def test_other_weights_are_put_into_what_is_there_where_that_is_asked_for(tree: Tree):
    """What would be exported and built again is refitted, and nothing else is."""
    settings = ("VARIANT=nano", "ENGINE_BACKEND=tensorrt", "ENGINE_REFITTABLE=1")
    tree.done("engine", *settings)
    assert all("[--refit]" not in line for line in tree.calls())
    tree.done("engine", *settings, "REFIT=1")
    assert tree.tools() == [], "the same weights"
    checkpoint = next((tree.root / "ckpts").glob("*_e2e*.pth"))
    os.utime(checkpoint, (time.time() + 5,) * 2)
    tree.done("engine", *settings, "REFIT=1")
    exported, built = tree.calls()
    assert exported.startswith("tools/export_onnx.py") and exported.endswith("[--refit]")
    assert built.startswith("tools/build_engine.py") and built.endswith("[--refittable] [--refit]")


def test_a_wrong_choice_is_one_line(tree: Tree):
    result = tree.make("verify", "LOCATE=maybe")
    assert result.returncode != 0 and "LOCATE=maybe is unknown: choose 0, 1" in result.stderr


# The packages whose change makes a product out of date, at least; none of these hangs on how a picture is drawn
MADE_BY = {
    "onnx/uniad_nano_cp.onnx": {"models", "ops", "export", "interface", "config"},
    "onnx/uniad_nano_cp.gather.onnx": {"models", "ops", "export", "interface", "config"},
    "onnx/uniad_nano_cp.onnx.verify.json": {"verify", "backends", "artifacts", "postprocess", "interface"},
    "onnx/uniad_nano_cp.sampling.json": {"verify", "backends", "artifacts", "postprocess", "interface"},
    "onnx/uniad_nano_cp_fp16.onnx": {"precision", "verify"},
    "onnx/uniad_nano_cp_int8.onnx": {"precision", "precision/int8", "verify"},
    "onnx/uniad_nano_cp_int8.onnx.metrics.json": {"evaluation", "backends", "postprocess"},
    "engines/uniad_nano_cp.fp32.tensorrt_rtx.engine": {"engines"},
}
FOLLOWS = {
    "onnx/uniad_nano_cp.onnx.verify.json": ["onnx/uniad_nano_cp.onnx"],
    "onnx/uniad_nano_cp.sampling.json": ["onnx/uniad_nano_cp.gridsample.onnx", "onnx/uniad_nano_cp.gather.onnx"],
    "onnx/uniad_nano_cp_fp16.onnx": ["onnx/uniad_nano_cp.onnx"],
    "onnx/uniad_nano_cp_int8.onnx": ["onnx/uniad_nano_cp.onnx"],
    "engines/uniad_nano_cp.fp32.tensorrt_rtx.engine": ["onnx/uniad_nano_cp.onnx"],
}


def test_what_a_change_of_code_concerns_is_done_again(tree: Tree):
    """As make itself understands its rules."""
    bring_sources(tree)
    source = REPO / "projects/uniad"
    packages = {str(path.parent.relative_to(source)) for path in source.rglob("*.py")} - {"."}
    for package in packages:
        (tree.root / "projects/uniad" / package / "some.py").touch()
    rules: dict[str, list[str]] = {}
    for line in tree.make("-pn", *MADE_BY, "VARIANT=nano").stdout.splitlines():
        product, colon, needs = line.partition(": ")
        if colon and product in MADE_BY:
            rules[product] = needs.partition(" | ")[0].split()
    assert set(rules) == set(MADE_BY)
    for product, needs in rules.items():
        concerned = {package for package in packages if f"projects/uniad/{package}/some.py" in needs}
        assert concerned >= MADE_BY[product] and "viz" not in concerned, product
        assert set(needs) >= set(FOLLOWS.get(product, ())), product
