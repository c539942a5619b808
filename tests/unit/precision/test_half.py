"""Two float types in one graph: one cast a border, whole numbers untouched, halves rounded as a device rounds them."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from uniad.backends.rounding import has_halves, rounded, tensor_types
from uniad.precision.half import convert, fold_batch_norms, lift_constants

FLOAT, HALF, INT64 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64


def node(op: str, source: list[str], out: str | list[str], layer: str, **attributes: object) -> onnx.NodeProto:
    outs = [out] if isinstance(out, str) else out
    return helper.make_node(op, source, outs, name=f"{layer}/{op}_{outs[0]}", **attributes)


def graph(nodes, inputs: dict, outputs: dict, **constants) -> onnx.ModelProto:
    def values(ports: dict) -> list:
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in ports.items()]

    inits = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    made = helper.make_graph(nodes, "g", values(inputs), values(outputs), inits)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model: onnx.ModelProto, **feeds: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, feeds)


def casts(model: onnx.ModelProto) -> list[tuple[str, int]]:
    return [(n.input[0], n.attribute[0].i) for n in model.graph.node if n.op_type == "Cast"]


X4 = {"x": (FLOAT, [2, 4])}


def test_each_border_has_one_cast_however_many_read_it() -> None:
    model = graph(
        [
            node("Mul", ["x", "two"], "a", "low"),
            node("Add", ["a", "two"], "b", "high"),
            node("Sub", ["a", "two"], "c", "high"),
            node("Mul", ["b", "c"], "d", "high"),
            node("Tanh", ["d"], "e", "low"),
            node("Exp", ["d"], "f", "low"),
            node("Add", ["e", "f"], "y", "low"),
        ],
        X4, {"y": (FLOAT, [2, 4])}, two=np.float32(2),
    )  # fmt: skip
    converted = convert(model, {n.name for n in model.graph.node if n.name.startswith("high")})
    assert casts(converted) == [("x", HALF), ("a_half", FLOAT), ("d", HALF), ("y_half", FLOAT)]
    types = tensor_types(converted)
    assert types["e_half"] == types["f_half"] == HALF and types["b"] == types["d"] == FLOAT
    assert [i.data_type for i in converted.graph.initializer] == [FLOAT, HALF], "a constant in each type that reads it, once"
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    assert np.allclose(run(converted, x=x)[0], run(model, x=x)[0], rtol=1e-2, atol=1e-2)


def test_inputs_and_outputs_keep_their_types_and_nothing_kept_means_nothing_changed() -> None:
    model = graph([node("Mul", ["x", "two"], "y", "low")], X4, {"y": (FLOAT, [2, 4])}, two=np.float32(2))
    converted = convert(model, set())
    assert converted.graph.input == model.graph.input and converted.graph.output == model.graph.output and has_halves(converted)
    same = convert(model, {"low/Mul_y"})
    assert same.graph.node == model.graph.node and not has_halves(same)


def test_whole_numbers_and_truths_are_untouched_and_become_halves_in_one_cast() -> None:
    model = graph(
        [
            node("Add", ["i", "one"], "j", "low"),
            node("Cast", ["j"], "f", "low", to=FLOAT),
            node("Mul", ["f", "two"], "g", "low"),
            node("Add", ["f", "two"], "h", "high"),
            node("Greater", ["h", "two"], "t", "high"),
            node("Where", ["t", "g", "h"], "y", "high"),
            node("Gather", ["x", "j"], "rows", "low", axis=0),
        ],
        {"i": (INT64, [4]), "x": (FLOAT, [9, 3])}, {"y": (FLOAT, [4]), "rows": (FLOAT, [4, 3])},
        one=np.array([1], np.int64), two=np.float32(2),
    )  # fmt: skip
    converted = convert(model, {"high/Add_h", "high/Greater_t", "high/Where_y"})
    assert ("j", HALF) in casts(converted), "not by way of a float"
    kinds = {n.output[0]: n for n in converted.graph.node}
    assert all(kinds[source].op_type != "Cast" for source, _ in casts(converted) if source in kinds), "no cast of a cast"
    assert kinds["j"] == model.graph.node[0] and tensor_types(converted)["t"] == TensorProto.BOOL
    assert kinds["rows"].input[0] == "x", "rows of a float stay floats: nothing computes with them here"
    i = np.array([0, 3, 5, 7])
    x = np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32)
    for got, want in zip(run(converted, i=i, x=x), run(model, i=i, x=x)):
        assert np.allclose(got, want, rtol=1e-3)


def test_scales_of_a_resize_stay_what_the_operator_wants() -> None:
    model = graph(
        [node("Resize", ["x", "", "s"], "y", "low", mode="nearest")],
        {"x": (FLOAT, [1, 1, 2, 2])}, {"y": (FLOAT, [1, 1, 4, 4])}, s=np.array([1, 1, 2, 2], np.float32),
    )  # fmt: skip
    converted = convert(model, set())
    types = tensor_types(converted)
    (resize,) = (n for n in converted.graph.node if n.op_type == "Resize")
    assert types[resize.input[0]] == HALF and types[resize.input[2]] == FLOAT
    onnx.checker.check_model(converted, full_check=True)


def test_a_clip_with_one_bound_gets_the_other_within_half() -> None:
    model = graph([node("Clip", ["x", "low"], "y", "a")], X4, {"y": (FLOAT, [2, 4])}, low=np.float32(0.5))
    (clip,) = (n for n in convert(model, set()).graph.node if n.op_type == "Clip")
    assert len(clip.input) == 3 and all(clip.input)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    assert np.array_equal(run(convert(model, set()), x=x)[0], x.clip(0.5))


def test_halves_are_rounded_and_overflow_where_they_are_made() -> None:
    """onnxruntime on CPU gives 0.5 and 66000 for the graph itself: it computes neighbours in float."""
    model = graph(
        [node("Add", ["x", "c"], "a", "low"), node("Sub", ["a", "c"], "y", "low")],
        {"x": (FLOAT, [2])}, {"y": (FLOAT, [2])}, c=np.float32(2048),
    )  # fmt: skip
    converted = convert(model, set())
    x = np.array([0.5, 65000.0], np.float32)
    with np.errstate(over="ignore"):
        want = (x.astype(np.float16) + np.float16(2048)) - np.float16(2048)
    assert run(rounded(converted), x=x)[0].tolist() == want.astype(np.float32).tolist() == [0.0, np.inf]
    assert not np.array_equal(run(converted, x=x)[0], want.astype(np.float32)), "then rounded() is not needed any more"


def test_a_norm_is_folded_into_its_convolution() -> None:
    rng = np.random.default_rng(0)
    draw = {name: rng.uniform(0.5, 2, 5).astype(np.float32) for name in ("scale", "shift", "mean", "var")}
    draw["var"] *= np.float32(1e5)
    model = graph(
        [
            node("Conv", ["x", "w"], "c", "backbone.conv1"),
            node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], "n", "backbone.bn1"),
            node("Relu", ["n"], "y", "backbone"),
        ],
        {"x": (FLOAT, [1, 3, 6, 6])}, {"y": (FLOAT, [1, 5, 4, 4])}, w=rng.normal(size=(5, 3, 3, 3)).astype(np.float32), **draw,
    )  # fmt: skip
    x = rng.normal(size=(1, 3, 6, 6)).astype(np.float32)
    want = run(model, x=x)[0]
    folded = fold_batch_norms(model)
    assert [n.op_type for n in folded.graph.node] == ["Conv", "Relu"] and len(folded.graph.initializer) == 2
    assert np.allclose(run(folded, x=x)[0], want, atol=1e-6)


def test_a_norm_whose_convolution_others_read_stays() -> None:
    norm = {name: np.ones(2, np.float32) for name in ("scale", "shift", "mean", "var")}
    model = graph(
        [
            node("Conv", ["x", "w"], "c", "a"),
            node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], "n", "a"),
            node("Add", ["c", "n"], "y", "a"),
        ],
        {"x": (FLOAT, [1, 1, 2, 2])}, {"y": (FLOAT, [1, 2, 2, 2])}, w=np.ones((2, 1, 1, 1), np.float32), **norm,
    )  # fmt: skip
    assert len(fold_batch_norms(model).graph.node) == 3


def shared(first: str, *norms: str, **constants: np.ndarray) -> onnx.ModelProto:
    """Two convolutions, ``first`` and its neighbour, each with the norm that is named."""
    nodes = []
    for i, (kernel, norm) in enumerate(zip((first, "w"), norms)):
        inputs = ["x", kernel, "b"] if "b" in constants else ["x", kernel]
        nodes.append(node("Conv", inputs, f"c{i}", f"l{i}"))
        nodes.append(node("BatchNormalization", [f"c{i}", norm, "shift", "mean", "var"], f"n{i}", f"l{i}"))
    nodes.append(node("Add", ["n0", "n1"], "y", "l"))
    return graph(nodes, {"x": (FLOAT, [1, 2, 4, 4])}, {"y": (FLOAT, [1, 3, 4, 4])}, **constants)


def norm_constants(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {name: rng.uniform(0.5, 2, 3).astype(np.float32) for name in ("scale", "other", "shift", "mean", "var")}


def test_a_kernel_that_two_convolutions_share_takes_in_the_norm_of_neither() -> None:
    """Folded twice it would be right for none."""
    rng = np.random.default_rng(0)
    model = shared("w", "scale", "other", w=rng.normal(size=(3, 2, 1, 1)).astype(np.float32), **norm_constants(rng))
    x = rng.normal(size=(1, 2, 4, 4)).astype(np.float32)
    want = run(model, x=x)[0]
    folded = fold_batch_norms(model)
    assert [n.op_type for n in folded.graph.node].count("BatchNormalization") == 2
    np.testing.assert_array_equal(run(folded, x=x)[0], want)


def test_a_bias_or_a_norm_that_two_convolutions_share_is_no_hindrance() -> None:
    rng = np.random.default_rng(0)
    kernels = {name: rng.normal(size=(3, 2, 1, 1)).astype(np.float32) for name in ("v", "w")}
    model = shared("v", "scale", "scale", b=np.float32([1, -2, 3]), **kernels, **norm_constants(rng))
    x = rng.normal(size=(1, 2, 4, 4)).astype(np.float32)
    want = run(model, x=x)[0]
    folded = fold_batch_norms(model)
    assert [n.op_type for n in folded.graph.node] == ["Conv", "Conv", "Add"]
    np.testing.assert_allclose(run(folded, x=x)[0], want, rtol=1e-5, atol=1e-5)


def test_a_norm_stays_whose_numbers_are_computed_or_whose_convolution_is_shown() -> None:
    rng = np.random.default_rng(0)
    draw = norm_constants(rng) | {"w": np.ones((3, 2, 1, 1), np.float32)}
    computed = [
        node("Conv", ["x", "w"], "c", "a"),
        node("Mul", ["other", "var"], "made", "a"),
        node("BatchNormalization", ["c", "scale", "shift", "mean", "made"], "y", "a"),
    ]
    x, y = {"x": (FLOAT, [1, 2, 4, 4])}, {"y": (FLOAT, [1, 3, 4, 4])}
    assert len(fold_batch_norms(graph(computed, x, y, **draw)).graph.node) == 3
    plain = [computed[0], node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], "y", "a")]
    assert len(fold_batch_norms(graph(plain, x, y | {"c": y["y"]}, **draw)).graph.node) == 2
    assert len(fold_batch_norms(graph(plain, x, y, **draw)).graph.node) == 1, "else it is folded"


def test_float_constants_become_initializers() -> None:
    value = numpy_helper.from_array(np.float32(2), "v")
    nodes = [node("Constant", [], "two", "a", value=value), node("Mul", ["x", "two"], "y", "a")]
    model = graph(nodes, X4, {"y": (FLOAT, [2, 4])})
    lifted = lift_constants(model)
    assert [n.op_type for n in lifted.graph.node] == ["Mul"] and [i.name for i in lifted.graph.initializer] == ["two"]


TRUTH = TensorProto.BOOL


@pytest.mark.parametrize("op, fine", [("Greater", True), ("GreaterOrEqual", True), ("Less", False), ("LessOrEqual", False),
                                      ("Equal", False)])  # fmt: skip
@pytest.mark.parametrize("kept_first", [True, False])
def test_a_comparison_is_taken_on_floats_if_any_of_its_inputs_is_one(op: str, fine: bool, kept_first: bool) -> None:
    """2049 is 2048 in half, so ties would appear where there is none."""
    names = ["kept", "low"] if kept_first else ["low", "kept"]
    model = graph(
        [node("Add", ["x", "zero"], "kept", "high"), node("Mul", ["x2", "one"], "low", "low"), node(op, names, "y", "low")],
        {"x": (FLOAT, [1]), "x2": (FLOAT, [1])}, {"y": (TRUTH, [1])}, zero=np.float32(0), one=np.float32(1),
    )  # fmt: skip
    converted = convert(model, {"high/Add_kept"})
    (compares,) = (n for n in converted.graph.node if n.op_type == op)
    types = tensor_types(converted)
    assert [types[name] for name in compares.input] == [FLOAT, FLOAT]
    feed = {"x": np.float32([2049]), "x2": np.float32([2048])}
    want = run(model, **feed)[0]
    assert run(rounded(converted), **feed)[0] == want == (fine if kept_first or op == "Equal" else not fine)
    types = tensor_types(everything := convert(model, set()))
    assert {types[name] for n in everything.graph.node if n.op_type == op for name in n.input} == {HALF}, "of halves on halves"


def test_a_float_becomes_a_whole_number_by_its_own_value_and_moves_as_what_it_is() -> None:
    model = graph(
        [
            node("Add", ["x", "zero"], "kept", "high"),
            node("Cast", ["kept"], "i", "low", to=INT64),
            node("Reshape", ["kept", "shape"], "moved", "low"),
        ],
        {"x": (FLOAT, [1])}, {"i": (INT64, [1]), "moved": (FLOAT, [1, 1])}, zero=np.float32(0), shape=np.array([1, 1]),
    )  # fmt: skip
    converted = convert(model, {"high/Add_kept"})
    assert not has_halves(converted), "nothing computes here but what is kept"
    assert run(rounded(converted), x=np.float32([2049]))[0] == 2049
