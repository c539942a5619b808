"""Engines from ONNX: one interface over the backends, and the card beside each engine.

``tensorrt_rtx`` compiles ahead of time on a machine without a GPU, for the compute capabilities it is told. An engine is only
*verified* on a device; until then its card says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from uniad.artifacts.card import read_card, write_card
from uniad.artifacts.graph import check_graph, load_graph
from uniad.artifacts.precision import check_precision
from uniad.backends.identity import this_device
from uniad.engines.base import BACKENDS, Backend, BuildOptions, Built
from uniad.engines.refit import graph_digest, of_weights
from uniad.engines.tensorrt import PythonBackend
from uniad.engines.trtexec import CommandBackend
from uniad.errors import UserError
from uniad.export.groups import layer_groups
from uniad.files import atomic_path
from uniad.processes import run_killable

__all__ = ["BACKENDS", "BuildOptions", "build_engine"]


def backend(name: str) -> Backend:
    """The backend of that name; a UserError names the choices."""
    if name == "trtexec":
        return CommandBackend()
    if name in BACKENDS:
        return PythonBackend(name)
    raise UserError(f"unknown engine backend {name!r}: choose one of {', '.join(BACKENDS)}")


def _build(onnx_path: Path, source: dict, part: Path, options: BuildOptions, progress: Callable[[str], None]) -> Built:
    return backend(options.backend).build(onnx_path, source, part, replace(options, progress=progress))


def build_engine(onnx_path: str | Path, engine_path: str | Path, options: BuildOptions) -> dict:
    """Build, check that the network's inputs and outputs are what the ONNX card says, write engine and card; return the card.

    Raises UserError when the ONNX changed after its export, does not parse, has other inputs or outputs, or cannot have that
    precision.
    """
    check_precision(options.precision)
    source = read_card(onnx_path)
    maker = backend(options.backend)
    check_graph(onnx_path, options.precision)
    if options.refittable and options.precision == "int8":
        raise UserError(f"{onnx_path}: int8 is measured with the weights, so an int8 engine takes no others: ENGINE_REFITTABLE=0")
    groups = source.get("precision_of_groups") or dict.fromkeys(layer_groups(load_graph(onnx_path)), options.precision)
    folder = Path(engine_path).parent
    was_there = folder.exists()
    try:
        with atomic_path(engine_path) as part:
            started = time.monotonic()
            if options.killable:
                # a builder stays in C for minutes, where Python cannot act on Ctrl-C
                plain = replace(options, progress=None)
                built = run_killable(_build, Path(onnx_path), source, part, plain, progress=options.progress)
            else:
                built = maker.build(Path(onnx_path), source, part, options)
            seconds = time.monotonic() - started
    except BaseException:
        if not was_there:
            folder.rmdir()  # a mistake leaves nothing
        raise
    card = {
        "kind": "engine",
        "variant": source["variant"],
        "stage": source["stage"],
        **{key: source[key] for key in ("config", "config_options", "config_values") if key in source},
        "onnx_sha256": source["sha256"],
        **of_weights(source),
        **({"refittable": True, "graph_sha256": graph_digest(load_graph(onnx_path))} if options.refittable else {}),
        "builder": options.backend,
        "builder_version": built.version,
        "compute_capabilities": built.targets,
        "device": this_device() if built.targets == ["default"] else None,
        "precision": options.precision,
        "precision_of_groups": groups,
        "typing": built.typing,
        "notes": list(built.notes),
        "workspace_gib": options.workspace_gib,
        "build_seconds": round(seconds, 1),
        "contract": source["contract"],
        "verified": None,
        "latency": None,
    }
    write_card(engine_path, card)
    return card
