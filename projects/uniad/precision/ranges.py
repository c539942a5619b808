"""The largest value that each tensor inside a graph takes over a recorded sequence."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper

from uniad.artifacts.sequence import Sequence
from uniad.backends.onnxruntime import OrtRunner
from uniad.backends.rounding import MOVES, tensor_types
from uniad.export.groups import UNGROUPED
from uniad.interface.contract import Contract


def with_peaks(model: onnx.ModelProto, tensors: Iterable[str]) -> tuple[onnx.ModelProto, dict[str, tuple[str, str]]]:
    """A copy with two more outputs for each float tensor, its largest and its smallest number; and the outputs' names."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph, peaks = result.graph, {}
    for i, tensor in enumerate(tensors):
        peaks[tensor] = (f"peak_{i}_high", f"peak_{i}_low")
        for op, out in zip(("ReduceMax", "ReduceMin"), peaks[tensor]):
            graph.node.append(helper.make_node(op, [tensor], [out], name=f"{UNGROUPED}/{out}", keepdims=0))
            graph.output.append(helper.make_tensor_value_info(out, TensorProto.FLOAT, []))
    return result, peaks


class _Watched(OrtRunner):
    """Runs a graph with peaks and remembers the largest of each."""

    def __init__(self, contract: Contract, model: onnx.ModelProto, peaks: dict[str, tuple[str, str]], threads: int) -> None:
        super().__init__(contract, model, threads=threads, device="cpu")
        self.peaks, self.largest = peaks, dict.fromkeys(peaks, 0.0)

    def _infer(self, feeds):
        names = self.contract.output_names
        values = self.session.run([*names, *(out for pair in self.peaks.values() for out in pair)], dict(feeds))
        ends = np.abs(np.array(values[len(names) :], np.float64)).reshape(-1, 2)
        ends[~np.isfinite(ends)] = 0.0  # an infinity, such as a mask's, is one in half as well
        for tensor, largest in zip(self.peaks, ends.max(1)):
            self.largest[tensor] = max(self.largest[tensor], float(largest))
        return dict(zip(names, values))


def record_peaks(model: onnx.ModelProto, contract: Contract, sequence: Sequence, threads: int = 0) -> dict[str, float]:
    """Tensor -> largest finite magnitude over the sequence, the state fed back: inputs, and what nodes make."""
    types = tensor_types(model)
    empty = {v.name for v in model.graph.value_info if any(d.dim_value == 0 for d in v.type.tensor_type.shape.dim)}
    inputs = [i.name for i in model.graph.input]
    made = [n for node in model.graph.node if node.op_type not in MOVES for n in node.output if n and n not in empty]
    watched = [n for n in (*inputs, *made) if types.get(n) == TensorProto.FLOAT]
    graph, peaks = with_peaks(model, watched)
    runner = _Watched(contract, graph, peaks, threads)
    with runner:
        for feed in sequence.feeds:
            runner.step(feed)
    for node in model.graph.node:
        if node.op_type in MOVES:
            passed = max((runner.largest.get(n, 0.0) for n in node.input), default=0.0)
            runner.largest |= {n: passed for n in node.output if types.get(n) == TensorProto.FLOAT}
    return runner.largest
