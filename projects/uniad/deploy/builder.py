"""Engines from ONNX, through the Python packages ``tensorrt`` and ``tensorrt_rtx`` (one API, one class).

``tensorrt_rtx`` compiles ahead of time on a machine without a GPU, for the compute capabilities it is told. An engine is only
*verified* on a device; until then its card says so.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from uniad.deploy.card import read_card, write_card
from uniad.errors import UserError
from uniad.files import atomic_path

BACKENDS = ("tensorrt_rtx", "tensorrt")
PRECISIONS = ("fp32",)  # what the graph holds is what the engine computes: networks are strongly typed


@dataclass(frozen=True)
class BuildOptions:
    backend: str = "tensorrt_rtx"
    compute_capabilities: tuple[str, ...] = ()  # e.g. ("8.6", "8.9"); empty: the GPU here, else all that the package knows
    workspace_gib: float = 4.0
    verbose: bool = False


def load_backend(name: str) -> Any:
    """The Python package behind a backend; a UserError names the choices or the missing package."""
    if name not in BACKENDS:
        raise UserError(f"unknown engine backend {name!r}: choose one of {', '.join(BACKENDS)}")
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"the Python package {name} is not installed: `make env` installs tensorrt_rtx, JetPack and the "
            f"deployment image ship tensorrt"
        ) from None


def build_engine(onnx_path: str | Path, engine_path: str | Path, options: BuildOptions) -> dict:
    """Build, check that the network's border is what the ONNX card says, write engine and card; return the card.

    Raises UserError when the ONNX changed after its export, does not parse, or has another border.
    """
    source = read_card(onnx_path)
    trt = load_backend(options.backend)
    logger = trt.Logger(trt.Logger.INFO if options.verbose else trt.Logger.ERROR)
    builder = trt.Builder(logger)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_path)):
        first = parser.get_error(0)
        raise UserError(
            f"{onnx_path}: {options.backend} {trt.__version__} cannot parse it: "
            f"node {first.node()}: {first.desc().splitlines()[0]}"
        )
    _check_border(trt, network, source, onnx_path)
    config = builder.create_builder_config()
    if options.backend == "tensorrt":
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace_gib * 2**30))
    targets = _set_targets(trt, config, options)
    started = time.monotonic()
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UserError(f"{onnx_path}: {options.backend} {trt.__version__} could not build an engine; run again with --verbose")
    seconds = time.monotonic() - started
    with atomic_path(engine_path) as temporary:
        temporary.write_bytes(memoryview(plan))
    card = {
        "kind": "engine",
        "variant": source["variant"],
        "stage": source["stage"],
        "config": source["config"],
        "onnx_sha256": source["sha256"],
        "builder": options.backend,
        "builder_version": trt.__version__,
        "compute_capabilities": targets,
        "precision": "fp32",
        "build_seconds": round(seconds, 1),
        "contract": source["contract"],
        "verified": None,
    }
    write_card(engine_path, card)
    return card


def _check_border(trt: Any, network: Any, card: dict, onnx_path: str | Path) -> None:
    found = {}
    for count, get in ((network.num_inputs, network.get_input), (network.num_outputs, network.get_output)):
        for i in range(count):
            tensor = get(i)
            found[tensor.name] = (list(tensor.shape), np.dtype(trt.nptype(tensor.dtype)).name)
    declared = {e["name"]: (e["shape"], e["dtype"]) for e in (*card["contract"]["inputs"], *card["contract"]["outputs"])}
    for name in sorted(found.keys() | declared.keys()):
        if found.get(name) != declared.get(name):
            raise UserError(
                f"{onnx_path}: {name} is {found.get(name)} in the engine and {declared.get(name)} on the card; "
                f"run `make export` again"
            )


def _set_targets(trt: Any, config: Any, options: BuildOptions) -> list[str]:
    """Tell the builder which GPUs to compile for; returns what goes on the card."""
    if not options.compute_capabilities:
        return ["default"]
    if not hasattr(trt, "ComputeCapability"):
        raise UserError(f"{options.backend} builds for the GPU of this machine only; leave COMPUTE_CAPABILITIES empty")
    known = {n: getattr(trt.ComputeCapability, n) for n in dir(trt.ComputeCapability) if n.startswith("SM")}
    chosen: Sequence[str] = [f"SM{c.replace('.', '').removeprefix('SM')}" for c in options.compute_capabilities]
    for given, name in zip(options.compute_capabilities, chosen):
        if name not in known:
            offered = ", ".join(sorted(f"{n[2:-1]}.{n[-1]}" for n in known))
            raise UserError(f"{options.backend} cannot compile for compute capability {given}: it knows {offered}")
    config.num_compute_capabilities = len(chosen)
    for i, name in enumerate(chosen):
        config.set_compute_capability(known[name], i)
    return [f"{n[2:-1]}.{n[-1]}" for n in chosen]
