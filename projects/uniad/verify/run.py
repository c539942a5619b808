"""Replay the recorded sequence of an ONNX through a backend and judge it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from uniad.artifacts import sequence as recorded
from uniad.artifacts.card import contract_of, place_of, read_card, sequence_path, spec_of
from uniad.artifacts.graph import load_graph
from uniad.backends.base import Runner
from uniad.backends.open import (
    BACKENDS,
    CHECKPOINT_BACKENDS,
    ENGINE_BACKENDS,
    GRAPH_BACKENDS,
    open_checkpoint,
    open_engine,
    open_onnx,
)
from uniad.errors import UserError
from uniad.files import atomic_path
from uniad.formats.card import Card
from uniad.interface.contract import Contract
from uniad.verify.compare import Report, compare, replay


def verify_engine(
    onnx_path: str | Path, engine: str | Path | None, backend: str, precision: str = "fp32", checkpoint: str | Path | None = None
) -> Report:
    """Report of one backend. ``engine`` is needed for the TensorRT backends, ``checkpoint`` overrides the card's for torch."""
    card, contract = contract_of(onnx_path)
    sequence = recorded.load(sequence_path(onnx_path), contract, card)
    runner = _open(card, contract, onnx_path, engine, backend, checkpoint, precision)
    return compare(replay(runner, sequence), sequence, contract, backend, precision)


def _open(
    card: Card, contract: Contract, onnx_path: str | Path, engine: str | Path | None, backend: str,
    checkpoint: str | Path | None, precision: str,
) -> Runner:  # fmt: skip
    if backend in GRAPH_BACKENDS:
        return open_onnx(contract, _as_computed(card, onnx_path), backend=backend)
    if backend in CHECKPOINT_BACKENDS:
        device = "cpu" if backend == "torch" else "auto"  # recorded on a CPU
        return open_checkpoint(spec_of(card), checkpoint or place_of(card["checkpoint"]), backend, device, precision)
    if backend not in ENGINE_BACKENDS:
        raise UserError(f"unknown backend {backend!r}: choose {', '.join(BACKENDS)}")
    if engine is None:
        raise UserError(f"--backend {backend} needs --engine FILE; `make engine` builds one")
    built = read_card(engine)
    if built["onnx_sha256"] != card["sha256"]:
        raise UserError(f"{engine}: was built from another ONNX than {onnx_path}; run `make engine` again")
    return open_engine(built, contract, engine, backend)


def _as_computed(card: Card, onnx_path: str | Path) -> Any:
    """What onnxruntime on CPU must run so that halves are rounded as a device rounds them: see ``backends.rounding``."""
    import onnxruntime

    if card.get("precision", "fp32") == "fp32" or "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return onnx_path

    from uniad.backends.rounding import has_halves, rounded

    model = load_graph(onnx_path)
    return rounded(model) if has_halves(model) else onnx_path


def write_report(path: str | Path, reports: list[Report]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps([r.to_json() for r in reports], indent=2) + "\n")
