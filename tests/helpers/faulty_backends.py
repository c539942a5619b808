"""Back ends with one planted fault each: onnxruntime on a graph that was changed as a faulty TensorRT changes it.

``FAULTS`` has for each what it does, the canaries that must be found wrong, and how the answer names it.

    PYTHONPATH=projects:tests .venv/bin/python -m helpers.faulty_backends docs/pictures/canaries.png
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from uniad.backends import trtexec
from uniad.backends.rounding import has_halves, rounded, tensor_types
from uniad.canary.bench import Bench, Refused, run_set
from uniad.canary.benches import OrtBench
from uniad.canary.graphs import PLUGINS
from uniad.canary.judge import Arrays, CanarySet, read_set
from uniad.canary.sets import write_set
from uniad.export.passes import decompose_layer_norm
from uniad.viz.canary import draw_table

Change = Callable[[onnx.ModelProto], None]


def rebuilt(model: onnx.ModelProto, nodes: list[onnx.NodeProto]) -> None:
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def attribute(node: onnx.NodeProto, name: str, value: object) -> None:
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def every_grid_sample(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "GridSample":
            attribute(node, "mode", "nearest")


def computed_grids(model: onnx.ModelProto) -> None:
    """10.14 and 11.1: only where the grid is computed in the graph."""
    given = {v.name for v in model.graph.input}
    for node in model.graph.node:
        if node.op_type == "GridSample" and node.input[1] not in given:
            attribute(node, "mode", "nearest")


def opset_20(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "GridSample" and any(a.name == "mode" and a.s == b"linear" for a in node.attribute):
            attribute(node, "mode", "nearest")


def between_casts(model: onnx.ModelProto) -> None:
    """pytorch/TensorRT#4074: GridSample in float whose image comes from a half."""
    cast = {n.output[0] for n in model.graph.node if n.op_type == "Cast"}
    for node in model.graph.node:
        if node.op_type == "GridSample" and node.input[0] in cast:
            attribute(node, "mode", "nearest")


def all_in_half(model: onnx.ModelProto) -> None:
    """A builder that lets every node of a mixed graph compute in fp16."""
    if not has_halves(model):
        return
    decompose_layer_norm(model)
    types = tensor_types(model)
    for init in model.graph.initializer:
        if init.data_type == TensorProto.FLOAT16:
            init.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(init).astype(np.float32), init.name))
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Cast" and node.attribute[0].i in (TensorProto.FLOAT16, TensorProto.FLOAT):
            nodes.append(helper.make_node("Identity", list(node.input), list(node.output), name=node.name))
            continue
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        nodes.append(copy)
        out = copy.output[0]
        if types[out] not in (TensorProto.FLOAT16, TensorProto.FLOAT):
            continue
        copy.output[0] = f"{out}_wide"
        nodes.append(helper.make_node("Cast", [f"{out}_wide"], [f"{out}_half"], to=TensorProto.FLOAT16, name=f"{out}/low"))
        nodes.append(helper.make_node("Cast", [f"{out}_half"], [out], to=TensorProto.FLOAT, name=f"{out}/back"))
    rebuilt(model, nodes)
    del model.graph.value_info[:]


def products_in_tf32(model: onnx.ModelProto) -> None:
    """Ten bits of mantissa: within a half's range a half rounds as TF32 does."""
    if has_halves(model):
        return
    nodes = []
    for i, node in enumerate(model.graph.node):
        copy = onnx.NodeProto.FromString(node.SerializeToString())
        if node.op_type == "MatMul":
            for k in range(2):
                nodes.append(helper.make_node("Cast", [node.input[k]], [f"low_{i}_{k}"], to=TensorProto.FLOAT16))
                nodes.append(helper.make_node("Cast", [f"low_{i}_{k}"], [f"back_{i}_{k}"], to=TensorProto.FLOAT))
                copy.input[k] = f"back_{i}_{k}"
        nodes.append(copy)
    rebuilt(model, nodes)


