"""The fp16 graph of an exported step, as a file of its own: converted, measured, with card and recorded sequence."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from pathlib import Path

from uniad.artifacts import sequence as recorded
from uniad.artifacts.card import inherited, sequence_path, write_card
from uniad.artifacts.derived import write_derived
from uniad.artifacts.graph import load_graph
from uniad.errors import UserError
from uniad.export.audit import audit
from uniad.export.groups import UNGROUPED, layer_groups
from uniad.precision.fp16 import MARGIN, Converted, convert_precision
from uniad.precision.search import Say
from uniad.verify.run import contract_of
from uniad.verify.tolerances import TOLERANCES

PRECISION = "fp16"


def converted_name(onnx_path: str | Path) -> Path:
    """Where the fp16 graph of an fp32 one lies: ``<name>_fp16.onnx`` beside it."""
    path = Path(onnx_path)
    return path.with_name(f"{path.stem}_{PRECISION}{path.suffix}")


def write_converted(onnx_path: str | Path, out: str | Path, say: Say = print, threads: int = 0) -> dict:
    """Write the fp16 graph of ``onnx_path`` to ``out``, its card and its sequence beside it; return the card.

    Raises UserError, and writes nothing, where the fp32 graph lacks card, sequence or layer names, is converted already, or where
    no choice of layers holds the tolerance.
    """
    onnx_path, out = Path(onnx_path), Path(out)
    card, contract = contract_of(onnx_path)
    sequence = recorded.load(sequence_path(onnx_path), contract, card)
    converted = convert_precision(load_graph(onnx_path), contract, sequence, say, threads)
    faults = audit(converted.model, contract)
    if faults:
        raise UserError(f"{out}: the fp16 graph is not deployable: {faults[0]}")
    write_derived(converted.model, onnx_path, out)
    written = {
        **inherited(card),
        "sequence": sequence_path(out).name,
        "precision": PRECISION,
        "precision_of_groups": precision_of_groups(converted),
        "lowering": _account(converted, onnx_path.name, card["sha256"]),
    }
    write_card(out, written)
    return written


def precision_of_groups(converted: Converted) -> dict[str, str]:
    """Group -> fp16, fp32, or how many of its nodes keep fp32 in a group that is converted otherwise."""
    kept = {name for names in converted.kept.values() for name in names}
    precisions = {}
    for group, names in layer_groups(converted.model).items():
        floats = sum(name in kept for name in names)
        whole = group in converted.choice.kept or floats == len(names)
        precisions[group] = "fp32" if whole else PRECISION if not floats else f"{PRECISION}, {floats} of {len(names)} nodes fp32"
    return precisions


def _account(converted: Converted, source: str, digest: str) -> dict:
    choice = converted.choice
    accuracy = [group for group in choice.kept if group != UNGROUPED]
    nodes = len(converted.model.graph.node)
    return {
        "source": source,
        "source_sha256": digest,
        "measured_by": "onnxruntime, every half rounded where it is made",
        "effect": choice.effect.to_json(),
        "tolerance": {k: v for k, v in asdict(TOLERANCES[PRECISION]).items() if isfinite(v)},
        "range_margin": MARGIN,
        "nodes": nodes,
        "kept": {reason: len(names) for reason, names in converted.kept.items()},
        # What would break the tolerance were the group converted as well, up to the frame that shows it
        "kept_for_accuracy": {group: choice.without[group].to_json() for group in accuracy},
        "all_lowered": choice.all_converted.to_json(),
        # For builders that choose types themselves and must be told, see docs/export.md.
        "fp32_nodes": [name for names in converted.kept.values() for name in names],
    }
