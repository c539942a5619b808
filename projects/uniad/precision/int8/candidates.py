"""The layers that int8 is for: convolutions and matrix products with weights of their own, and what each of them costs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from uniad.errors import UserError
from uniad.export.groups import layer_groups

# Below this a layer is over before reading its numbers as int8 could pay, and several such feed on mixed units: the CAN bus holds
# metres, degrees and radians in one vector, of which one scale can serve only the largest.
SMALLEST = 1 << 16  # multiply-adds


@dataclass(frozen=True)
class Layer:
    """One node that could run in int8."""

    node: str
    op: str
    group: str  # of export/groups.py
    activation: str  # tensor
    weight: str  # initializer
    axis: int  # of the weight: its output channels
    macs: int  # multiply-adds of one frame


def find_layers(model: onnx.ModelProto) -> list[Layer]:
    """Candidates in the graph's order. Raises UserError for a graph that does not say which layers its nodes belong to.

    Products of two activations, as in attention, are none: both change with each frame, and a softmax follows, which magnifies.
    """
    groups = {name: group for group, names in layer_groups(model).items() for name in names}
    weights = {i.name: tuple(i.dims) for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT}
    shapes = tensor_shapes(model)
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm") or node.input[1] not in weights or node.input[0] in weights:
            continue
        if len(weights[node.input[1]]) < 2 or (node.op_type == "MatMul" and len(weights[node.input[1]]) != 2):
            continue
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        shape = weights[node.input[1]]
        axis = 0 if node.op_type == "Conv" or attributes.get("transB") else 1
        if node.output[0] not in shapes:
            raise UserError(f"the shape of {node.output[0]!r} is not in the graph; run `make export` again")
        each = int(np.prod(shape[1:])) if node.op_type == "Conv" else shape[1 - axis]
        macs = int(np.prod(shapes[node.output[0]])) * each
        if macs >= SMALLEST:
            found.append(Layer(node.name, node.op_type, groups[node.name], node.input[0], node.input[1], axis, macs))
    return found


def tensor_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Static shape of every tensor that the graph knows one of."""
    graph = model.graph
    values = (*graph.input, *graph.output, *graph.value_info)
    return {
        v.name: tuple(d.dim_value for d in v.type.tensor_type.shape.dim) for v in values if v.type.tensor_type.HasField("shape")
    }


def groups_of(layers: list[Layer]) -> dict[str, list[Layer]]:
    """Candidates by layer group, in the graph's order."""
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(layer.group, []).append(layer)
    return groups


def check_groups(names: list[str], layers: list[Layer]) -> None:
    """Raises UserError for a name that is no group with candidates."""
    known = groups_of(layers)
    for name in names:
        if name not in known:
            raise UserError(f"layer group {name!r} has no layer that int8 is for: choose from {', '.join(known)}")
