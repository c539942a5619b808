"""A graph of two float types: some nodes compute in half (fp16), the others in float, with one cast wherever they meet.

Only mechanics; ``fp16`` decides which nodes stay. Inputs and outputs of the graph keep their types. Types lie in the graph, so
every strongly typed builder makes the same engine of it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import onnx
from onnx import defs, helper, numpy_helper

from uniad.backends.rounding import FLOAT, HALF, MOVES, tensor_types
from uniad.export.passes import opset_of

HALF_MAX = 65504.0
COMPARES = {"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"}


def lift_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    """Float Constant nodes as initializers, of which there may be one in each type."""
    kept = []
    for node in model.graph.node:
        value = node.attribute[0].t if node.op_type == "Constant" and node.attribute[0].name == "value" else None
        if value is not None and value.data_type == FLOAT:
            model.graph.initializer.append(numpy_helper.from_array(numpy_helper.to_array(value), node.output[0]))
        else:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    return model


def fold_batch_norms(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold each BatchNormalization into the convolution before it: variances need more range than half has, products do not."""
    weights = {i.name: i for i in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    taken = {o.name for o in model.graph.output}
    folded = []
    for conv in model.graph.node:
        if conv.op_type != "Conv" or conv.output[0] in taken:
            continue
        after = readers.get(conv.output[0], [])
        if len(after) != 1 or after[0].op_type != "BatchNormalization":
            continue
        norm = after[0]
        needed = [*conv.input[1:], *norm.input[1:]]
        if any(n and n not in weights for n in needed) or any(len(readers[n]) != 1 for n in conv.input[1:2]):
            continue
        scale, shift, mean, var = (numpy_helper.to_array(weights[n]).astype(np.float64) for n in norm.input[1:])
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        factor = scale / np.sqrt(var + epsilon)
        kernel = numpy_helper.to_array(weights[conv.input[1]]).astype(np.float64)
        bias = numpy_helper.to_array(weights[conv.input[2]]) if len(conv.input) > 2 and conv.input[2] else 0.0
        name = conv.input[1]
        weights[name].CopyFrom(
            numpy_helper.from_array((kernel * factor.reshape(-1, *[1] * (kernel.ndim - 1))).astype(np.float32), name)
        )
        offset = numpy_helper.from_array(((bias - mean) * factor + shift).astype(np.float32), f"{norm.output[0]}_bias")
        model.graph.initializer.append(offset)
        source = conv.input[0]
        del conv.input[:]
        conv.input.extend([source, name, offset.name])
        conv.output[0] = norm.output[0]
        folded.append(norm)
    for norm in folded:
        model.graph.node.remove(norm)
    return drop_unread(model)


def drop_unread(model: onnx.ModelProto) -> onnx.ModelProto:
    """Forget initializers that nothing reads."""
    read = {name for node in model.graph.node for name in node.input} | {o.name for o in model.graph.output}
    kept = [i for i in model.graph.initializer if i.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model


def takes_half(node: onnx.NodeProto, opset: int) -> tuple[list[bool], list[bool]]:
    """Which inputs and outputs of this operator may be half."""
    schema = defs.get_schema(node.op_type, opset, node.domain)
    allowed = {c.type_param_str: c.allowed_type_strs for c in schema.type_constraints}

    def may(formal: Sequence[defs.OpSchema.FormalParameter], count: int) -> list[bool]:
        each = (formal[min(i, len(formal) - 1)] for i in range(count))  # the last one of a variadic operator repeats
        return ["tensor(float16)" in allowed.get(f.type_str, [f.type_str]) for f in each]

    return may(schema.inputs, len(node.input)), may(schema.outputs, len(node.output))


def choose_types(model: onnx.ModelProto, keep: Collection[str], types: dict[str, int]) -> set[str]:
    """Names of the nodes that compute in half: all float nodes but ``keep``, as far as operators can, borders straightened."""
    keep, opset = set(keep), opset_of(model)
    constants = {i.name for i in model.graph.initializer}
    half: set[str] = set()
    made: dict[str, bool] = {}  # tensor -> is a half

    def sources(node: onnx.NodeProto) -> list[bool]:
        return [made.get(n, False) for n in node.input if types.get(n) == FLOAT and n not in constants]

    for node in model.graph.node:
        floats = [n for n in (*node.input, *node.output) if types.get(n) == FLOAT]
        ins, outs = takes_half(node, opset)
        able = any(ok and types.get(n) == FLOAT for n, ok in (*zip(node.input, ins), *zip(node.output, outs)))
        able &= all(ok for n, ok in zip(node.output, outs) if types.get(n) == FLOAT)
        chosen = bool(floats) and able and node.name not in keep
        given = sources(node)
        if floats and given and able:
            if node.op_type in MOVES and len(set(given)) == 1:
                chosen = given[0]
            elif node.op_type in COMPARES or (node.op_type == "Cast" and types[node.output[0]] != FLOAT):
                chosen &= all(given)  # a decision is taken on the numbers as they are
        if chosen:
            half.add(node.name)
            made |= {n: True for n in node.output if types.get(n) == FLOAT}
    readers: dict[str, list[str]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node.name)
    graph_outputs = {o.name for o in model.graph.output}
    for node in model.graph.node:  # a float made of whole numbers or truths is made as its readers want it
        if node.op_type == "Cast" and types[node.output[0]] == FLOAT and types[node.input[0]] != FLOAT:
            after = [name in half for name in readers.get(node.output[0], [])]
            wanted = bool(after) and all(after) and node.output[0] not in graph_outputs
            (half.add if wanted else half.discard)(node.name)
    return half


def convert(model: onnx.ModelProto, keep: Collection[str]) -> onnx.ModelProto:
    """A copy of ``model`` in which all float nodes but those named in ``keep`` compute in half.

    ``model``: float, with node names and without float Constant nodes (``lift_constants``).
    """
    types = tensor_types(model)
    half = choose_types(model, keep, types)
    opset = opset_of(model)
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    floats = {i.name: i for i in graph.initializer if i.data_type == FLOAT}
    producer = {out: node for node in model.graph.node for out in node.output}
    in_half: dict[str, str] = {}  # tensor of the float graph -> name of its half
    in_float: set[str] = set()  # those made in half that have a float as well, under their own name
    nodes: list[onnx.NodeProto] = []
    names: dict[str, str] = {}

    def cast(source: str, out: str, to: int, by: str) -> None:
        nodes.append(helper.make_node("Cast", [source], [out], to=to, name=f"{by}/Cast_{len(names)}"))
        names[out] = nodes[-1].name

    def as_half(name: str, by: str) -> str:
        if name not in in_half:
            in_half[name] = f"{name}_half"
            if name in floats:
                with np.errstate(over="ignore"):
                    value = numpy_helper.to_array(floats[name]).astype(np.float16)
                graph.initializer.append(numpy_helper.from_array(value, in_half[name]))
            else:
                source, before = name, producer.get(name)  # a number cast to float and cast again: cast it once
                if before is not None and before.op_type == "Cast" and types[before.input[0]] != FLOAT:
                    source = before.input[0]
                cast(source, in_half[name], HALF, by)
        return in_half[name]

    def as_float(name: str, by: str) -> str:
        if name in in_half and name in made and name not in in_float:
            cast(in_half[name], name, FLOAT, by)
            in_float.add(name)
        return name

    made: set[str] = set()  # tensors computed in half
    for original in model.graph.node:
        node = onnx.NodeProto()
        node.CopyFrom(original)
        ins, _ = takes_half(node, opset)
        to_half = node.name in half
        for i, name in enumerate(node.input):
            if types.get(name) == FLOAT:
                node.input[i] = as_half(name, node.name) if to_half and ins[i] else as_float(name, node.name)
        if to_half and node.op_type == "Clip":  # a bound that is not given is the largest float, for parsers too
            while len(node.input) < 3:
                node.input.append("")
            for i, bound in ((1, -HALF_MAX), (2, HALF_MAX)):
                if not node.input[i]:
                    node.input[i] = f"{node.output[0]}_bound_{i}"
                    graph.initializer.append(numpy_helper.from_array(np.asarray(bound, np.float16), node.input[i]))
        if to_half:
            for i, name in enumerate(node.output):
                if types.get(name) == FLOAT:
                    in_half[name] = f"{name}_half"
                    made.add(name)
                    node.output[i] = in_half[name]
            if node.op_type == "Cast" and types[original.output[0]] == FLOAT:
                next(a for a in node.attribute if a.name == "to").i = HALF
        nodes.append(node)
    for out in graph.output:
        if out.name in made:
            as_float(out.name, producer[out.name].name)
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return drop_unread(result)
