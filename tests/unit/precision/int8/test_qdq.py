"""Q/DQ nodes: where they stand, what they hold, and what they leave alone."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from uniad.backends.onnxruntime import OrtRunner
from uniad.errors import UserError
from uniad.export.groups import layer_groups
from uniad.precision.int8 import candidates
from uniad.precision.int8.candidates import check_groups, find_layers, groups_of
from uniad.precision.int8.qdq import LEVELS, channel_scales, insert_qdq, without_int8_convolutions

RNG = np.random.default_rng(0)
WEIGHTS = {
    "kernel": RNG.normal(size=(6, 4, 3, 3)).astype(np.float32),
    "bias": RNG.normal(size=6).astype(np.float32),
    "linear": RNG.normal(size=(6, 5)).astype(np.float32),
    "gemm": RNG.normal(size=(7, 5)).astype(np.float32),
}


@pytest.fixture(autouse=True)
def small_layers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "SMALLEST", 1)


@pytest.fixture
def graph() -> onnx.ModelProto:
    """A convolution, a residual that reads the same tensor, two layers that read one tensor, a product of two activations."""
    nodes = [
        helper.make_node("Conv", ["x", "kernel", "bias"], ["c"], pads=[1, 1, 1, 1], name="img_backbone.layer1.0/Conv_0"),
        helper.make_node("Transpose", ["c"], ["t"], perm=[0, 2, 3, 1], name="glue/Transpose_1"),
        helper.make_node("Reshape", ["t", "rows"], ["r"], name="glue/Reshape_2"),
        helper.make_node("MatMul", ["r", "linear"], ["m"], name="planning_head.reg_branch.0/MatMul_3"),
        helper.make_node("Relu", ["r"], ["same"], name="img_neck/Relu_4"),
        helper.make_node("Gemm", ["m", "gemm"], ["g"], transB=1, name="occ_head/Gemm_5"),
        helper.make_node("Gemm", ["m", "gemm"], ["g2"], transB=1, name="motion_head/Gemm_6"),
        helper.make_node("Transpose", ["g2"], ["gt"], perm=[1, 0], name="motion_head/Transpose_7"),
        helper.make_node("MatMul", ["g", "gt"], ["y"], name="motion_head/MatMul_8"),
    ]
    shape = {"x": [2, 4, 3, 3], "y": [18, 18], "same": [18, 6]}
    values = {n: helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shape.items()}
    initializers = [numpy_helper.from_array(v, n) for n, v in WEIGHTS.items()]
    initializers.append(numpy_helper.from_array(np.array([18, 6]), "rows"))
    made = helper.make_graph(nodes, "g", [values["x"]], [values["y"], values["same"]], initializers)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model)


LIMITS = {"x": 4.0, "r": 30.0, "m": 100.0}


def source(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {out: node for node in model.graph.node for out in node.output}


def constant(model: onnx.ModelProto, name: str) -> np.ndarray:
    return numpy_helper.to_array(next(i for i in model.graph.initializer if i.name == name))


def run(model: onnx.ModelProto, x: np.ndarray) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # as OrtRunner does
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]).run(None, {"x": x})


def test_only_layers_with_weights_of_their_own_are_candidates(graph: onnx.ModelProto) -> None:
    layers = find_layers(graph)
    assert [(layer.op, layer.group, layer.axis) for layer in layers] == [
        ("Conv", "img_backbone.layer1", 0),
        ("MatMul", "planning_head", 1),
        ("Gemm", "occ_head", 0),
        ("Gemm", "motion_head", 0),
    ]
    assert [layer.macs for layer in layers] == [2 * 6 * 9 * 4 * 9, 18 * 5 * 6, 18 * 7 * 5, 18 * 7 * 5]


def test_layers_too_small_to_pay_are_left_out(graph: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidates, "SMALLEST", 631)
    assert [layer.op for layer in find_layers(graph)] == ["Conv"]


def test_both_operands_are_symmetric_int8_and_weights_have_a_scale_an_output_channel(graph: onnx.ModelProto) -> None:
    made = insert_qdq(graph, find_layers(graph), LIMITS)
    onnx.checker.check_model(made, full_check=True)
    makers = source(made)
    for node in made.graph.node:
        if node.op_type not in ("Conv", "Gemm") and node.name != "planning_head.reg_branch.0/MatMul_3":
            continue
        for operand in (0, 1):
            back = makers[node.input[operand]]
            there = makers[back.input[0]]
            assert (there.op_type, back.op_type) == ("QuantizeLinear", "DequantizeLinear")
            assert list(there.input[1:]) == list(back.input[1:])
            zero = constant(made, there.input[2])
            assert zero.dtype == np.int8 and not zero.any()
            axis = next((a.i for a in there.attribute if a.name == "axis"), None)
            scale = constant(made, there.input[1])
            if operand == 0:
                assert axis is None and scale.shape == ()
                assert scale == np.float32(LIMITS[there.input[0]] / LEVELS)
            else:
                weight = WEIGHTS[there.input[0]]
                np.testing.assert_array_equal(scale, channel_scales(weight, axis))
                assert scale.shape == ({"Conv": 6, "MatMul": 5, "Gemm": 7}[node.op_type],)


def test_biases_and_whatever_is_no_candidate_stay_as_they_are(graph: onnx.ModelProto) -> None:
    made = {n.name: n for n in insert_qdq(graph, find_layers(graph), LIMITS).graph.node}
    assert made["img_backbone.layer1.0/Conv_0"].input[2] == "bias"
    for name in ("img_neck/Relu_4", "motion_head/MatMul_8"):
        assert made[name] == next(n for n in graph.graph.node if n.name == name)


def test_an_excluded_group_reads_what_it_read_although_a_neighbour_reads_it_rounded(graph: onnx.ModelProto) -> None:
    layers = [layer for layer in find_layers(graph) if layer.group != "motion_head"]
    made = {n.name: n for n in insert_qdq(graph, layers, LIMITS).graph.node}
    assert list(made["motion_head/Gemm_6"].input) == ["m", "gemm"]
    assert list(made["occ_head/Gemm_5"].input) != ["m", "gemm"]


def test_layers_that_share_a_tensor_share_its_nodes(graph: onnx.ModelProto) -> None:
    made = insert_qdq(graph, find_layers(graph), LIMITS)
    assert [n.op_type for n in made.graph.node].count("QuantizeLinear") == 3 + 3  # x, r, m; kernel, linear, gemm


def test_the_new_nodes_belong_to_the_layer_that_reads_them(graph: onnx.ModelProto) -> None:
    groups = layer_groups(insert_qdq(graph, find_layers(graph), LIMITS))
    assert sum("uantizeLinear" in name for name in groups["img_backbone.layer1"]) == 2 * 2
    assert not any("uantizeLinear" in name for name in groups["glue"])


def test_the_result_is_near_and_without_layers_the_same(graph: onnx.ModelProto) -> None:
    x = RNG.normal(size=(2, 4, 3, 3)).astype(np.float32)
    want = run(graph, x)
    limits = {"x": np.abs(x).max(), "r": np.abs(want[1]).max() * 2, "m": 60.0}
    near = run(insert_qdq(graph, find_layers(graph), limits), x)
    assert 0 < np.abs(near[0] - want[0]).max() / np.abs(want[0]).max() < 0.05
    for got, expected in zip(run(insert_qdq(graph, [], {}), x), want):
        np.testing.assert_array_equal(got, expected)


def test_a_tensor_or_channel_of_zeros_gets_a_scale_that_is_none(graph: onnx.ModelProto) -> None:
    assert channel_scales(np.array([[0, 0], [254, 1]], np.float32), 0).tolist() == [1.0, 2.0]
    made = insert_qdq(graph, find_layers(graph), {**LIMITS, "x": 0.0})
    assert all(np.isfinite(value).all() for value in run(made, np.zeros((2, 4, 3, 3), np.float32)))


@pytest.mark.parametrize("limit", [0.0, 1e-45, 1e-40])
def test_a_scale_is_never_zero_nor_too_small_to_divide_by(graph: onnx.ModelProto, limit: float) -> None:
    """Of a tensor that was zero in all frames, or next to it; a device flushes smaller numbers to zero."""
    made = insert_qdq(graph, find_layers(graph), {**LIMITS, "x": limit})
    tiny = np.finfo(np.float32).tiny
    assert constant(made, "x/scale") >= tiny and constant(made, "r/scale") == np.float32(LIMITS["r"] / LEVELS)
    assert channel_scales(np.float32([[limit, -limit], [0, 127]]), 0).tolist() == [1, 1]
    x = RNG.normal(size=(2, 4, 3, 3)).astype(np.float32)
    assert np.isfinite(run(made, x)[0]).all(), "where something comes that calibration never saw"


def test_the_runner_computes_pairs_in_floats_as_a_device_rounds_them(graph: onnx.ModelProto) -> None:
    """onnxruntime's own integer kernels saturate on some processors."""
    made = insert_qdq(graph, find_layers(graph), LIMITS)
    contract = SimpleNamespace(input_names=["x"], output_names=["y", "same"], initial_state=dict)
    with OrtRunner(contract, made, threads=1) as runner:
        options = runner.session.get_session_options()
        assert options.get_session_config_entry("session.disable_quant_qdq") == "1" and options.intra_op_num_threads == 1
        x = RNG.normal(size=(2, 4, 3, 3)).astype(np.float32)
        for name, want in zip(contract.output_names, run(made, x)):
            np.testing.assert_array_equal(runner._infer({"x": x})[name], want)


