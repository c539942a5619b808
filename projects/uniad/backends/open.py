"""Open a graph, a TensorRT engine or a checkpoint in a back end: the one place that knows which of them runs what.

PyTorch, onnxruntime and TensorRT are imported when they are asked for: a car has one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from uniad.artifacts.card import CHECKPOINTS, card_path, check_contract, place_of, read_card, spec_of
from uniad.backends import trtexec
from uniad.backends.base import Runner
from uniad.backends.identity import check_identity, this_device
from uniad.backends.tensorrt import TensorRtRunner, load_package
from uniad.backends.trtexec_runner import TrtexecRunner
from uniad.config.read import load_spec
from uniad.config.spec import Spec
from uniad.errors import UserError
from uniad.formats.card import Card
from uniad.interface.contract import Contract, contract_for

CHECKPOINT_BACKENDS = ("torch", "compiled")
ENGINE_BACKENDS = ("tensorrt", "tensorrt_rtx", "trtexec")  # the last starts a process a frame: where no Python package is
GRAPH_BACKENDS = ("onnxruntime",)
BACKENDS = (*CHECKPOINT_BACKENDS, *GRAPH_BACKENDS, *ENGINE_BACKENDS)


class Model(NamedTuple):
    """What a file is, known before it is loaded, which takes longer."""

    path: Path
    spec: Spec
    options: list[str]  # of the config, those of the card included
    card: Card | None  # None: a checkpoint


def find_model(path: str | Path, config: str | Path | None = None, options: Sequence[str] = ()) -> Model:
    """An ONNX, a TensorRT engine, the card of either, or a checkpoint, which needs its ``config``.

    config, options: in place of the card's config file, and config values on top, such as where the data lies.
    Raises UserError for a missing card and for a file changed after its card was written.
    """
    path = Path(path)
    if path.name.endswith((".onnx.json", ".engine.json")):
        path = path.with_suffix("")
    if path.suffix not in CHECKPOINTS:
        if path.suffix not in (".onnx", ".engine") and path.is_file() and not card_path(path).exists():
            raise UserError(f"{path} is no model: ONNX and engines have a card beside them, a checkpoint ends in .pth or .pt")
        card = read_card(path)
        return Model(path, spec_of(card, config, options), [*card.get("config_options", []), *options], card)
    if config is None:
        raise UserError(f"{path}: a checkpoint needs the config that it was trained with")
    return Model(path, load_spec(config, options), list(options), None)


def open_model(
    model: Model, device: str = "auto", backend: str = "auto", threads: int = 0, say: Callable[[str], None] | None = None
) -> Runner:
    """The model in a back end.

    backend: auto takes what the file is made for; torch also runs an ONNX's checkpoint, and compiled runs it in fp16 on a
    GPU, many times faster, after minutes of compiling. device: auto, cpu or cuda.
    threads: of onnxruntime, 0 its own choice. say: told what a checkpoint's weights gave the model.
    Raises UserError for a config that has changed since the export, and a backend or device that is not here.
    """
    path, spec, _, card = model
    choices = ("auto", *BACKENDS)
    if backend not in choices:
        raise UserError(f"unknown backend {backend!r}: choose {', '.join(choices)}")
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"unknown device {device!r}: choose auto, cpu or cuda")
    if device == "cuda" and not this_device():
        raise UserError("device 'cuda' asked for, but this machine shows no GPU: check nvidia-smi, or use device cpu")
    if card is None:
        if backend not in ("auto", *CHECKPOINT_BACKENDS):
            raise UserError(f"{path}: a checkpoint runs in torch; for {backend} run `make export` or `make engine` first")
        return open_checkpoint(spec, path, backend, device, say=say)
    contract = check_contract(card, contract_for(spec), path)
    if card.get("kind") == "engine":
        return open_engine(card, contract, path, backend, device)
    if backend in ENGINE_BACKENDS:
        raise UserError(f"{path}: {backend} runs an engine; `make engine ENGINE_BACKEND={backend}` builds one from this ONNX")
    if backend in CHECKPOINT_BACKENDS:
        return open_checkpoint(spec, place_of(card["checkpoint"]), backend, device, say=say)
    return open_onnx(contract, path, device, threads, "onnxruntime" if backend == "auto" else backend)


def open_checkpoint(
    spec: Spec, checkpoint: str | Path, backend: str, device: str = "auto", precision: str = "fp16",
    say: Callable[[str], None] | None = None,
) -> Runner:  # fmt: skip
    """A checkpoint in ``torch`` (in fp32), or in ``compiled``, on a GPU, in fp32 or fp16. device: auto, cpu or cuda.

    Raises UserError without PyTorch, and for a checkpoint that does not fit the spec.
    """
    try:
        from uniad.training.distributed import pick_device
    except ModuleNotFoundError:
        raise UserError(
            f"{checkpoint}: running a checkpoint takes PyTorch, which is not installed here (the extra runtime is for ONNX and "
            "TensorRT engines): pip install '.[train]'"
        ) from None
    from uniad.training.carried import load_trained

    device = pick_device(device).type
    if backend == "compiled" and device == "cpu":
        raise UserError(f"{checkpoint}: backend compiled records the step on a GPU; on the CPU use torch or onnxruntime")
    if backend == "compiled" and precision == "int8":
        raise UserError(f"{checkpoint}: backend compiled computes in fp32 or fp16; int8 is for TensorRT engines")
    model = load_trained(spec, checkpoint, say)[0].eval()
    if backend == "compiled":
        from uniad.backends.compiled import CompiledRunner

        return CompiledRunner(contract_for(spec), model, precision, device=device)
    from uniad.backends.torch import TorchRunner

    return TorchRunner(contract_for(spec), model, device)


def load_weights(runner: Runner, spec: Spec, checkpoint: str | Path, say: Callable[[str], None] | None = None) -> None:
    """Another checkpoint's weights in a runner that ``open_checkpoint`` opened. Raises UserError, and changes nothing, for a
    checkpoint that does not fit the spec, and for a runner of an ONNX or a TensorRT engine."""
    if runner.name not in CHECKPOINT_BACKENDS:
        return runner.load_weights(None)  # says why not; PyTorch may not be here
    from uniad.training.carried import load_trained

    runner.load_weights(load_trained(spec, checkpoint, say)[0])


def open_onnx(
    contract: Contract, graph: str | Path | Any, device: str = "auto", threads: int = 0, backend: str = "onnxruntime"
) -> Runner:
    """An ONNX, a file or in memory, in one of ``GRAPH_BACKENDS``.

    device: auto, cpu or cuda; threads: of the CPU, 0 its own choice.
    """
    from uniad.backends.onnxruntime import OrtRunner

    return OrtRunner(contract, graph, threads, device)


def open_engine(card: Card, contract: Contract, path: str | Path, backend: str = "auto", device: str = "auto") -> Runner:
    """A TensorRT engine in what runs it; auto takes the Python package.

    Raises UserError, before the engine is loaded, where it was built for another TensorRT or another GPU.
    """
    # What trtexec builds, the package of the same TensorRT loads, and the other way round.
    runs_in = ("tensorrt_rtx",) if card["builder"] == "tensorrt_rtx" else ("tensorrt", "trtexec")
    if backend not in ("auto", *runs_in):
        raise UserError(f"{path}: this engine runs in {' or '.join(runs_in)}, not in {backend}")
    if device == "cpu":
        raise UserError(f"{path}: an engine runs on a GPU; for the CPU open the ONNX")
    here = this_device()
    if backend == "trtexec":
        tool = trtexec.probe()
        check_identity(path, card, tool.version_text, here)
        return TrtexecRunner(contract, path, tool)
    package = runs_in[0]
    if here:
        check_identity(path, card, load_package(package).__version__, here)
    return TensorRtRunner(contract, path, package)