def without_masks(model: onnx.ModelProto) -> None:
    """An attention fusion that forgets the mask."""
    softmaxes = {n.input[0] for n in model.graph.node if n.op_type == "Softmax"}
    for node in model.graph.node:
        if node.op_type == "Where" and node.output[0] in softmaxes:
            scores = node.input[2]
            node.CopyFrom(helper.make_node("Identity", [scores], list(node.output), name=node.name))


def without_pairs(kind: int) -> Change:
    """Q/DQ nodes of this type are left out."""

    def change(model: onnx.ModelProto) -> None:
        zeros = {i.name for i in model.graph.initializer if i.data_type == kind}
        sources = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "QuantizeLinear" and n.input[2] in zeros}
        nodes = []
        for node in model.graph.node:
            if node.op_type == "DequantizeLinear" and node.input[0] in sources:
                nodes.append(helper.make_node("Identity", [sources[node.input[0]]], list(node.output)))
            elif node.output[0] not in sources:
                nodes.append(node)
        rebuilt(model, nodes)

    return change


def top_k_is_cut(model: onnx.ModelProto) -> None:
    """Values behind the 3840th are never written."""
    for node in list(model.graph.node):
        if node.op_type == "TopK" and model.graph.name == "top_k_4000":
            keep = (np.arange(4000) < 3840).astype(np.float32)[None]
            model.graph.initializer.append(numpy_helper.from_array(keep, "written"))
            for later in model.graph.node:
                if later.op_type == "Identity" and later.input[0] == node.output[0]:
                    later.CopyFrom(helper.make_node("Mul", [node.output[0], "written"], list(later.output)))