def test_convolutions_can_be_given_back_what_they_read_and_matrix_products_stay(graph: onnx.ModelProto) -> None:
    made = insert_qdq(graph, find_layers(graph), LIMITS)
    plain = without_int8_convolutions(made)
    onnx.checker.check_model(plain, full_check=True)
    found = {n.name: n for n in plain.graph.node}
    assert list(found["img_backbone.layer1.0/Conv_0"].input) == ["x", "kernel", "bias"]
    assert found["occ_head/Gemm_5"] == next(n for n in made.graph.node if n.name == "occ_head/Gemm_5")
    assert [n.op_type for n in plain.graph.node].count("QuantizeLinear") == 2 + 2
    assert [n.op_type for n in made.graph.node].count("QuantizeLinear") == 3 + 3, "the graph itself is left alone"


def test_tensorrt_rtx_builds_the_rest_in_int8_and_says_so(graph: onnx.ModelProto, tmp_path) -> None:
    pytest.importorskip("tensorrt_rtx")
    from uniad.engines.base import BuildOptions
    from uniad.engines.tensorrt import PythonBackend

    onnx.save(insert_qdq(graph, find_layers(graph), LIMITS), str(tmp_path / "g.onnx"))
    shapes = {"x": [2, 4, 3, 3], "y": [18, 18], "same": [18, 6]}
    x, *outputs = ({"name": name, "shape": shape, "dtype": "float32"} for name, shape in shapes.items())
    ports = {"inputs": [x], "outputs": outputs}
    built = PythonBackend("tensorrt_rtx").build(
        tmp_path / "g.onnx", {"contract": ports}, tmp_path / "e", BuildOptions(precision="int8", compute_capabilities=("8.9",))
    )
    assert (tmp_path / "e").stat().st_size and built.typing == "strong"
    assert "convolutions compute in fp32" in built.notes[0]


def test_an_unknown_group_name_is_refused_with_the_choices(graph: onnx.ModelProto) -> None:
    layers = find_layers(graph)
    check_groups(list(groups_of(layers)), layers)
    with pytest.raises(UserError, match="'img_head'.*img_backbone.layer1, planning_head, occ_head, motion_head"):
        check_groups(["img_head"], layers)
