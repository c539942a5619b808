"""Which tensor of an exported graph comes from which weight, so that another checkpoint's weights can take their place.

Most initialisers are parameters and buffers under their own names. Others were computed from them when the exporter folded
constants: transposed, cut, enlarged. The record of an export, ``<name>.weights.onnx`` beside it, is the graph from weights to
initialisers: its inputs are the model's weights by name, its outputs the initialisers, each with its formula as ``doc_string``.
It holds no weight itself. What does not depend on weights is not in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper
from torch import nn

from uniad.artifacts.graph import load_graph
from uniad.errors import UserError
from uniad.files import atomic_path, sha256

PREFIX = "model."  # of a weight's name in the graph: the export wrapper's attribute
UNTRACED = "untraced"
Arrays = dict[str, np.ndarray]


class Traced(NamedTuple):
    """The exporter's graph before constants are folded, without the numbers of its weights."""

    nodes: list[onnx.NodeProto]
    shapes: dict[str, list[int]]  # of tensors whose shape is known
    types: dict[str, int]
    opset: int


def record_path(onnx_path: str | Path) -> Path:
    return Path(onnx_path).with_suffix(".weights.onnx")


def named_weights(model: nn.Module) -> Arrays:
    """Every parameter and buffer by its name, shared ones under each of their names."""
    named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False))
    return {name: value.detach().cpu().numpy() for name, value in named}


def trace(model: Any) -> Traced:
    """model: an ``onnx_ir.Model`` before constants are folded, which changes it in place."""
    from onnx_ir import serde

    nodes = list(model.graph)
    values = [value for node in nodes for value in (*node.inputs, *node.outputs) if value is not None and value.name]
    return Traced(
        [serde.serialize_node(node) for node in nodes],
        {v.name: [int(d) for d in v.shape] for v in values if v.shape is not None and all(isinstance(d, int) for d in v.shape)},
        {v.name: v.dtype.value for v in values if v.dtype is not None and v.dtype.value},
        model.graph.opset_imports.get("", 18),
    )


def make_record(traced: Traced, initialisers: Mapping[str, onnx.TensorProto], weights: Arrays) -> onnx.ModelProto:
    """The record of a graph with these initialisers, folded of ``traced``, of a model with these weights.

    An initialiser whose origin is not known, or that the record does not give to the bit, is listed as untraced.
    """
    maker = {out: node for node in traced.nodes for out in node.output}
    origins = _Origins(maker, {PREFIX + name for name in weights}, traced)
    untraced = {name for name in initialisers if origins[name].unknown}
    made = {name: tensor for name, tensor in initialisers.items() if name not in untraced and origins[name].weights}
    record = _record_graph(traced, maker, made, weights)
    again = values_of(record, weights)
    wrong = {name for name, tensor in made.items() if numpy_helper.from_array(again[name], name) != _plain(tensor)}
    if wrong:
        untraced |= wrong
        record = _record_graph(traced, maker, {name: tensor for name, tensor in made.items() if name not in wrong}, weights)
    helper.set_model_props(record, {UNTRACED: json.dumps(sorted(untraced))})
    return record


def untraced_of(record: onnx.ModelProto) -> list[str]:
    """Initialisers that may follow from weights, nobody knows how."""
    return json.loads({p.key: p.value for p in record.metadata_props}.get(UNTRACED, "[]"))


def write_record(onnx_path: str | Path, record: onnx.ModelProto) -> None:
    with atomic_path(record_path(onnx_path)) as temporary:
        onnx.save(record, str(temporary))


def record_entries(onnx_path: str | Path) -> dict:
    """What the card of a graph says of the record beside it."""
    path = record_path(onnx_path)
    record = load_graph(path)
    count = {"from_weights": len(record.graph.output), UNTRACED: untraced_of(record)}
    return {"weights_record": {"file": path.name, "sha256": sha256(path), **count}}


def read_record(onnx_path: str | Path, card: Mapping[str, Any]) -> onnx.ModelProto:
    """The record of an export with this card. Raises UserError where there is none, or not all weights can be replaced."""
    entry, path = card.get("weights_record"), record_path(onnx_path)
    if card.get("precision", "fp32") != "fp32":
        source = (card.get("lowering") or card.get("quantisation") or {}).get("source", "the fp32 graph")
        raise UserError(f"{onnx_path}: is in {card['precision']}: refit {source}, then convert that again")
    if entry is None or not path.is_file():
        raise UserError(f"{onnx_path}: no record of its weights is beside it ({path.name}): run `make export` once without REFIT")
    if sha256(path) != entry["sha256"]:
        raise UserError(f"{path}: changed after its export (digest differs): run `make export` once without REFIT")
    record = load_graph(path)
    if untraced := untraced_of(record):
        names = ", ".join(untraced[:3]) + (f" and {len(untraced) - 3} more" if len(untraced) > 3 else "")
        raise UserError(f"{onnx_path}: {names} may follow from weights, nobody knows how: run `make export` without REFIT")
    return record


