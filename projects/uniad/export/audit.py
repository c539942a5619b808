"""What a graph must not contain if every supported TensorRT is to parse it without a plugin. See docs/export.md."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from uniad.export.passes import HIGHEST_OPSET, LOWEST_OPSET, opset_of
from uniad.interface.contract import Contract

FORBIDDEN = {
    "NonZero": "its output size depends on the data",
    "Unique": "its output size depends on the data",
    "Compress": "its output size depends on the data",
    "If": "control flow",
    "Loop": "control flow",
    "Scan": "control flow",
    "DeformConv": "no parser before TensorRT 10.1 has it; choose another EXPORT_SAMPLING",
    "CumSum": "engines run it as a loop; add up with a masked sum",
    "Einsum": "TensorRT 8.5 knows a part of its equations; multiply matrices",
    "GatherND": "an index in brackets leaves so, with its shape computed at run time; take rows with index_select",
    "ScatterND": "slow and of 64-bit indices in engines; select with masks",
    "ScatterElements": "slow in engines; select with masks",
    "CastLike": "TensorRT 8.5 has no parser for it",
    "Det": "no TensorRT parser has it",
    "AffineGrid": "no parser before opset 20 has it",
    "NonMaxSuppression": "its output size depends on the data",
    "RandomNormal": "a step must be a function of its inputs",
    "RandomUniform": "a step must be a function of its inputs",
    "Bernoulli": "a step must be a function of its inputs",
    "Dropout": "the graph was exported in training mode",
}
TOPK_LIMIT = 3840  # TensorRT: K must be constant and below this
PLUGIN_DOMAINS = {"", "ai.onnx"}
STOCK_PLUGINS = {"MultiscaleDeformableAttnPlugin_TRT"}


def audit(model: onnx.ModelProto, contract: Contract | None = None, allow_plugin: bool = False) -> list[str]:
    """Faults of a graph, one sentence each; empty where it is deployable."""
    faults: list[str] = []
    opset = opset_of(model)
    if not LOWEST_OPSET <= opset <= HIGHEST_OPSET:
        faults.append(f"opset {opset} is outside {LOWEST_OPSET}..{HIGHEST_OPSET}")
    constants = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants[node.output[0]] = node.attribute[0].t
    for node in model.graph.node:
        label = f"{node.op_type} {node.name or node.output[0]!r}"
        if node.op_type in FORBIDDEN:
            faults.append(f"{label}: {FORBIDDEN[node.op_type]}")
        if node.domain not in PLUGIN_DOMAINS and not (allow_plugin and node.op_type in STOCK_PLUGINS):
            faults.append(f"{label}: domain {node.domain!r} needs a plugin")
        if node.op_type == "TopK":
            if node.input[1] not in constants:
                faults.append(f"{label}: K is computed at run time")
            else:
                k = int(np.atleast_1d(numpy_helper.to_array(constants[node.input[1]]))[0])
                if k >= TOPK_LIMIT:
                    faults.append(f"{label}: K is {k}, TensorRT takes less than {TOPK_LIMIT}")
        if node.op_type == "GridSample":
            mode = next((a.s.decode() for a in node.attribute if a.name == "mode"), "bilinear")
            if mode not in ("bilinear", "nearest", "bicubic"):
                faults.append(f"{label}: mode {mode!r} is the opset-20 spelling, which older parsers read as nearest")
    faults += _io_faults(model, contract)
    faults += [
        f"tensor {v.name!r} is float64, which TensorRT does not compute"
        for v in model.graph.value_info
        if v.type.tensor_type.elem_type == TensorProto.DOUBLE
    ]
    return faults


def _io_faults(model: onnx.ModelProto, contract: Contract | None) -> list[str]:
    faults = []
    onnx_dtype = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}
    sides = (
        ("input", model.graph.input, contract.input_ports() if contract else {}),
        ("output", model.graph.output, contract.output_ports() if contract else {}),
    )
    for side, values, ports in sides:
        found = {}
        for value in values:
            dims = value.type.tensor_type.shape.dim
            if any(d.dim_param or not d.HasField("dim_value") for d in dims):
                faults.append(f"{side} {value.name!r} has a dynamic shape")
            found[value.name] = (tuple(d.dim_value for d in dims), value.type.tensor_type.elem_type)
        if contract is None:
            continue
        for name, port in ports.items():
            want = (port.shape, onnx_dtype[port.dtype])
            if name not in found:
                faults.append(f"{side} {name!r} of the contract is missing in the graph")
            elif found[name] != want:
                faults.append(f"{side} {name!r} is {found[name]}, the contract says {want}")
        faults += [f"{side} {name!r} is not in the contract" for name in found.keys() - ports.keys()]
    return faults
