"""An exported graph with another checkpoint's weights: what an export of that checkpoint would write, without tracing a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from uniad.artifacts.card import read_card, spec_of
from uniad.artifacts.graph import load_graph
from uniad.config.spec import Spec
from uniad.errors import UserError
from uniad.export.weights import named_weights, read_record, replace_weights, write_record
from uniad.files import atomic_path
from uniad.formats.card import Card
from uniad.models.uniad import UniAD
from uniad.training.state import flatten

AGAIN = "run `make export` without REFIT"
_FILES = ("model.motion.anchor_path",)  # what such a file holds is a weight


def check_export(onnx_path: str | Path, spec: Spec, wanted: Mapping[str, Any]) -> Card:
    """The card of an export that can be refitted for this spec; wanted: entries that its card must have.

    Raises UserError for a graph that is not there, of another config or other options, or without a whole record of its weights.
    """
    card = read_card(onnx_path)
    read_record(onnx_path, card)
    for key, value in wanted.items():
        if card[key] != value:
            raise UserError(f"{onnx_path}: has {key} {card[key]}, asked for is {value}; {AGAIN}")
    then, now = flatten(spec_of(card)), flatten(spec)
    for key in sorted(then.keys() | now.keys()):
        if key.startswith(("model.", "data.image.", "stage")) and key not in _FILES and then.get(key) != now.get(key):
            raise UserError(f"{onnx_path}: was exported with {key}={then.get(key)}, here it is {now.get(key)}; {AGAIN}")
    return card


def refit_onnx(onnx_path: str | Path, card: Card, model: UniAD, out: str | Path) -> onnx.ModelProto:
    """Write the graph of ``onnx_path`` with the weights of ``model`` to ``out``, its record beside it; return the graph.

    Raises UserError, and writes nothing, where the model's weights are not those of the graph by name, shape and type.
    """
    record, graph = read_record(onnx_path, card), load_graph(onnx_path)
    try:
        changed = replace_weights(graph, record, named_weights(model))
    except UserError as error:
        raise UserError(f"{onnx_path}: {error}") from None
    with atomic_path(out) as temporary:
        onnx.save(graph, str(temporary))
    write_record(out, record)
    print(f"{onnx_path}: {changed} of {len(record.graph.output)} tensors made of weights change")
    return graph