def least_first(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "TopK":
            attribute(node, "largest", 0)


def no_reduction(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "ScatterND":
            attribute(node, "reduction", "none")


def rows_in_order(model: onnx.ModelProto) -> None:
    """NVIDIA/TensorRT#3645: rows that are projected are taken one after the other."""
    if "gather_linear" == model.graph.name:
        order = np.arange(50, dtype=np.int32) % 20
        model.graph.initializer.append(numpy_helper.from_array(order, "order"))
        next(n for n in model.graph.node if n.op_type == "Gather").input[1] = "order"
        model.graph.node.append(helper.make_node("Identity", ["edges"], ["unused"]))


def resize_is_nearest(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Resize":
            attribute(node, "mode", "nearest")
            attribute(node, "nearest_mode", "round_prefer_floor")


def floor_cuts(model: onnx.ModelProto) -> None:
    """Towards zero, as an integer cast does it."""
    nodes = []
    for node in model.graph.node:
        if node.op_type == "Floor":
            nodes.append(helper.make_node("Cast", [node.input[0]], [f"{node.output[0]}_whole"], to=TensorProto.INT32))
            nodes.append(helper.make_node("Cast", [f"{node.output[0]}_whole"], list(node.output), to=TensorProto.FLOAT))
        else:
            nodes.append(node)
    rebuilt(model, nodes)


def pads_with_edges(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Pad":
            attribute(node, "mode", "edge")


def choices_swapped(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Where" and model.graph.name == "operators_logic":
            node.input[1], node.input[2] = node.input[2], node.input[1]


class StandIn(OrtBench):
    """A TensorRT that is right but for ``change``. It has the stock plugins."""

    backend = "tensorrt"

    def __init__(self, canaries: CanarySet, change: Change | None = None) -> None:
        super().__init__()
        self.version, self.device, self.canaries, self.change = "10.99", "stand-in", canaries, change

    def graph(self, onnx_path: Path) -> onnx.ModelProto:
        model = onnx.load(str(onnx_path))
        halves = has_halves(model)
        if self.change:
            self.change(model)
        return rounded(model) if halves else model

    def answer(self, row: dict, onnx_path: Path, inputs: Arrays, folder: Path) -> tuple[Arrays, int]:
        if PLUGINS in (onnx_path.read_bytes()).decode("latin1"):
            return self.by_plugin(onnx_path.stem), 0
        return super().answer(row, onnx_path, inputs, folder)

    def by_plugin(self, name: str) -> Arrays:
        return self.canaries.part(name, "out")


class ZeroPlugins(StandIn):
    """NVIDIA/TensorRT#2155: a plugin of another build writes nothing."""

    def by_plugin(self, name: str) -> Arrays:
        if name == "deformable_attention_plugin":
            return {"out": self.canaries.part(name, "in")["query"]}  # what is left is the residual
        return {key: np.zeros_like(value) for key, value in self.canaries.part(name, "out").items()}


class Dynamic(StandIn):
    """10.3: the kernel of the largest shape, whatever shape is fed; rows behind the end are attended to."""

    def answer(self, row: dict, onnx_path: Path, inputs: Arrays, folder: Path) -> tuple[Arrays, int]:
        if not row["dynamic"]:
            return super().answer(row, onnx_path, inputs, folder)
        wide = {}
        for name, value in inputs.items():
            wide[name] = np.zeros((value.shape[0], row["dynamic"][name][1][1], *value.shape[2:]), value.dtype)
            wide[name][:, : value.shape[1]] = value
        shapes = {name: {**row["inputs"][name], "shape": list(value.shape)} for name, value in wide.items()}
        length = row["outputs"]["out"]["shape"][1]
        full = {"out": {**row["outputs"]["out"], "shape": [1, wide["x"].shape[1], row["outputs"]["out"]["shape"][2]]}}
        outputs, size = super().answer({**row, "inputs": shapes, "outputs": full}, onnx_path, wide, folder)
        return {name: value[:, :length] for name, value in outputs.items()}, size


class WholeWeights(StandIn):
    """NVIDIA/TensorRT#4590: right, and in fp32: weights and all."""

    def answer(self, row: dict, onnx_path: Path, inputs: Arrays, folder: Path) -> tuple[Arrays, int]:
        return super().answer(row, onnx_path, inputs, folder)[0], row["weight_bytes"] + 20_000


class NotFinite(StandIn):
    def answer(self, row: dict, onnx_path: Path, inputs: Arrays, folder: Path) -> tuple[Arrays, int]:
        outputs, size = super().answer(row, onnx_path, inputs, folder)
        if onnx_path.stem == "attention_half":
            outputs = {name: np.where(value > value.mean(), np.nan, value) for name, value in outputs.items()}
        return outputs, size


class Crashing(StandIn):
    def answer(self, row: dict, onnx_path: Path, inputs: Arrays, folder: Path) -> tuple[Arrays, int]:
        if onnx_path.stem == "top_k":
            raise trtexec.Crashed("trtexec was ended by signal 11 while it built; its last line: no output yet")
        return super().answer(row, onnx_path, inputs, folder)


class Refusing(StandIn):
    def answer(self, row: dict, onnx_path: Path, inputs: Arrays, folder: Path) -> tuple[Arrays, int]:
        if onnx_path.stem in ("scatter_nd_add", "top_k_4000", "layer_norm_half"):
            raise Refused("no importer for this operator")
        return super().answer(row, onnx_path, inputs, folder)


@dataclass(frozen=True)
class Fault:
    made: Callable[[CanarySet], Bench]
    wrong: frozenset[str]
    named: str = ""  # part of the first one's text
    state: str = "broken"


def fault(change: Change, *wrong: str, named: str = "") -> Fault:
    return Fault(lambda canaries: StandIn(canaries, change), frozenset(wrong), named)


DEFORMED = ("deformable_attention_gridsample", "deformable_attention_mixed", "deformable_attention_half")
NEAREST = "it takes the nearest cell"
FAULTS: dict[str, Fault] = {
    "nearest for bilinear": fault(
        every_grid_sample, "grid_sample", "grid_sample_opset20", *DEFORMED, "deformable_convolution_gridsample", named=NEAREST
    ),
    "opset 20": fault(opset_20, "grid_sample_opset20", named=NEAREST),
    "deformable attention of 10.14": fault(computed_grids, *DEFORMED, "deformable_convolution_gridsample", named=NEAREST),
    "GridSample between casts": fault(between_casts, "deformable_attention_mixed", named=NEAREST),
    "zero plugins": Fault(
        ZeroPlugins, frozenset({"deformable_attention_plugin", "deformable_convolution_plugin"}), "its samples are all zero"
    ),
    "norms overflow fp16": fault(all_in_half, "layer_norm_half", "layer_norm_plain", named="its variance overflows fp16"),
    "TF32 for fp32": fault(
        products_in_tf32, "projection", "deformable_attention_gridsample", "deformable_attention_gather", "attention",
        "attention_dynamic", "deformable_convolution_gridsample", "deformable_convolution_gather",
        named="it computes in TF32",
    ),
    "masks left out": fault(without_masks, "attention", "attention_dynamic", "attention_half", named="its mask is left out"),
    "dynamic shapes of 10.3": Fault(Dynamic, frozenset({"attention_dynamic"})),
    "fp32 for int8": fault(without_pairs(TensorProto.INT8), "int8_matmul", "int8_convolution", named="it computes in fp32"),
    "fp32 for FP8": fault(without_pairs(TensorProto.FLOAT8E4M3FN), "fp8_matmul", named="it computes in fp32"),
    "fp32 weights for FP8 and int8": Fault(WholeWeights, frozenset({"int8_matmul", "fp8_matmul"}), "they are fp32", "slow"),
    "TopK cut at 3840": fault(top_k_is_cut, "top_k_4000", named="it stops at 3840"),
    "TopK takes the least": fault(least_first, "top_k", "top_k_4000", named="it takes the least"),
    "ScatterND writes": fault(no_reduction, "scatter_nd_add", named="it writes where it should add"),
    "rows not gathered": fault(rows_in_order, "gather_linear", named="its rows are not gathered"),
    "Resize takes the nearest": fault(resize_is_nearest, "operators_image", named="it resizes to the nearest cell"),
    "Floor cuts": fault(floor_cuts, "operators_elementwise", "deformable_attention_gather", "deformable_convolution_gather"),
    "Pad repeats the edge": fault(
        pads_with_edges, "operators_shape", "deformable_attention_gather", "deformable_convolution_gather"
    ),
    "Where swapped": fault(choices_swapped, "operators_logic", named="its choice is the other way round"),
    "not finite": Fault(NotFinite, frozenset({"attention_half"}), "are not finite"),
    "crash": Fault(Crashing, frozenset({"top_k"}), "signal 11", "crashed"),
    "refused": Fault(Refusing, frozenset({"scatter_nd_add", "top_k_4000", "layer_norm_half"}), "no importer", "refused"),
}  # fmt: skip


class Dying(StandIn):
    """A package whose builder takes the process with it, at one canary."""

    def answer(self, row: dict, onnx_path: Path, inputs: Arrays, folder: Path) -> tuple[Arrays, int]:
        if onnx_path.stem == "projection":
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().answer(row, onnx_path, inputs, folder)


def open_dying(folder: str, _: str) -> Bench:
    return Dying(read_set(Path(folder)))


def main() -> None:
    """Draws what canaries find of each, beside onnxruntime as it is."""
    with tempfile.TemporaryDirectory() as made:
        canaries = write_set(made)
        benches = {"onnxruntime": OrtBench(), "a right TensorRT": StandIn(canaries)}
        benches |= {name: fault.made(canaries) for name, fault in FAULTS.items()}
        draw_table({name: run_set(bench, canaries).outcomes for name, bench in benches.items()}, sys.argv[1])


if __name__ == "__main__":
    main()
