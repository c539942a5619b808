"""Which nodes cannot compute in half whatever a measurement says: positions, and values beyond its range."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from uniad.backends.rounding import tensor_types
from uniad.precision.fp16 import MARGIN, out_of_range, position_nodes
from uniad.precision.half import HALF_MAX

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def graph(nodes: list[tuple], inputs: dict, outputs: dict, **constants: np.ndarray) -> onnx.ModelProto:
    """nodes: (operator, inputs, output, attributes); each is named after its output."""
    made = [helper.make_node(op, given, [out], name=out, **(more[0] if more else {})) for op, given, out, *more in nodes]

    def values(ports: dict) -> list:
        return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in ports.items()]

    inits = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    whole = helper.make_graph(made, "g", values(inputs), values(outputs), inits)
    return helper.make_model(whole, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("share, kept", [(0.99, set()), (1.01, {"a", "b"}), (np.inf, {"a", "b"})])
def test_a_value_keeps_fp32_where_another_scene_could_take_it_out_of_halfs_range(share, kept):
    model = graph(
        [("Mul", ["x", "two"], "a"), ("Add", ["a", "two"], "b"), ("Tanh", ["b"], "y")],
        {"x": (FLOAT, [2])}, {"y": (FLOAT, [2])}, two=np.float32(2),
    )  # fmt: skip
    assert MARGIN >= 4
    assert out_of_range(model, {"a": share * HALF_MAX / MARGIN}, tensor_types(model)) == kept


@pytest.mark.parametrize(
    "value, held",
    [
        ([1.0], True), ([0.0], True), ([65504.0], True), ([1e-9, 1.0], True), ([np.inf, 1.0], True), ([-np.inf], True),
        ([1e6], False), ([-7e4, 0.0], False), ([1e-9, 0.0], False), ([3e-8, 3e-8], False),
    ],
)  # fmt: skip
def test_a_constant_that_half_cannot_hold_keeps_its_readers_in_fp32(value, held):
    c = np.float32(value)
    model = graph([("Mul", ["x", "c"], "y")], {"x": (FLOAT, [len(c)])}, {"y": (FLOAT, [len(c)])}, c=c)
    assert out_of_range(model, {}, tensor_types(model)) == (set() if held else {"y"})


def test_where_an_image_is_sampled_is_a_position_and_what_is_sampled_is_none():
    model = graph(
        [
            ("MatMul", ["x", "w"], "offset"), ("Mul", ["offset", "half"], "scaled"), ("Add", ["scaled", "half"], "place"),
            ("Reshape", ["place", "grid_shape"], "grid"), ("Relu", ["image"], "shown"), ("GridSample", ["shown", "grid"], "y"),
        ],
        {"x": (FLOAT, [4, 3]), "image": (FLOAT, [1, 1, 4, 4])}, {"y": (FLOAT, [1, 1, 2, 2])},
        w=np.ones((3, 2), np.float32), half=np.float32(0.5), grid_shape=np.array([1, 2, 2, 2]),
    )  # fmt: skip
    assert position_nodes(model, tensor_types(model)) == {"scaled", "place", "grid"}


@pytest.mark.parametrize("rounding", ["Floor", "Ceil", "Round"])
def test_what_becomes_a_row_number_is_a_position_with_what_is_made_of_it(rounding):
    model = graph(
        [
            ("MatMul", ["x", "w"], "place"), ("Mul", ["place", "size"], "cells"), (rounding, ["cells"], "corner"),
            ("Sub", ["cells", "corner"], "weight"), ("Cast", ["corner"], "row", {"to": INT64}),
            ("Gather", ["table", "row"], "values"), ("Mul", ["values", "weight"], "y"),
        ],
        {"x": (FLOAT, [3]), "table": (FLOAT, [9])}, {"y": (FLOAT, [2])}, w=np.ones((3, 2), np.float32), size=np.float32(8),
    )  # fmt: skip
    found = position_nodes(model, tensor_types(model))
    assert found == {"cells", "corner", "weight"}, "not the product that it comes from, nor the values that were gathered"


@pytest.mark.parametrize("rounding", ["Floor", "Ceil", "Round", "Mod"])
def test_what_is_rounded_in_the_graph_is_a_position_though_it_stays_a_float(rounding):
    given = ["cells", "size"] if rounding == "Mod" else ["cells"]
    more = {"fmod": 1} if rounding == "Mod" else {}
    model = graph(
        [
            ("MatMul", ["x", "w"], "place"), ("Mul", ["place", "size"], "cells"), (rounding, given, "corner", more),
            ("Sub", ["cells", "corner"], "weight"), ("Softmax", ["weight"], "y"),
        ],
        {"x": (FLOAT, [3])}, {"y": (FLOAT, [2])}, w=np.ones((3, 2), np.float32), size=np.float32(8),
    )  # fmt: skip
    assert position_nodes(model, tensor_types(model)) == {"cells", "corner", "weight"}
