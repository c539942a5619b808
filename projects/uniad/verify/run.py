"""Replay the recorded sequence of an ONNX through a backend and judge it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from uniad.artifacts import sequence as recorded
from uniad.artifacts.card import contract_of, place_of, read_card, sequence_path, spec_of
from uniad.backends.identity import check_identity, this_device
from uniad.backends.runner import OrtRunner, Runner, TensorRtRunner, TorchRunner
from uniad.engines.tensorrt import load_backend
from uniad.errors import UserError
from uniad.files import atomic_path
from uniad.interface.contract import Contract
from uniad.verify.compare import Report, compare, replay


def verify_engine(
    onnx_path: str | Path, engine: str | Path | None, backend: str, precision: str = "fp32", checkpoint: str | Path | None = None
) -> Report:
    """Report of one backend. ``engine`` is needed for the TensorRT backends, ``checkpoint`` overrides the card's for torch."""
    card, contract = contract_of(onnx_path)
    sequence = recorded.load(sequence_path(onnx_path), contract, card)
    runner = _runner(card, contract, onnx_path, engine, backend, checkpoint, precision)
    return compare(replay(runner, sequence), sequence, contract, backend, precision)


def _runner(
    card: dict, contract: Contract, onnx_path: str | Path, engine: str | Path | None, backend: str,
    checkpoint: str | Path | None, precision: str,
) -> Runner:  # fmt: skip
    if backend == "onnxruntime":
        return OrtRunner(contract, _as_computed(card, onnx_path))
    if backend in ("torch", "compiled"):
        import torch

        if backend == "compiled" and not torch.cuda.is_available():
            raise UserError("--backend compiled records the step on a GPU and PyTorch sees none")
        if backend == "compiled" and precision == "int8":
            raise UserError("--backend compiled computes in fp32 or fp16; int8 is for engines")
        from uniad.training.carried import load_trained

        model = load_trained(spec_of(card), checkpoint or place_of(card["checkpoint"]), None)[0].eval()
        if backend == "torch":
            return TorchRunner(contract, model)
        from uniad.backends.compiled import CompiledRunner

        return CompiledRunner(contract, model, precision)
    if backend in ("tensorrt", "tensorrt_rtx", "trtexec"):
        if engine is None:
            raise UserError(f"--backend {backend} needs --engine FILE; `make engine` builds one")
        built = read_card(engine)
        if built["onnx_sha256"] != card["sha256"]:
            raise UserError(f"{engine}: was built from another ONNX than {onnx_path}; run `make engine` again")
        if backend == "trtexec":
            from uniad.backends import trtexec
            from uniad.backends.trtexec_runner import TrtexecRunner

            tool = trtexec.probe()
            check_identity(engine, built, tool.version_text, this_device())
            return TrtexecRunner(contract, engine, tool)
        if this_device():
            check_identity(engine, built, load_backend(backend).__version__, this_device())
        return TensorRtRunner(contract, engine, backend)
    raise UserError(f"unknown backend {backend!r}: choose torch, compiled, onnxruntime, tensorrt, tensorrt_rtx or trtexec")


def _as_computed(card: dict, onnx_path: str | Path) -> Any:
    """What onnxruntime on CPU must run so that halves are rounded as a device rounds them: see ``half.rounded``."""
    import onnxruntime

    if card.get("precision", "fp32") == "fp32" or "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        return onnx_path
    import onnx

    from uniad.precision.half import has_halves, rounded

    model = onnx.load(str(onnx_path))
    return rounded(model) if has_halves(model) else onnx_path


def write_report(path: str | Path, reports: list[Report]) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps([r.to_json() for r in reports], indent=2) + "\n")
