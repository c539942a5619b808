"""Graphs with halves in onnxruntime on CPU, as a device computes them: each half rounded where it is made."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
# They only hand numbers on, so they take the type that comes: halves are not lost twice, and floats stay whole for others.
MOVES = {"Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Split", "Identity", "Gather", "Concat", "Pad"}
# Their results are among their inputs, so there is nothing to round.
_CHOICES = MOVES | {"Relu", "MaxPool", "Where", "Max", "Min", "Neg", "Abs", "Expand", "Tile", "DepthToSpace", "ReduceMax", "TopK"}


def tensor_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)}
    types |= {i.name: i.data_type for i in graph.initializer}
    for node in graph.node:
        for name in node.output:
            if name and not types.get(name):
                raise ValueError(f"{node.op_type} {node.name!r}: the type of its output is unknown")
    return types


def rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float graph that gives the numbers of a graph with halves: each half is rounded where it is made.

    onnxruntime on CPU computes neighbouring half nodes in float and leaves out the roundings and overflows between them; a device
    does not. Sums inside an operator are those of float, as devices keep them.
    """
    types = tensor_types(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    for init in graph.initializer:
        if init.data_type == HALF:
            init.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(init).astype(np.float32), init.name))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        halves = [i for i, n in enumerate(node.output) if types.get(n) == HALF]
        if node.op_type == "Cast" and types[node.input[0]] == HALF and types[node.output[0]] == FLOAT:
            nodes.append(helper.make_node("Identity", [node.input[0]], [node.output[0]], name=node.name))
            continue
        if node.op_type == "Cast" and halves:
            next(a for a in node.attribute if a.name == "to").i = FLOAT
        nodes.append(node)
        if node.op_type in _CHOICES:
            continue
        for i in halves:
            name = node.output[i]
            node.output[i] = f"{name}_whole"
            nodes.append(helper.make_node("Cast", [f"{name}_whole"], [f"{name}_round"], to=HALF, name=f"{node.name}/round_{i}"))
            nodes.append(helper.make_node("Cast", [f"{name}_round"], [name], to=FLOAT, name=f"{node.name}/back_{i}"))
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return result


def has_halves(model: onnx.ModelProto) -> bool:
    """Whether any number of the graph is a half."""
    return any(i.data_type == HALF for i in model.graph.initializer) or any(
        node.op_type == "Cast" and any(a.name == "to" and a.i == HALF for a in node.attribute) for node in model.graph.node
    )