def values_of(record: onnx.ModelProto, weights: Arrays) -> Arrays:
    """The initialisers that these weights give. Raises UserError where a weight is missing or of another shape or type."""
    from onnx.reference import ReferenceEvaluator

    feeds = {}
    for port in record.graph.input:
        value = weights.get(port.name)
        if value is None:
            raise UserError(f"the graph has a weight {port.name}, which the model lacks; run `make export` without REFIT")
        kind = port.type.tensor_type
        shape, dtype = [d.dim_value for d in kind.shape.dim], helper.tensor_dtype_to_np_dtype(kind.elem_type)
        if list(value.shape) != shape or value.dtype != dtype:
            raise UserError(
                f"{port.name} is {dtype}{shape} in the graph and {value.dtype}{list(value.shape)} in the model; "
                "run `make export` without REFIT"
            )
        feeds[port.name] = value
    names = [port.name for port in record.graph.output]
    # The evaluator that folded the constants: the same numbers to the bit
    return {n: np.asarray(v) for n, v in zip(names, ReferenceEvaluator(record).run(names, feeds))} if names else {}


def replace_weights(graph: onnx.ModelProto, record: onnx.ModelProto, weights: Arrays) -> int:
    """Put the initialisers that these weights give in the place of ``graph``'s; returns how many differ.

    Raises UserError, before any is replaced, where a weight or an initialiser is missing or of another shape or type.
    """
    values, found = values_of(record, weights), {i.name: i for i in graph.graph.initializer}
    made = {name: numpy_helper.from_array(np.asarray(value, order="C"), name) for name, value in values.items()}
    for name, new in made.items():
        if name not in found or (found[name].data_type, found[name].dims) != (new.data_type, new.dims):
            raise UserError(f"the graph has no {name} as its record has it; run `make export` without REFIT")
    changed = [name for name, new in made.items() if _plain(found[name]) != new]
    for name in changed:
        found[name].CopyFrom(made[name])
    return len(changed)


class _Origin(NamedTuple):
    weights: bool  # made of weights, among others
    unknown: bool  # or of what is neither a weight nor a constant of the code


class _Origins(dict[str, _Origin]):
    """Tensor name -> what its numbers come from."""

    def __init__(self, maker: Mapping[str, onnx.NodeProto], weights: set[str], traced: Traced) -> None:
        super().__init__(dict.fromkeys(weights, _Origin(True, False)))
        self.maker, self.traced = maker, traced

    def __missing__(self, name: str) -> _Origin:
        waiting = [name]
        while waiting:
            at = waiting[-1]
            node = self.maker.get(at)
            needed = [] if node is None else _data_inputs(node, self.traced)
            missing = [n for n in needed if n not in self]
            if missing:
                waiting += missing
                continue
            unknown = node is None or node.domain not in ("", "ai.onnx")
            self[at] = _Origin(any(self[n].weights for n in needed), unknown or any(self[n].unknown for n in needed))
            waiting.pop()
        return self[name]


def _record_graph(
    traced: Traced, maker: Mapping[str, onnx.NodeProto], made: Mapping[str, onnx.TensorProto], weights: Arrays
) -> onnx.ModelProto:
    """made: the initialisers to be its outputs."""
    own = {PREFIX + name: name for name in weights}
    wanted, waiting, read = set(), list(made), {}
    while waiting:
        name = waiting.pop()
        if name in own:
            read[own[name]] = name
        elif id(maker[name]) not in wanted:
            wanted.add(id(maker[name]))
            waiting += _data_inputs(maker[name], traced)
    nodes = [helper.make_node("Identity", [key], [name]) for key, name in sorted(read.items())]
    nodes += [_plain_node(node, traced) for node in traced.nodes if id(node) in wanted]
    formula: dict[str, str] = {}
    for node in nodes:
        # Without constants, such as the bounds of a cut: those are in the graph.
        weighted = ", ".join(formula.get(n, n) for n in node.input if formula.get(n, n))
        said = weighted if node.op_type == "Identity" or not weighted else f"{node.op_type}({weighted})"
        formula.update(dict.fromkeys(node.output, said))
    inputs = [
        helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(weights[key].dtype), weights[key].shape)
        for key in sorted(read)
    ]
    outputs = [helper.make_tensor_value_info(n, t.data_type, list(t.dims), formula[n]) for n, t in made.items()]
    graph = helper.make_graph(nodes, "weights", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", traced.opset)], ir_version=8)


def _data_inputs(node: onnx.NodeProto, traced: Traced) -> list[str]:
    """Inputs that ``_plain_node`` keeps: all but those of which only the shape or type matters, and is known."""
    if node.op_type in ("Shape", "Size") and node.input[0] in traced.shapes:
        return []
    typed = node.op_type == "CastLike" and node.input[1] in traced.types
    return [name for name in (node.input[:1] if typed else node.input) if name]


def _plain_node(node: onnx.NodeProto, traced: Traced) -> onnx.NodeProto:
    """The node, without inputs that only give a shape or a type."""
    if node.op_type in ("Shape", "Size") and node.input[0] in traced.shapes:
        shape, cut = traced.shapes[node.input[0]], {a.name: a.i for a in node.attribute}
        value = shape[cut.get("start", 0) : cut.get("end")] if node.op_type == "Shape" else int(np.prod(shape, dtype=np.int64))
        return helper.make_node("Constant", [], list(node.output), value=numpy_helper.from_array(np.asarray(value, np.int64)))
    if node.op_type == "CastLike" and node.input[1] in traced.types:
        return helper.make_node("Cast", [node.input[0]], list(node.output), to=traced.types[node.input[1]])
    plain = onnx.NodeProto()
    plain.CopyFrom(node)
    plain.name, plain.doc_string = "", ""
    del plain.metadata_props[:]
    return plain


def _plain(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """As ``from_array`` writes it: where and how numbers lie in the message says nothing of them."""
    return numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
