"""Graph passes. Each mends one named defect of an exported graph and is tested before and after.

Parsers on cars read old operator sets: TensorRT 8.5 reads opset 16 and 17 at most, while PyTorch's exporter starts at 18.
What changed between them for the operators we use is small, so we go down by rewriting nodes, never by renumbering alone.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Operators whose ``axes`` moved from an attribute to an input in opset 18 (ReduceSum moved in 13 and stays an input).
_REDUCE_AXES_18 = {
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
}
# What opset 18 added to Resize, with its default; None: no value of it says the same as leaving it out.
_RESIZE_18 = {"antialias": 0, "keep_aspect_ratio_policy": b"stretch", "axes": None}
LOWEST_OPSET, HIGHEST_OPSET = 16, 19
# From 20 on GridSample's mode "bilinear" is called "linear"; parsers that know the old name fall back to nearest silently.


class UnsupportedGraph(ValueError):
    """A graph holds something that no target of ours can run. The message names node and reason."""


def opset_of(model: onnx.ModelProto) -> int:
    return next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))


def set_opset(model: onnx.ModelProto, version: int) -> None:
    for entry in model.opset_import:
        if entry.domain in ("", "ai.onnx"):
            entry.version = version
    # The IR version that came with the opset: an older parser rejects a newer number although nothing in it is used.
    model.ir_version = min(model.ir_version, {16: 8, 17: 8, 18: 8, 19: 9}[version])


def _constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    found = {}
    for init in model.graph.initializer:
        if init.data_type == TensorProto.INT64 and np.prod(init.dims, dtype=int) < 64:
            found[init.name] = numpy_helper.to_array(init)
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def downgrade_opset(model: onnx.ModelProto, version: int) -> onnx.ModelProto:
    """Rewrite an opset-18 graph for opset 16 or 17: reduction axes become attributes, Split states its sizes, Resize
    loses newer attributes, layer norms are decomposed below 17. Raises UnsupportedGraph where an operator has no older form."""
    if not LOWEST_OPSET <= version <= HIGHEST_OPSET:
        raise UnsupportedGraph(f"opset {version} is outside {LOWEST_OPSET}..{HIGHEST_OPSET}: see docs/export.md")
    if version >= opset_of(model):
        return model
    if version < 17:
        decompose_layer_norm(model)
    constants = _constants(model)
    shapes = _value_shapes(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type in _REDUCE_AXES_18 and len(node.input) > 1 and node.input[1]:
            if node.input[1] not in constants:
                raise UnsupportedGraph(f"{node.op_type} {node.name!r} reduces over axes that are computed at run time")
            axes = [int(a) for a in np.atleast_1d(constants[node.input[1]])]
            del node.input[1:]
            kept = [a for a in node.attribute if a.name != "noop_with_empty_axes"]
            del node.attribute[:]
            node.attribute.extend([*kept, helper.make_attribute("axes", axes)])
        elif node.op_type == "Split" and any(a.name == "num_outputs" for a in node.attribute):
            kept = [a for a in node.attribute if a.name != "num_outputs"]
            del node.attribute[:]
            node.attribute.extend(kept)
            if len(node.input) < 2 or not node.input[1]:
                sizes = _split_sizes(node, shapes)
                name = f"{node.output[0]}_split_sizes"
                model.graph.initializer.append(numpy_helper.from_array(np.asarray(sizes, np.int64), name))
                del node.input[1:]
                node.input.append(name)
        elif node.op_type == "Resize" and version < 18:
            _drop_resize_18(node)
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    set_opset(model, version)
    return model


def _drop_resize_18(node: onnx.NodeProto) -> None:
    """Leave out what opset 18 added to Resize where it says what an older Resize does anyway."""
    added = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name in _RESIZE_18}
    for name, value in added.items():
        if value != _RESIZE_18[name]:
            raise UnsupportedGraph(f"Resize {node.name!r}: {name} = {value!r} has no form before opset 18")
    kept = [a for a in node.attribute if a.name not in _RESIZE_18]
    del node.attribute[:]
    node.attribute.extend(kept)


def _value_shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    shapes = {}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        shapes[value.name] = [d.dim_value for d in value.type.tensor_type.shape.dim]
    return shapes


def _split_sizes(node: onnx.NodeProto, shapes: dict[str, list[int]]) -> list[int]:
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    total = shapes[node.input[0]][axis]
    parts = len(node.output)
    size = -(-total // parts)
    return [min(size, total - i * size) for i in range(parts)]


def fix_casts(model: onnx.ModelProto) -> onnx.ModelProto:
    """CastLike, which TensorRT 8.5 lacks, as Cast to the type that shape inference finds."""
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.graph.value_info, *inferred.graph.input)}
    types |= {i.name: i.data_type for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "CastLike":
            if not types.get(node.input[1]):
                raise UnsupportedGraph(f"CastLike {node.name!r}: the type of {node.input[1]!r} is unknown")
            node.op_type = "Cast"
            node.attribute.append(helper.make_attribute("to", types[node.input[1]]))
            del node.input[1:]
    return model


def keep_int32_indices(model: onnx.ModelProto) -> onnx.ModelProto:
    """Gather by int32 where the model computed int32: PyTorch's exporter widens every index to int64, which TensorRT carries
    along as a type of its own although no table here has 2**31 rows."""
    inferred = onnx.shape_inference.infer_shapes(model)
    types = {v.name: v.type.tensor_type.elem_type for v in (*inferred.graph.value_info, *inferred.graph.input)}
    widened = {
        node.output[0]: node.input[0]
        for node in model.graph.node
        if node.op_type == "Cast" and node.attribute[0].i == TensorProto.INT64 and types.get(node.input[0]) == TensorProto.INT32
    }
    for node in model.graph.node:
        if node.op_type in ("Gather", "GatherElements") and node.input[1] in widened:
            node.input[1] = widened[node.input[1]]
    read = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    kept = [n for n in model.graph.node if n.output[0] not in widened or n.output[0] in read]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def decompose_layer_norm(model: onnx.ModelProto) -> onnx.ModelProto:
    """LayerNormalization as elementary nodes, for parsers that lack it (TensorRT before 8.6)."""
    shapes = _value_shapes(model)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes.extend(_layer_norm_nodes(model, node, shapes) if node.op_type == "LayerNormalization" else [node])
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _layer_norm_nodes(model: onnx.ModelProto, node: onnx.NodeProto, shapes: dict[str, list[int]]) -> list[onnx.NodeProto]:
    axis = next((a.i for a in node.attribute if a.name == "axis"), -1)
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    rank = len(shapes.get(node.input[0], [])) or None
    if axis < 0:
        axes = list(range(axis, 0))
    elif rank:
        axes = list(range(axis - rank, 0))
    else:
        raise UnsupportedGraph(f"LayerNormalization {node.name!r}: the rank of its input is unknown")
    base = node.output[0]
    two, eps = f"{base}_ln_two", f"{base}_ln_eps"
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(2.0, np.float32), two))
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(epsilon, np.float32), eps))

    def reduce_mean(source: str, out: str) -> onnx.NodeProto:
        if opset_of(model) >= 18:
            name = f"{out}_axes"
            model.graph.initializer.append(numpy_helper.from_array(np.asarray(axes, np.int64), name))
            return helper.make_node("ReduceMean", [source, name], [out], keepdims=1)
        return helper.make_node("ReduceMean", [source], [out], axes=axes, keepdims=1)

    built = [
        reduce_mean(node.input[0], f"{base}_ln_mean"),
        helper.make_node("Sub", [node.input[0], f"{base}_ln_mean"], [f"{base}_ln_centred"]),
        helper.make_node("Pow", [f"{base}_ln_centred", two], [f"{base}_ln_square"]),
        reduce_mean(f"{base}_ln_square", f"{base}_ln_var"),
        helper.make_node("Add", [f"{base}_ln_var", eps], [f"{base}_ln_var_eps"]),
        helper.make_node("Sqrt", [f"{base}_ln_var_eps"], [f"{base}_ln_std"]),
        helper.make_node("Div", [f"{base}_ln_centred", f"{base}_ln_std"], [f"{base}_ln_unit"]),
    ]
    last = f"{base}_ln_unit"
    if len(node.input) > 1 and node.input[1]:
        scaled = f"{base}_ln_scaled" if len(node.input) > 2 and node.input[2] else base
        built.append(helper.make_node("Mul", [last, node.input[1]], [scaled]))
        last = scaled
    if len(node.input) > 2 and node.input[2]:
        built.append(helper.make_node("Add", [last, node.input[2]], [base]))
    elif last != base:
        built.append(helper.make_node("Identity", [last], [base]))
    for i, part in enumerate(built):
        part.name = f"{node.name or base}/{part.op_type}_{i}"  # they stay in the layer of the norm
    return built
