"""From an exported graph to its fp16 one: what overflows, or costs accuracy, keeps fp32 by measurement; the rest is converted."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from helpers.command_line import ran, refused
from uniad.artifacts import sequence as recorded
from uniad.artifacts.card import card_path, read_card, sequence_path, write_card
from uniad.backends.rounding import tensor_types
from uniad.errors import UserError
from uniad.precision.fp16 import position_nodes, prepare
from uniad.precision.half import convert
from uniad.precision.ranges import record_peaks
from uniad.precision.search import measure
from uniad.precision.write import converted_name, write_converted
from uniad.verify.run import contract_of, verify_engine

HARMLESS, LOSSY, TOO_LARGE = "seg_head", "planning_head", "occ_head"


def spoil(toy: Path, path: Path) -> Path:
    """The toy with three layers between what is seen and the boxes, each of which adds up to nothing: doubled and halved; moved
    by 4096, where a half counts in steps of 4; and made larger than a half can be."""
    shutil.copy(sequence_path(toy), sequence_path(path))
    model = onnx.load(toy)
    (boxes,) = (n for n in model.graph.node if n.output[0] == "boxes")
    boxes.input[1] = "through"
    steps = [
        (HARMLESS, "Mul", 2.0), (HARMLESS, "Mul", 0.5), (LOSSY, "Add", 4096.0), (LOSSY, "Sub", 4096.0),
        (TOO_LARGE, "Mul", 1e6), (TOO_LARGE, "Mul", 1e-6),
    ]  # fmt: skip
    at, source = list(model.graph.node).index(boxes), "moved"
    for i, (layer, op, value) in enumerate(steps):
        out = "through" if i == len(steps) - 1 else f"step_{i}"
        model.graph.initializer.append(numpy_helper.from_array(np.float32(value), f"value_{i}"))
        model.graph.node.insert(at + i, helper.make_node(op, [source, f"value_{i}"], [out], name=f"{layer}/{op}_{i}"))
        source = out
    onnx.save(model, str(path))
    write_card(path, read_card(toy))
    return path


@pytest.fixture(scope="module")
def spoilt(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spoil(toy, tmp_path_factory.mktemp("spoilt") / "nano.onnx")


@pytest.fixture(scope="module")
def card(spoilt: Path) -> dict:
    return write_converted(spoilt, converted_name(spoilt), say=lambda line: None, threads=1)


def test_what_overflows_and_what_loses_accuracy_stays_in_fp32_and_the_rest_does_not(card: dict) -> None:
    account = card["lowering"]
    assert list(account["kept_for_accuracy"]) == [LOSSY]
    assert card["precision_of_groups"][HARMLESS] == "fp16" and card["precision_of_groups"]["img_neck"] == "fp16"
    assert {card["precision_of_groups"][g] for g in (LOSSY, TOO_LARGE, "glue")} == {"fp32"}
    assert account["kept"]["range"] == 2 and account["kept"]["accuracy"] == 2
    assert not any(name.startswith((HARMLESS, "img_neck")) for name in account["fp32_nodes"])


def test_the_card_says_what_each_kept_layer_would_do_and_what_was_made_of_what(card: dict, spoilt: Path) -> None:
    account, limits = card["lowering"], card["lowering"]["tolerance"]
    why = account["kept_for_accuracy"][LOSSY]
    assert why["boxes_m"] > limits["boxes_m"] > account["effect"]["boxes_m"] and "boxes differs" in why["fault"]
    assert limits["boxes_m"] < account["all_lowered"]["boxes_m"]
    assert account["source_sha256"] == read_card(spoilt)["sha256"] and account["source"] == spoilt.name
    written = read_card(converted_name(spoilt))
    assert written["precision"] == "fp16" and written["contract"] == read_card(spoilt)["contract"]


def test_without_the_kept_layer_the_graph_is_wrong(card: dict, spoilt: Path) -> None:
    """So the choice is no accident of its order."""
    described, contract = contract_of(spoilt)
    sequence = recorded.load(sequence_path(spoilt), contract)
    model = prepare(onnx.load(spoilt))
    kept = set(card["lowering"]["fp32_nodes"])
    assert measure(convert(model, kept), contract, sequence, "fp16", threads=1).ok
    bold = {name for name in kept if not name.startswith(LOSSY)}
    assert "boxes differs" in measure(convert(model, bold), contract, sequence, "fp16", threads=1).fault
    bolder = {name for name in kept if not name.startswith(TOO_LARGE)}
    assert "non-finite" in measure(convert(model, bolder), contract, sequence, "fp16", threads=1).fault


def test_ranges_are_those_of_the_recorded_frames(spoilt: Path) -> None:
    described, contract = contract_of(spoilt)
    sequence = recorded.load(sequence_path(spoilt), contract)
    peaks = record_peaks(onnx.load(spoilt), contract, sequence, threads=1)
    assert peaks["img"] == max(float(np.abs(feed["img"]).max()) for feed in sequence.feeds)
    assert peaks["step_4"] == pytest.approx(1e6 * peaks["step_3"], rel=1e-5)
    assert peaks["step_3"] == pytest.approx(peaks["moved"], abs=1e-3)


def test_the_converted_graph_verifies_by_its_own_card(card: dict, spoilt: Path) -> None:
    report = verify_engine(converted_name(spoilt), None, "onnxruntime", "fp16")
    assert report.ok and report.tracks > 0
    assert report.worst["boxes_m"] == pytest.approx(card["lowering"]["effect"]["boxes_m"])
    assert report.worst["boxes_m"] > 1e-5, "halves were rounded"


def test_the_command_writes_graph_card_and_sequence_and_refuses_in_one_line(spoilt: Path, tmp_path: Path) -> None:
    for file in spoilt.parent.glob("nano.*"):
        shutil.copy(file, tmp_path)
    source = tmp_path / "nano.onnx"
    code, printed, err = ran("tools/convert_precision.py", source, "--threads", 1)
    assert code == 0 and f"kept in fp32 for accuracy: {LOSSY}" in printed, printed + err
    made = {"nano_fp16.onnx", "nano_fp16.onnx.json", "nano_fp16.sequence.npz"}
    assert made <= set(os.listdir(tmp_path)) and not any(".partial" in name for name in os.listdir(tmp_path))
    assert "has halves already" in refused("tools/convert_precision.py", tmp_path / "nano_fp16.onnx")
    assert "is the graph to convert" in refused("tools/convert_precision.py", source, "--out", source)
    sequence_path(source).unlink()
    assert "no recorded sequence" in refused("tools/convert_precision.py", source, "--out", tmp_path / "other.onnx")
    source.write_bytes(source.read_bytes() + b"\0")
    assert "digest differs" in refused("tools/convert_precision.py", source, "--out", tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()


def test_a_graph_that_was_wrong_before_is_refused_and_nothing_is_written(spoilt: Path, tmp_path: Path) -> None:
    path = tmp_path / "nano.onnx"
    for source, copy in ((spoilt, path), (sequence_path(spoilt), sequence_path(path)), (card_path(spoilt), card_path(path))):
        shutil.copy(source, copy)
    arrays = dict(np.load(sequence_path(path)))
    arrays["f1/out/boxes"] = arrays["f1/out/boxes"] + np.float32(0.5)
    np.savez_compressed(sequence_path(path), **arrays)
    with pytest.raises(UserError, match="even with all of them in fp32.*make verify"):
        write_converted(path, converted_name(path), say=lambda line: None, threads=1)
    assert not converted_name(path).exists()


def test_positions_are_computed_in_float_up_to_the_sample() -> None:
    """Where to look is found back to the product that made it; what was found there is no position."""
    value = helper.make_tensor_value_info

    def node(op: str, source: list[str], out: str, **attributes: object) -> onnx.NodeProto:
        return helper.make_node(op, source, [out], name=f"img_neck/{op}_{out}", **attributes)

    constants = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in (("w", (2, 2)), ("c", ()))]
    nodes = [
        node("MatMul", ["query", "w"], "offsets"),
        node("Add", ["reference", "offsets"], "places"),
        node("Mul", ["places", "c"], "grid"),
        node("Relu", ["img"], "features"),
        node("GridSample", ["features", "grid"], "seen"),
        node("Floor", ["places"], "cell"),
        node("Sub", ["places", "cell"], "share"),
        node("Cast", ["cell"], "index", to=TensorProto.INT64),
        node("Mul", ["seen", "c"], "y"),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes, "g",
            [value("img", TensorProto.FLOAT, [1, 3, 8, 8]), value("query", TensorProto.FLOAT, [1, 4, 4, 2]),
             value("reference", TensorProto.FLOAT, [1, 4, 4, 2])],
            [value("y", TensorProto.FLOAT, [1, 3, 4, 4]), value("share", TensorProto.FLOAT, [1, 4, 4, 2]),
             value("index", TensorProto.INT64, [1, 4, 4, 2])],
            constants,
        ),
        opset_imports=[helper.make_opsetid("", 17)], ir_version=8,
    )  # fmt: skip
    found = position_nodes(model, tensor_types(model))
    assert found == {"img_neck/Add_places", "img_neck/Mul_grid", "img_neck/Floor_cell", "img_neck/Sub_share"}
    converted = convert(model, found)
    onnx.checker.check_model(converted, full_check=True)
    kinds = {n.output[0]: n for n in converted.graph.node}
    (sample,) = (n for n in converted.graph.node if n.op_type == "GridSample")
    assert kinds[sample.input[1]].op_type == "Cast" and kinds[sample.input[1]].input[0] == "grid", "rounded once, at the end"
