"""Locate a fault of an exported graph along its recorded sequence: what ``make verify`` does when an output is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from uniad.artifacts import sequence as recorded
from uniad.artifacts.card import card_path, read_card, sequence_path
from uniad.artifacts.graph import load_graph
from uniad.bisect.probes import EngineSide, OrtSide
from uniad.bisect.search import Finding, Replay, locate
from uniad.engines.base import BuildOptions
from uniad.errors import UserError
from uniad.interface.contract import Contract
from uniad.postprocess.map_merge import finish_lanes
from uniad.verify.compare import compare
from uniad.verify.run import contract_of


def locate_fault(
    onnx_path: str | Path,
    options: BuildOptions,
    *,
    candidate: str | Path | None = None,
    memory_mib: int = 1024,
    say: Callable[[str], None] = print,
) -> Finding:
    """The first tensor at which ``options.backend`` (onnxruntime, or one that builds) departs from onnxruntime in fp32.

    ``candidate``: another version of the graph, which the back end is given instead. A graph whose card says that it was made
    from another, by conversion to fp16 or quantisation, is held against that one.
    """
    source = source_of(onnx_path)
    if source and candidate is None:
        onnx_path, candidate = source, onnx_path
    card, contract = contract_of(onnx_path)
    if card.get("sampling") == "plugin":
        raise UserError(f"{onnx_path}: onnxruntime has no such plugin, so it is no reference; export with --sampling gather")
    sequence = recorded.load(sequence_path(onnx_path), contract, card)
    model = other = load_graph(onnx_path)
    other_card = card
    if candidate is not None:
        if not Path(candidate).is_file():
            raise UserError(f"{candidate}: no such file; it should be another version of {onnx_path}")
        other = load_graph(candidate)
        other_card = read_card(candidate) if card_path(candidate).is_file() else {}
    side = OrtSide(other) if options.backend == "onnxruntime" else EngineSide(other, options, other_card)
    reference = OrtSide(model, optimise=False, name="reference")
    replay = replay_of(contract, sequence, options.precision)
    return locate(reference, side, replay, options.precision, memory_mib=memory_mib, say=say)


def source_of(onnx_path: str | Path) -> Path | None:
    """The fp32 graph that a graph of lower precision was made from; None for one that is fp32 itself."""
    card = read_card(onnx_path)
    made = card.get("lowering") or card.get("quantisation")
    if not made:
        return None
    source = Path(onnx_path).with_name(made["source"])
    if not source.is_file() or read_card(source)["sha256"] != made["source_sha256"]:
        raise UserError(
            f"{onnx_path}: was made from {source.name}, which is no longer beside it as it was; make {Path(onnx_path).name} again"
        )
    return source


def precision_of(onnx_path: str | Path) -> str:
    """What the graph's card says: fp32 unless it was converted."""
    return read_card(onnx_path).get("precision", "fp32")


def replay_of(contract: Contract, sequence: recorded.Sequence, precision: str) -> Replay:
    """What locating a fault asks of a recorded sequence: its frames, and our limits on the outputs of a single one."""

    def wrong(got: dict, want: dict, end_state: dict, row: str) -> list[str]:
        broken = [name for name, value in got.items() if not np.isfinite(value).all()]
        if broken:
            return broken
        outputs = [finish_lanes(side, contract.map_merge) for side in (got, want)]
        report = compare(outputs[:1], recorded.Sequence([{}], outputs[1:], end_state), contract, "", row)
        return [name for name in dict.fromkeys(tensor for _, tensor in report.departed) if name in contract.output_names]

    return Replay(
        feeds=sequence.feeds,
        state=contract.initial_state(),
        carry=contract.carry,
        judge=lambda got, want: wrong(got, want, {p.name: want[f"next_{p.name}"] for p in contract.state}, precision),
        recorded=lambda i, want: wrong(want, {**want, **sequence.expected[i]}, {}, "fp32"),
    )


def locate_command(onnx_path: str | Path, backend: str, precision: str) -> str:
    """What a person types to find the tensor that is wrong."""
    return f"tools/locate.py {onnx_path} --backend {backend} --precision {precision}"
