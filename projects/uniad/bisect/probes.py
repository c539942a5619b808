"""Run a graph with inner tensors exposed as outputs, through any back end: what locating a fault asks its questions with.

A probe is a part of a graph, from given inputs to given tensors. Its inputs and outputs are float32 and int32, which any back end
takes; tensors of another type pass a Cast there. A ``Side`` is a graph and a back end that runs probes of it; every probe of a
TensorRT engine is a build.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from uniad.backends.rounding import has_halves, rounded
from uniad.engines.base import BuildOptions
from uniad.engines.build import backend
from uniad.errors import UserError
from uniad.export.passes import opset_of
from uniad.interface.contract import Contract, MapMerge, Port

Arrays = dict[str, np.ndarray]
Run = Callable[[Mapping[str, np.ndarray]], Arrays]
_PLAIN: dict[int, str] = {TensorProto.FLOAT: "float32", TensorProto.INT32: "int32"}
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@dataclass(frozen=True)
class Kind:
    """Type and shape of a tensor."""

    elem: int
    shape: tuple[int, ...]

    @property
    def plain(self) -> int:
        """The type that it has as a probe's input or output."""
        return TensorProto.FLOAT if self.elem in _FLOATS else TensorProto.INT32

    @property
    def bytes(self) -> int:
        return 4 * int(np.prod(self.shape, dtype=np.int64))

    @property
    def type_name(self) -> str:
        return helper.tensor_dtype_to_np_dtype(self.elem).name if self.elem != TensorProto.BFLOAT16 else "bfloat16"


class Graph:
    """A model as a search needs it: nodes in topological order, who makes and reads a tensor, and what it looks like."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.nodes = list(model.graph.node)
        self.constant = {o for n in self.nodes if not any(n.input) for o in n.output} | {i.name for i in model.graph.initializer}
        self.inputs = [i.name for i in model.graph.input if i.name not in self.constant]
        self.outputs = [o.name for o in model.graph.output]
        self.producer = {o: i for i, n in enumerate(self.nodes) for o in n.output if o}
        self.kinds = _kinds(model)

    def reads(self, index: int) -> list[str]:
        """Tensors that a node reads and another node computed from something."""
        return [t for t in dict.fromkeys(self.nodes[index].input) if t in self.producer and t not in self.constant]

    def ancestors(self, tensors: Iterable[str], stop: Iterable[str] = ()) -> list[int]:
        """Nodes that lead to the tensors, in the graph's order; not those behind ``stop``."""
        seen, stack, stop = set(), [t for t in tensors], set(stop)
        while stack:
            tensor = stack.pop()
            index = self.producer.get(tensor)
            if index is None or index in seen or tensor in stop:
                continue
            seen.add(index)
            stack.extend(name for name in self.nodes[index].input if name)
        return sorted(seen)


def _kinds(model: onnx.ModelProto) -> dict[str, Kind]:
    known = _read_kinds(model)
    made = {o for n in model.graph.node for o in n.output if o}
    if made - known.keys():
        try:
            known |= _read_kinds(onnx.shape_inference.infer_shapes(model))
        except Exception:  # a graph above 2 GiB, or operators of a plugin: what the file says is all that is known
            return known
    return known


def _read_kinds(model: onnx.ModelProto) -> dict[str, Kind]:
    kinds = {}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        tensor = value.type.tensor_type
        if tensor.elem_type and all(d.HasField("dim_value") for d in tensor.shape.dim):
            kinds[value.name] = Kind(tensor.elem_type, tuple(d.dim_value for d in tensor.shape.dim))
    return kinds


@dataclass(frozen=True)
class Probe:
    """A part of a graph. ``inputs`` and ``outputs``: tensor -> name and kind in the probe."""

    model: onnx.ModelProto
    inputs: dict[str, tuple[str, Kind]]
    outputs: dict[str, tuple[str, Kind]]


def cut_out(graph: Graph, inputs: Sequence[str], outputs: Sequence[str]) -> Probe:
    """The nodes from ``inputs`` to ``outputs``, with their constants."""
    kept = [graph.nodes[i] for i in graph.ancestors(outputs, stop=inputs)]
    read = {name for node in kept for name in node.input} | set(outputs)
    before, after, probe_inputs, probe_outputs = [], [], {}, {}
    for t in inputs:
        if t not in read:
            continue
        kind = graph.kinds[t]
        name = t
        if kind.elem not in _PLAIN:
            name = f"{t}_given"
            before.append(helper.make_node("Cast", [name], [t], name=f"{t}/given", to=kind.elem))
        probe_inputs[t] = (name, replace(kind, elem=kind.plain))
    for t in outputs:
        kind = graph.kinds[t]
        name = t
        if kind.elem not in _PLAIN or t in probe_inputs:  # an input that is asked for needs a node between
            name = f"{t}_seen"
            after.append(helper.make_node("Cast", [t], [name], name=f"{t}/seen", to=kind.plain))
        probe_outputs[t] = (name, replace(kind, elem=kind.plain))
    made = onnx.ModelProto()
    made.ir_version, made.producer_name = graph.model.ir_version, "probe"
    made.opset_import.extend(graph.model.opset_import)
    made.functions.extend(graph.model.functions)
    made.graph.name = "probe"
    made.graph.node.extend([*before, *kept, *after])
    made.graph.initializer.extend(i for i in graph.model.graph.initializer if i.name in read)
    made.graph.input.extend(helper.make_tensor_value_info(n, k.elem, k.shape) for n, k in probe_inputs.values())
    made.graph.output.extend(helper.make_tensor_value_info(n, k.elem, k.shape) for n, k in probe_outputs.values())
    return Probe(made, probe_inputs, probe_outputs)


