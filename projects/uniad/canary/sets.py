"""Canaries as files: drawn, written, and cut to what a graph needs to know of itself."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from uniad.artifacts.graph import load_graph
from uniad.backends.rounding import FLOAT, has_halves, tensor_types
from uniad.canary.catalog import KINDS, Facts
from uniad.canary.graphs import Micro
from uniad.canary.judge import ARRAYS, ROWS, CanarySet, read_set
from uniad.errors import UserError
from uniad.export.passes import opset_of
from uniad.files import write_npz

_FLOAT8 = {TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2, TensorProto.FLOAT8E5M2FNUZ}
_SCATTERS = {"ScatterND", "ScatterElements"}


def write_set(folder: str | Path, only: Collection[str] = ()) -> CanarySet:
    """All canaries, or ``only`` these, in ``folder`` (made if absent). The same code gives the same bytes."""
    folder = Path(folder)
    for name in only:
        if name not in KINDS:
            raise UserError(f"no canary is called {name!r}: choose among {', '.join(KINDS)}")
    folder.mkdir(parents=True, exist_ok=True)
    rows, arrays = {}, {}
    for name, kind in KINDS.items():
        if only and name not in only:
            continue
        graph = Micro(name, kind.opset)
        signs = kind.make(graph)
        model = graph.model()
        data = model.SerializeToString(deterministic=True)
        (folder / f"{name}.onnx").write_bytes(data)
        mine = {f"in/{key}": value for key, value in graph.inputs.items()}
        mine.update({f"out/{key}": value for key, (_, value) in graph.outputs.items()})
        for number, sign in enumerate(signs.values()):
            kept = {key: np.asarray(value, graph.outputs[key][1].dtype) for key, value in sign.items()}
            mine.update({f"sign{number}/{key}": value for key, value in kept.items()})
        digest = hashlib.sha256(data)
        for key in sorted(mine):
            digest.update(key.encode() + mine[key].tobytes())
        arrays.update({f"{name}/{key}": value for key, value in mine.items()})
        rows[name] = {
            "what": kind.what,
            "threads": list(kind.threads),
            "seen_in": kind.seen_in,
            "precision": kind.precision,
            "opset": kind.opset,
            "limit": kind.limit,
            "avoid": [list(pair) for pair in kind.avoid],
            "elsewhere": dict(kind.elsewhere),
            "inputs": {key: {"shape": list(v.shape), "dtype": v.dtype.name} for key, v in graph.inputs.items()},
            "outputs": {key: {"shape": list(v.shape), "dtype": v.dtype.name} for key, (_, v) in graph.outputs.items()},
            "dynamic": {key: [list(bound) for bound in bounds] for key, bounds in graph.dynamic.items()},
            "fp32_nodes": _float_nodes(model) if kind.precision == "fp16" else [],
            "signs": list(signs),
            "weight_bytes": _weight_bytes(model) if kind.precision in ("int8", "fp8") else 0,
            "sha256": digest.hexdigest(),
        }
    write_npz(folder / ARRAYS, arrays)
    (folder / ROWS).write_text(json.dumps({"version": 1, "canaries": rows}, indent=1) + "\n")
    return read_set(folder)


def _float_nodes(model: onnx.ModelProto) -> list[str]:
    """Nodes that compute in float between halves: a builder that chooses types itself is told of them."""
    types = tensor_types(model)
    return [node.name for node in model.graph.node if node.op_type != "Cast" and any(types[out] == FLOAT for out in node.output)]


def _weight_bytes(model: onnx.ModelProto) -> int:
    """Of float weights that are large enough to tell by an engine's size whether they were quantised."""
    size = sum(int(np.prod(i.dims)) * 4 for i in model.graph.initializer if i.data_type == FLOAT)
    return size if size >= 2**19 else 0


def facts_of(onnx_path: str | Path) -> Facts:
    """What canaries need to know of a graph. Raises UserError where the file is none."""
    return facts_of_graph(load_graph(onnx_path, weights=False))


def facts_of_graph(model: onnx.ModelProto) -> Facts:
    nodes = list(model.graph.node)
    kinds = {i.data_type for i in model.graph.initializer}
    kinds |= {a.t.data_type for n in nodes if n.op_type == "Constant" for a in n.attribute if a.name == "value"}
    wholes = {i.name: i for i in model.graph.initializer}
    wholes.update({n.output[0]: n.attribute[0].t for n in nodes if n.op_type == "Constant" and n.attribute[0].name == "value"})
    most_k = 0
    for node in nodes:
        if node.op_type == "TopK" and node.input[1] in wholes:
            most_k = max(most_k, int(np.atleast_1d(onnx.numpy_helper.to_array(wholes[node.input[1]]))[0]))
    return Facts(
        operators=frozenset(n.op_type for n in nodes),
        backbone=frozenset(n.op_type for n in nodes if n.name.startswith("img_backbone")),
        opset=opset_of(model),
        halves=has_halves(model),
        int8=TensorProto.INT8 in kinds and any(n.op_type == "QuantizeLinear" for n in nodes),
        float8=bool(kinds & _FLOAT8),
        dynamic=any(not d.HasField("dim_value") for v in model.graph.input for d in v.type.tensor_type.shape.dim),
        most_k=most_k,
        reductions=any(
            a.name == "reduction" and a.s not in (b"", b"none") for n in nodes if n.op_type in _SCATTERS for a in n.attribute
        ),
    )
