"""Explicit quantisation: QuantizeLinear and DequantizeLinear around the operands of chosen layers, and nowhere else.

This is the form that TensorRT takes on every release (8.5 and newer): int8, symmetric (zero point 0), activations with one scale,
weights with one per output channel, both written as floats followed by a pair, biases left as they are.
onnxruntime's own quantiser rewires *every* reader of a tensor that one chosen layer reads, so layers kept in fp32, residual
additions among them, would see rounded numbers; here they see what they saw before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from uniad.precision.int8.candidates import Layer

LEVELS = 127  # -128 is left out, so that the scale is the same on both sides
ZERO_POINT = "int8_zero"


def insert_qdq(model: onnx.ModelProto, layers: Iterable[Layer], limits: Mapping[str, float]) -> onnx.ModelProto:
    """A copy of ``model`` in which ``layers`` compute from int8 operands. limits: largest magnitude by activation tensor.

    The pairs of an activation are shared by the chosen layers that read it.
    """
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    chosen = {layer.node: layer for layer in layers}
    weights = {i.name: i for i in graph.initializer}
    pairs: dict[tuple[str, int | None], str] = {}
    nodes: list[onnx.NodeProto] = []

    def paired(tensor: str, scale: np.ndarray, axis: int | None, owner: str) -> str:
        """The dequantised twin of a tensor; made before its first reader."""
        key = tensor, axis
        if key not in pairs:
            base = tensor if axis is None else f"{tensor}/axis{axis}"
            names = {part: f"{base}/{part}" for part in ("scale", "zero", "int8", "rounded")}
            zero = ZERO_POINT if axis is None else names["zero"]
            graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), names["scale"]))
            if axis is not None:
                graph.initializer.append(numpy_helper.from_array(np.zeros(scale.shape, np.int8), zero))
            kwargs: dict[str, Any] = {} if axis is None else {"axis": axis}
            path = owner.partition("/")[0]  # so that a profile, and layer_groups, count them with their layer
            for op, source, target in (
                ("QuantizeLinear", tensor, names["int8"]),
                ("DequantizeLinear", names["int8"], names["rounded"]),
            ):
                name = f"{path}/{op}_{len(pairs)}"
                nodes.append(helper.make_node(op, [source, names["scale"], zero], [target], name=name, **kwargs))
            shape = [d.dim_value for d in shapes[tensor].dim] if tensor in shapes else list(weights[tensor].dims)
            graph.value_info.append(helper.make_tensor_value_info(names["int8"], TensorProto.INT8, shape))
            graph.value_info.append(helper.make_tensor_value_info(names["rounded"], TensorProto.FLOAT, shape))
            pairs[key] = names["rounded"]
        return pairs[key]

    shapes = {v.name: v.type.tensor_type.shape for v in (*graph.input, *graph.output, *graph.value_info)}
    for node in graph.node:
        layer = chosen.get(node.name)
        if layer is not None:
            activation = np.float32(max(limits[layer.activation], float(np.finfo(np.float32).tiny) * LEVELS) / LEVELS)
            weight = channel_scales(numpy_helper.to_array(weights[layer.weight]), layer.axis)
            node.input[0] = paired(layer.activation, np.asarray(activation), None, node.name)
            node.input[1] = paired(layer.weight, weight, layer.axis, node.name)
        nodes.append(node)
    if chosen:
        graph.initializer.append(numpy_helper.from_array(np.asarray(0, np.int8), ZERO_POINT))
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del graph.node[:]
    graph.node.extend(kept)
    return quantised


def channel_scales(weight: np.ndarray, axis: int) -> np.ndarray:
    """[channels] scale of each output channel; 1 for one that is all zeros, since a scale must not be 0."""
    largest = np.abs(weight).max(axis=tuple(i for i in range(weight.ndim) if i != axis)) / LEVELS
    return np.where(largest > np.finfo(np.float32).tiny, largest, 1.0).astype(np.float32)


def without_int8_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose convolutions read what they read before quantisation, for a builder with int8 for matrix products only."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    graph = plain.graph
    maker = {out: node for node in graph.node for out in node.output}
    for node in graph.node:
        for i in range(2 if node.op_type == "Conv" else 0):
            back = maker.get(node.input[i])
            if back is not None and back.op_type == "DequantizeLinear":
                node.input[i] = maker[back.input[0]].input[0]
    for op in ("DequantizeLinear", "QuantizeLinear"):
        read = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
        for node in [n for n in graph.node if n.op_type == op and n.output[0] not in read]:
            graph.node.remove(node)
    return plain