class Side:
    """A graph and what runs it. Subclasses say how a probe is made to run."""

    name = "side"
    cheap = True  # whether a probe costs seconds rather than a build of minutes

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = self.given = Graph(model)  # what is run, and what it stands for
        self.builds = 0

    def gives(self, tensor: str) -> bool:
        """Whether this graph has that tensor, to be exposed as an output."""
        name = self.called(tensor)
        return (name in self.graph.producer or name in self.graph.constant) and name in self.graph.kinds

    def called(self, tensor: str) -> str:
        """The name of the reference's tensor in this graph: a mixed graph computes NAME_half where it computes in half."""
        half = f"{tensor}_half"
        index = self.given.producer.get(half)
        if index is None or list(self.given.nodes[index].input) == [tensor]:  # the latter is a rounded copy
            return tensor
        return half

    def type_of(self, tensor: str) -> str:
        return self.given.kinds[self.called(tensor)].type_name

    @contextmanager
    def opened(self, tensors: Sequence[str], inputs: Sequence[str] | None = None) -> Generator[Run, None, None]:
        """A function from feeds to those tensors. ``inputs``: where the part begins (default: the graph's own inputs)."""
        names = {self.called(tensor): tensor for tensor in (*(inputs or ()), *tensors)}
        begin = self.graph.inputs if inputs is None else [self.called(tensor) for tensor in inputs]
        probe = cut_out(self.graph, begin, [self.called(tensor) for tensor in tensors])
        self.builds += 1
        with self._running(probe) as run:

            def call(feeds: Mapping[str, np.ndarray]) -> Arrays:
                given = {}
                for tensor, (name, kind) in probe.inputs.items():
                    given[name] = np.ascontiguousarray(feeds[names.get(tensor, tensor)], dtype=_PLAIN[kind.elem])
                got = run(given)
                return {names[tensor]: got[name] for tensor, (name, _) in probe.outputs.items()}

            yield call

    @contextmanager
    def _running(self, probe: Probe) -> Generator[Run, None, None]:
        raise NotImplementedError
        yield


class OrtSide(Side):
    """onnxruntime, with its graph optimisations or without."""

    def __init__(self, model: onnx.ModelProto, optimise: bool = True, threads: int = 0, name: str = "onnxruntime") -> None:
        super().__init__(model)
        if has_halves(model):  # this runtime leaves out roundings and overflows between neighbours; a device does not
            self.graph = Graph(rounded(model))
        self.optimise, self.threads, self.name = optimise, threads, name

    @contextmanager
    def _running(self, probe: Probe) -> Generator[Run, None, None]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        if not self.optimise:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = onnxruntime.InferenceSession(probe.model.SerializeToString(), options, ["CPUExecutionProvider"])
        except Exception as error:  # the package raises several private classes
            raise UserError(f"onnxruntime cannot load a part of this graph ({str(error).splitlines()[0]})") from None
        names = [name for name, _ in probe.outputs.values()]
        yield lambda feeds: dict(zip(names, map(np.asarray, session.run(names, dict(feeds)))))


class EngineSide(Side):
    """An engine of every probe, built and run on this machine."""

    cheap = False

    def __init__(self, model: onnx.ModelProto, options: BuildOptions, card: Mapping | None = None) -> None:
        """``card``: the graph's own; it may tell a builder which nodes to keep in fp32."""
        super().__init__(model)
        self.options, self.name, self.card = options, options.backend, dict(card or {})
        if options.backend != "trtexec":
            import torch

            if not torch.cuda.is_available():
                raise UserError(f"{options.backend} runs on a GPU and this machine has none; locate the fault on the device")

    @contextmanager
    def _running(self, probe: Probe) -> Generator[Run, None, None]:
        ports = [_ports(side) for side in (probe.inputs, probe.outputs)]
        entries = [[{"name": p.name, "shape": list(p.shape), "dtype": p.dtype} for p in side] for side in ports]
        source = {**self.card, "contract": {"inputs": entries[0], "outputs": entries[1]}, "opset": opset_of(probe.model)}
        with tempfile.TemporaryDirectory(prefix="locate-") as made:
            path, engine = Path(made) / "probe.onnx", Path(made) / "probe.engine"
            onnx.save(probe.model, str(path))
            backend(self.options.backend).build(path, source, engine, self.options)
            no_lanes = MapMerge(0, 0.0, 0.0)  # a probe has none to merge
            with self._loaded(engine, Contract(tuple(ports[0]), (), tuple(ports[1]), no_lanes)) as run:
                yield run

    @contextmanager
    def _loaded(self, engine: Path, contract: Contract) -> Generator[Run, None, None]:
        if self.options.backend == "trtexec":
            from uniad.backends import trtexec

            outputs = {p.name: {"shape": p.shape, "dtype": p.dtype} for p in contract.outputs}
            yield trtexec.TrtexecEngine(trtexec.probe(), engine, outputs).infer
        else:
            from uniad.backends.tensorrt import TensorRtRunner

            with TensorRtRunner(contract, engine, self.options.backend) as runner:
                yield runner.infer


def _ports(tensors: Mapping[str, tuple[str, Kind]]) -> list[Port]:
    return [Port(name, name, kind.shape, _PLAIN[kind.elem], "") for name, kind in tensors.values()]
