"""fp32 and fp16 engines of an exported step, compiled on this machine without a GPU for the GPUs that are named.

Two frames: weights that know nothing push small differences apart, by half from frame to frame (docs/export.md).
"""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from helpers.nano_pipeline import export, one_line_error, run
from uniad.backends.rounding import tensor_types
from uniad.export.groups import UNGROUPED, layer_groups

pytestmark = [pytest.mark.slow, pytest.mark.long]
TARGETS = ["8.6", "8.9"]


@pytest.fixture(scope="module")
def graphs(work: Path) -> dict[str, Path]:  # noqa: F811
    """The exported step, and what tools/convert_precision.py makes of it."""
    source = work / "precision" / "nano.onnx"
    result = export(work, source, "--frames", 2)
    assert result.returncode == 0, result.stderr
    result = run("convert_precision.py", source, "--threads", 1)
    assert result.returncode == 0, result.stderr
    return {"fp32": source, "fp16": source.with_name("nano_fp16.onnx")}


def card_of(path: Path) -> dict:
    return json.loads(Path(f"{path}.json").read_text())


def test_every_node_of_an_export_belongs_to_one_layer_of_the_model(graphs: dict[str, Path]) -> None:
    graph = onnx.load(graphs["fp32"])
    groups = layer_groups(graph)
    names = [name for members in groups.values() for name in members]
    assert sorted(names) == sorted(n.name for n in graph.graph.node)
    assert {"img_backbone.stem", "img_backbone.layer1", "img_neck", "pts_bbox_head.transformer.encoder.layers.0",
            "pts_bbox_head.transformer.decoder.layers.2", "query_interact", "memory_bank",
            "seg_head.things_mask_head", UNGROUPED} <= set(groups)  # fmt: skip
    # The step's own arithmetic is a small part, or the names were lost on the way.
    assert len(groups[UNGROUPED]) < 0.4 * len(names)


def test_the_fp16_graph_holds_its_tolerance_and_has_no_cast_of_a_cast(graphs: dict[str, Path]) -> None:
    card, graph = card_of(graphs["fp16"]), onnx.load(graphs["fp16"])
    assert card["precision_of_groups"][UNGROUPED] == "fp32" and card["precision_of_groups"]["img_backbone.layer2"] == "fp16"
    types = tensor_types(graph)
    half = sum(types[n.output[0]] == onnx.TensorProto.FLOAT16 for n in graph.graph.node if n.op_type != "Cast")
    floats = sum(types[n.output[0]] == onnx.TensorProto.FLOAT for n in graph.graph.node if n.op_type != "Cast")
    assert half > floats, "most of it is in half"
    made = {n.output[0]: n for n in graph.graph.node}
    kinds = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16}
    between = [n for n in graph.graph.node if n.op_type == "Cast" and {types[n.input[0]], types[n.output[0]]} == kinds]
    assert not any(n.input[0] in made and made[n.input[0]].op_type == "Cast" for n in between)
    sources = [n.input[0] for n in between]
    assert len(sources) == len(set(sources)), "a tensor is cast once"
    result = run("verify.py", graphs["fp16"], "--backend", "onnxruntime", "--precision", "fp16")
    assert result.returncode == 0, result.stdout + result.stderr
    (report,) = json.loads(Path(f"{graphs['fp16']}.verify.json").read_text())
    assert report["tracks"] > 0 and 0 < report["worst"]["boxes_m"] <= 0.1


def test_engines_of_both_precisions_are_compiled_ahead_for_the_gpus_that_are_named(graphs: dict[str, Path]) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: make env installs it")
    cards = {}
    for precision, source in graphs.items():
        engine = source.with_suffix(".engine")
        result = run("build_engine.py", source, "--out", engine, "--precision", precision, "--compute-capabilities",
                     ",".join(TARGETS), "--no-canary")  # fmt: skip
        assert result.returncode == 0, result.stderr
        cards[precision] = card_of(engine)
    for precision, card in cards.items():
        source = card_of(graphs[precision])
        assert card["precision"] == precision and card["compute_capabilities"] == TARGETS and card["typing"] == "strong"
        assert card["onnx_sha256"] == source["sha256"] and card["contract"] == source["contract"]
        assert card["precision_of_groups"].keys() == card_of(graphs["fp16"])["precision_of_groups"].keys()
    assert set(cards["fp32"]["precision_of_groups"].values()) == {"fp32"}
    assert cards["fp16"]["precision_of_groups"] == card_of(graphs["fp16"])["precision_of_groups"]
    assert cards["fp16"]["bytes"] < 0.9 * cards["fp32"]["bytes"], "weights are halved, kernels are not"


def test_an_engine_is_not_called_fp16_without_halves(graphs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "bad" / "x.engine"
    assert "has no halves" in one_line_error(run("build_engine.py", graphs["fp32"], "--out", out, "--precision", "fp16"))
    assert "is in fp16" in one_line_error(run("build_engine.py", graphs["fp16"], "--out", out))
    assert not out.parent.exists()
