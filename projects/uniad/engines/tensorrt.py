"""The backends that are Python packages, ``tensorrt`` and ``tensorrt_rtx``: one API, one class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from uniad.artifacts.graph import fp32_nodes, load_graph
from uniad.backends.tensorrt import load_package
from uniad.engines.base import BuildOptions, Built
from uniad.errors import UserError


class PythonBackend:
    def __init__(self, package: str) -> None:
        self.package = package

    def build(self, onnx: Path, source: dict, part: Path, options: BuildOptions) -> Built:
        trt = load_package(self.package)
        if options.refittable and not hasattr(trt, "OnnxParserRefitter"):
            raise UserError(f"{onnx}: {self.package} {trt.__version__} cannot refit (TensorRT 10 can): ENGINE_REFITTABLE=0")
        weak = self._weak(trt, options.precision)
        logger = _logger(trt, options)
        builder = trt.Builder(logger)
        network = builder.create_network(self._flags(trt, weak))
        parser = trt.OnnxParser(network, logger)
        notes: tuple[str, ...] = ()
        if options.precision == "int8" and self.package == "tensorrt_rtx":
            graph, notes = _for_rtx(onnx, trt.__version__)
            parsed = parser.parse(graph)
        else:
            parsed = parser.parse_from_file(str(onnx))
        if not parsed:
            first = parser.get_error(0)
            raise UserError(
                f"{onnx}: {self.package} {trt.__version__} cannot parse it: node {first.node()}: {first.desc().splitlines()[0]}"
            )
        _check_io(trt, network, source, onnx)
        config = builder.create_builder_config()
        if source.get("dynamic"):
            _add_profile(builder, config, source["dynamic"])
        if self.package == "tensorrt":
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(options.workspace_gib * 2**30))
        if options.precision == "fp32":
            config.clear_flag(trt.BuilderFlag.TF32)  # on by default; it keeps ten bits of a product, which is no fp32
        elif weak and options.precision == "int8":
            config.set_flag(trt.BuilderFlag.INT8)  # without FP16: what is not between Q and DQ was measured in fp32
        elif weak:
            config.set_flag(trt.BuilderFlag.FP16)
            config.set_flag(trt.BuilderFlag.OBEY_PRECISION_CONSTRAINTS)
            _keep_fp32(trt, network, set(fp32_nodes(source)))
        if options.refittable:
            config.set_flag(trt.BuilderFlag.REFIT)
        targets = _set_targets(trt, config, options)
        cache = _open_cache(config, options.timing_cache) if self.package == "tensorrt" else None
        if options.progress:
            _report_progress(trt, config, options.progress)
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            raise UserError(f"{onnx}: {self.package} {trt.__version__} could not build an engine; run again with --verbose")
        part.write_bytes(memoryview(plan))
        if cache is not None:
            Path(options.timing_cache).write_bytes(memoryview(cache.serialize()))
        return Built(trt.__version__, targets, "weak" if weak else "strong", notes)

    def takes_types(self) -> bool:
        """Whether this release takes types from the graph."""
        return not self._weak(load_package(self.package), "fp16")

    def _weak(self, trt: Any, precision: str) -> bool:
        """Whether this release has to be told types, since it cannot take them from the graph."""
        if precision == "fp32" or self.package != "tensorrt" or not hasattr(trt.BuilderFlag, "FP16"):
            return False
        return not hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")

    def _flags(self, trt: Any, weak: bool) -> int:
        known = trt.NetworkDefinitionCreationFlag
        if hasattr(known, "STRONGLY_TYPED") and not weak:
            return 1 << int(known.STRONGLY_TYPED)
        return 1 << int(known.EXPLICIT_BATCH) if hasattr(known, "EXPLICIT_BATCH") else 0


def _logger(trt: Any, options: BuildOptions) -> Any:
    log = options.log
    if log is None:
        return trt.Logger(trt.Logger.INFO if options.verbose else trt.Logger.ERROR)

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                log(message)

    return Log()


def _for_rtx(path: Path, version: str) -> tuple[bytes, tuple[str, ...]]:
    """The int8 graph as TensorRT-RTX can build it: of 1.5, convolutions of integers stop the build with an internal error."""

    from uniad.precision.int8.qdq import without_int8_convolutions

    graph = without_int8_convolutions(load_graph(path))
    note = f"tensorrt_rtx {version} has int8 for matrix products only: convolutions compute in fp32 (tensorrt, trtexec: in int8)"
    return graph.SerializeToString(), (note,)


def _keep_fp32(trt: Any, network: Any, names: set[str]) -> None:
    """Tell a builder with types of its own which layers stay. Layers are called after the nodes they came from."""
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        floats = [layer.get_output(k) for k in range(layer.num_outputs) if layer.get_output(k).dtype == trt.float32]
        if layer.name in names and floats and layer.type not in (trt.LayerType.CONSTANT, trt.LayerType.SHAPE):
            layer.precision = trt.float32


def _open_cache(config: Any, path: str) -> Any:
    if not path:
        return None
    held = Path(path).read_bytes() if Path(path).is_file() else b""
    cache = config.create_timing_cache(held) or config.create_timing_cache(b"")  # another release's is not read
    config.set_timing_cache(cache, ignore_mismatch=True)
    return cache


def _report_progress(trt: Any, config: Any, progress: Callable[[str], None]) -> None:
    """Tell the phases of a build, where this release can."""
    if not hasattr(trt, "IProgressMonitor"):
        return

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase: str, parent: str, steps: int) -> None:
            if not parent:
                progress(phase)

        def phase_finish(self, phase: str) -> None: ...

        def step_complete(self, phase: str, step: int) -> bool:
            return True

    config.progress_monitor = Monitor()


def _add_profile(builder: Any, config: Any, dynamic: dict[str, list[list[int]]]) -> None:
    """For a canary: no graph of ours leaves a size open. dynamic: input to its least and its most, which is the usual, too."""
    profile = builder.create_optimization_profile()
    for name, (least, most) in dynamic.items():
        profile.set_shape(name, least, most, most)
    config.add_optimization_profile(profile)


def _check_io(trt: Any, network: Any, card: dict, onnx_path: str | Path) -> None:
    if card.get("dynamic"):
        return
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
