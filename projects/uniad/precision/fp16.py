"""The step in mixed fp16: which nodes compute in half, chosen by what is measured over the recorded sequence.

Four kinds of nodes keep fp32, each for a reason that the card of the graph names:
  glue       poses, clocks, track slots and ids: little work, and global positions of kilometres
  positions  where to sample and what to gather: half counts 2048 steps, a BEV of 200 cells needs parts of each
  range      values, or constants, that half cannot hold, with room to spare
  accuracy   layer groups without which the tolerance does not hold, see ``sensitivity``
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from uniad.artifacts.sequence import Sequence
from uniad.backends.rounding import MOVES, has_halves, tensor_types
from uniad.errors import UserError
from uniad.export.groups import UNGROUPED, layer_groups
from uniad.interface.contract import Contract
from uniad.precision.half import HALF_MAX, choose_types, convert, fold_batch_norms, lift_constants
from uniad.precision.ranges import record_peaks
from uniad.precision.search import Choice, Effect, Say, Span, choose, measure

MARGIN = 4.0  # another scene may have values that much larger than the recorded one
LOST = 0.01  # a constant whose halves are off by this share (they underflow) keeps fp32

# A position is what these make of others, element by element; matrix products, norms and samples begin something new.
_ELEMENTWISE = {
    "Abs", "Add", "Ceil", "Clip", "Cos", "Div", "Exp", "Expand", "Floor", "Log", "Max", "Min", "Mod", "Mul", "Neg", "Pow",
    "Reciprocal", "Round", "Sigmoid", "Sin", "Sqrt", "Sub", "Where",
} | MOVES  # fmt: skip
_ON_INDICES = {"Floor", "Ceil", "Round", "Mod"}


@dataclass(frozen=True)
class Converted:
    """A mixed graph and how it came to be."""

    model: onnx.ModelProto
    kept: dict[str, list[str]]  # reason -> node names in fp32; a node has the first reason that applies
    choice: Choice
    peaks: dict[str, float]


def position_nodes(model: onnx.ModelProto, types: dict[str, int]) -> set[str]:
    """Nodes that compute where to sample or what to gather: back from sample grids and from numbers that become whole, and on
    through what is made of positions alone."""
    nodes = list(model.graph.node)
    producer = {out: node for node in nodes for out in node.output}
    seeds = []
    for node in nodes:
        if node.op_type == "GridSample":
            seeds.append(node.input[1])
        elif node.op_type in _ON_INDICES and types[node.input[0]] == TensorProto.FLOAT:
            seeds.append(node.output[0])
        elif node.op_type == "Cast" and types[node.input[0]] == TensorProto.FLOAT:
            if types[node.output[0]] in (TensorProto.INT32, TensorProto.INT64):
                seeds.append(node.input[0])
    found: set[str] = set()
    while seeds:
        node = producer.get(seeds.pop())
        if node is None or node.name in found or node.op_type not in _ELEMENTWISE:
            continue
        found.add(node.name)
        seeds += [n for n in node.input if types.get(n) == TensorProto.FLOAT]
    constants = {i.name for i in model.graph.initializer}
    for node in nodes:
        floats = [n for n in node.input if types.get(n) == TensorProto.FLOAT and n not in constants]
        if node.op_type in _ELEMENTWISE and floats and all(n in producer and producer[n].name in found for n in floats):
            found.add(node.name)
    return found


def out_of_range(model: onnx.ModelProto, peaks: dict[str, float], types: dict[str, int]) -> set[str]:
    """Nodes that read, make or hold what half cannot."""
    limit = HALF_MAX / MARGIN
    lost = {i.name for i in model.graph.initializer if i.data_type == TensorProto.FLOAT and not _fits(numpy_helper.to_array(i))}
    return {
        node.name
        for node in model.graph.node
        if any(n in lost or peaks.get(n, 0.0) > limit for n in (*node.input, *node.output) if types.get(n) == TensorProto.FLOAT)
    }


def _fits(value: np.ndarray) -> bool:
    """Whether halves hold these constants: none too large, and not all of them too small. Infinities are halves, too."""
    value = value[np.isfinite(value)].astype(np.float64)
    if not value.size or not np.abs(value).max():
        return True
    if np.abs(value).max() > HALF_MAX:
        return False
    error = value - value.astype(np.float16).astype(np.float64)
    return float(np.sqrt((error**2).mean() / (value**2).mean())) < LOST


def prepare(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float graph as it is converted: constants one by one, norms folded into convolutions. Changes ``model``."""
    if has_halves(model):
        raise UserError("this graph has halves already; convert the fp32 graph that `make export` wrote")
    return fold_batch_norms(lift_constants(model))


def convert_precision(
    model: onnx.ModelProto, contract: Contract, sequence: Sequence, say: Say = print, threads: int = 0, precision: str = "fp16"
) -> Converted:
    """Choose, convert, measure. Raises UserError where no choice holds the tolerance. Changes ``model``."""
    model = prepare(model)
    types = tensor_types(model)
    groups = layer_groups(model)
    say(f"recording ranges over {len(sequence)} frames")
    peaks = record_peaks(model, contract, sequence, threads)
    fixed = {
        "glue": set(groups.get(UNGROUPED, ())),
        "positions": position_nodes(model, types),
        "range": out_of_range(model, peaks, types),
    }
    held = set().union(*fixed.values())

    def kept_nodes(kept: frozenset[str]) -> set[str]:
        return held.union(*(groups[g] for g in kept))

    def effect_of(kept: frozenset[str], span: Span) -> Effect:
        return measure(convert(model, kept_nodes(kept)), contract, sequence, precision, span, threads=threads)

    choice = choose(groups, effect_of, say, always=[UNGROUPED] if UNGROUPED in groups else [])
    keep = kept_nodes(frozenset(choice.kept))
    half = choose_types(model, keep, types)
    fixed["accuracy"] = set().union(*(groups[g] for g in choice.kept if g != UNGROUPED)) if choice.kept else set()
    reasons: dict[str, list[str]] = {reason: [] for reason in (*fixed, "operators")}
    for node in model.graph.node:
        if node.name not in half and any(types.get(n) == TensorProto.FLOAT for n in (*node.input, *node.output)):
            # "operators": those that have no half, and moves that hand floats on
            reason = next((r for r, names in fixed.items() if node.name in names), "operators")
            reasons[reason].append(node.name)
    converted = convert(model, keep)
    onnx.checker.check_model(converted, full_check=True)
    return Converted(converted, reasons, choice, peaks)
