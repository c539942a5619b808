"""What no supported parser takes is a fault of the graph, by its name; what all of them take is none."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from uniad.export.audit import FORBIDDEN, audit

FLOAT = TensorProto.FLOAT


def graph(*nodes: onnx.NodeProto, opset: int = 17, shape: tuple = (1, 6000), k: int = 10) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, FLOAT, dims) for name, dims in (("x", shape), ("y", (1, 10))))
    made = helper.make_graph(list(nodes), "g", [x], [y], [numpy_helper.from_array(np.asarray([k], np.int64), "k")])
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("mine", 1)])


def node(op: str, *given: str, **more: object) -> onnx.NodeProto:
    return helper.make_node(op, given or ("x",), ["y"], **more)


@pytest.mark.parametrize(
    "op",
    [
        "NonZero", "Unique", "Compress", "NonMaxSuppression", "If", "Loop", "Scan", "DeformConv", "CumSum", "Einsum", "GatherND",
        "ScatterND", "ScatterElements", "CastLike", "Det", "AffineGrid", "RandomNormal", "RandomUniform", "Bernoulli", "Dropout",
    ],
)  # fmt: skip
def test_operators_that_some_target_cannot_run_are_refused(op):
    (fault,) = audit(graph(node(op)))
    assert FORBIDDEN[op] in fault and op in fault


@pytest.mark.parametrize("opset, fine", [(15, False), (16, True), (19, True), (20, False)])
def test_opsets_that_every_target_reads(opset, fine):
    assert (audit(graph(node("Identity"), opset=opset)) == []) == fine


@pytest.mark.parametrize("k, fine", [(10, True), (3839, True), (3840, False)])
def test_how_many_of_the_best_tensorrt_finds(k, fine):
    assert (audit(graph(node("TopK", "x", "k"), k=k)) == []) == fine
    spelled = helper.make_node("Constant", [], ["n"], value=numpy_helper.from_array(np.asarray([k], np.int64)))
    assert (audit(graph(spelled, node("TopK", "x", "n"))) == []) == fine


def test_how_many_must_be_known_before_it_runs():
    assert any("computed at run time" in fault for fault in audit(graph(node("TopK", "x", "made"))))


@pytest.mark.parametrize(
    "mode, fine", [("bilinear", True), ("nearest", True), ("bicubic", True), ("linear", False), ("cubic", False)]
)
def test_the_spelling_of_a_mode_that_older_parsers_misread(mode, fine):
    assert (audit(graph(node("GridSample", "x", "x", mode=mode), opset=19)) == []) == fine


def test_plugins_are_refused_but_the_stock_one_where_it_was_asked_for():
    stock, other = (node(op, domain="mine") for op in ("MultiscaleDeformableAttnPlugin_TRT", "Other"))
    assert audit(graph(stock), allow_plugin=True) == []
    assert audit(graph(stock)) and audit(graph(other), allow_plugin=True)


def test_double_numbers_and_open_shapes_are_refused():
    model = graph(node("Identity"))
    model.graph.value_info.append(helper.make_tensor_value_info("d", TensorProto.DOUBLE, [1]))
    assert any("float64" in fault for fault in audit(model))
    assert any("input 'x' has a dynamic shape" in fault for fault in audit(graph(node("Identity"), shape=(1, "n"))))
    assert any("input 'x' has a dynamic shape" in fault for fault in audit(graph(node("Identity"), shape=(1, None))))


def port(*shape: int, dtype: str = "float32") -> SimpleNamespace:
    return SimpleNamespace(shape=shape, dtype=dtype)


@pytest.mark.parametrize(
    "inputs, outputs, faults",
    [
        ({"x": port(1, 6000)}, {"y": port(1, 10)}, 0),
        ({"x": port(1, 5000)}, {"y": port(1, 10)}, 1),
        ({"x": port(1, 6000, dtype="int32")}, {"y": port(1, 10)}, 1),
        ({"x": port(1, 6000)}, {"y": port(1, 10), "z": port(1)}, 1),
        ({}, {"y": port(1, 10)}, 1),
        ({"y": port(1, 10)}, {"x": port(1, 6000)}, 4),
    ],
)
def test_inputs_and_outputs_are_those_of_the_contract_in_shape_and_type(inputs, outputs, faults):
    contract = SimpleNamespace(input_ports=lambda: inputs, output_ports=lambda: outputs)
    assert len(audit(graph(node("Identity")), contract)) == faults
