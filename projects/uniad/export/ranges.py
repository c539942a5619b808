"""The largest value that each tensor inside a graph takes over a recorded sequence."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from uniad.contract import Contract
from uniad.deploy.runner import OrtRunner
from uniad.deploy.sequence import Sequence
from uniad.export.half import tensor_types


def with_peaks(model: onnx.ModelProto, tensors: Iterable[str]) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A copy with one more output for each float tensor, the largest finite magnitude in it, and the outputs' names."""
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph, peaks = result.graph, {}
    for name, value in (("peak_infinity", np.inf), ("peak_zero", 0.0)):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    for i, tensor in enumerate(tensors):  # infinities do not count, they are halves as well
        size, finite, kept, peak = (f"peak_{i}_{part}" for part in ("size", "finite", "kept", "of"))
        graph.node.extend(
            [
                helper.make_node("Abs", [tensor], [size], name=f"glue/{size}"),
                helper.make_node("Less", [size, "peak_infinity"], [finite], name=f"glue/{finite}"),
                helper.make_node("Where", [finite, size, "peak_zero"], [kept], name=f"glue/{kept}"),
                helper.make_node("ReduceMax", [kept], [peak], name=f"glue/{peak}", keepdims=0),
            ]
        )
        graph.output.append(helper.make_tensor_value_info(peak, TensorProto.FLOAT, []))
        peaks[tensor] = peak
    return result, peaks


class _Watched(OrtRunner):
    """Runs a graph with peaks and remembers the largest of each."""

    def __init__(self, contract: Contract, model: onnx.ModelProto, peaks: dict[str, str], threads: int) -> None:
        super().__init__(contract, model, threads=threads, device="cpu")
        self.peaks, self.largest = peaks, dict.fromkeys(peaks, 0.0)

    def _infer(self, feeds):
        names = self.contract.output_names
        said = self.session.run([*names, *self.peaks.values()], dict(feeds))
        for tensor, peak in zip(self.peaks, said[len(names) :]):
            self.largest[tensor] = max(self.largest[tensor], float(peak))
        return dict(zip(names, said))


def record_peaks(model: onnx.ModelProto, contract: Contract, sequence: Sequence, threads: int = 0) -> dict[str, float]:
    """Tensor -> largest finite magnitude over the sequence, the state fed back: inputs, and all float tensors that nodes make."""
    types = tensor_types(model)
    empty = {v.name for v in model.graph.value_info if any(d.dim_value == 0 for d in v.type.tensor_type.shape.dim)}
    inputs = [i.name for i in model.graph.input]
    made = [n for node in model.graph.node for n in node.output if n and n not in empty]
    watched = [n for n in (*inputs, *made) if types.get(n) == TensorProto.FLOAT]
    graph, peaks = with_peaks(model, watched)
    runner = _Watched(contract, graph, peaks, threads)
    with runner:
        for feed in sequence.feeds:
            runner.step(feed)
    return runner.largest
