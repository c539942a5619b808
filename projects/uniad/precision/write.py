"""The fp16 graph of an exported step, as a file of its own: lowered, measured, with card and recorded sequence."""

from __future__ import annotations

from dataclasses import asdict
from math import isfinite
from pathlib import Path

from uniad.artifacts import sequence as recorded
from uniad.artifacts.card import sequence_path, write_card
from uniad.artifacts.derived import write_derived
from uniad.artifacts.graph import load_graph
from uniad.errors import UserError
from uniad.export.audit import audit
from uniad.export.groups import GLUE, layer_groups
from uniad.precision.fp16 import MARGIN, Lowered, lower
from uniad.precision.search import Say
from uniad.verify.run import contract_of
from uniad.verify.tolerances import TOLERANCES

PRECISION = "fp16"


def lowered_name(onnx_path: str | Path) -> Path:
    """Where the fp16 graph of an fp32 one lies: ``<name>_fp16.onnx`` beside it."""
    path = Path(onnx_path)
    return path.with_name(f"{path.stem}_{PRECISION}{path.suffix}")


def write_lowered(onnx_path: str | Path, out: str | Path, say: Say = print, threads: int = 0) -> dict:
    """Write the fp16 graph of ``onnx_path`` to ``out``, its card and its sequence beside it; return the card.

    Raises UserError, and writes nothing, where the fp32 graph lacks card, sequence or layer names, is lowered already, or where
    no choice of layers holds the tolerance.
    """
    onnx_path, out = Path(onnx_path), Path(out)
    card, contract = contract_of(onnx_path)
    sequence = recorded.load(sequence_path(onnx_path), contract, card)
    lowered = lower(load_graph(onnx_path), contract, sequence, say, threads)
    faults = audit(lowered.model, contract)
    if faults:
        raise UserError(f"{out}: the fp16 graph is not deployable: {faults[0]}")
    write_derived(lowered.model, onnx_path, out)
    written = {
        **card,
        "sequence": sequence_path(out).name,
        "precision": PRECISION,
        "precision_of_groups": precision_of_groups(lowered),
        "lowering": _account(lowered, onnx_path.name, card["sha256"]),
    }
    write_card(out, written)
    return written


def precision_of_groups(lowered: Lowered) -> dict[str, str]:
    """Group -> fp16, fp32, or how many of its nodes keep fp32 in a group that is lowered otherwise."""
    kept = {name for names in lowered.kept.values() for name in names}
    said = {}
    for group, names in layer_groups(lowered.model).items():
        floats = sum(name in kept for name in names)
        whole = group in lowered.choice.kept or floats == len(names)
        said[group] = "fp32" if whole else PRECISION if not floats else f"{PRECISION}, {floats} of {len(names)} nodes fp32"
    return said


def _account(lowered: Lowered, source: str, digest: str) -> dict:
    choice = lowered.choice
    accuracy = [group for group in choice.kept if group != GLUE]
    nodes = len(lowered.model.graph.node)
    return {
        "source": source,
        "source_sha256": digest,
        "measured_by": "onnxruntime, every half rounded where it is made",
        "effect": choice.effect.to_json(),
        "tolerance": {k: v for k, v in asdict(TOLERANCES[PRECISION]).items() if isfinite(v)},
        "range_margin": MARGIN,
        "nodes": nodes,
        "kept": {reason: len(names) for reason, names in lowered.kept.items()},
        # What would break the tolerance were the group lowered as well, up to the frame that shows it
        "kept_for_accuracy": {group: choice.without[group].to_json() for group in accuracy},
        "all_lowered": choice.all_lowered.to_json(),
        # For builders that choose types themselves and must be told, see docs/export.md.
        "fp32_nodes": [name for names in lowered.kept.values() for name in names],
    }
