"""What canaries are made of: a small writer of ONNX graphs, and the numpy that says what they should give.

References are plain formulas in float64, not another run of the graph: two back ends can share a fault, a formula shares none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray
PLUGINS = "trt.plugins"
FLOAT8_MAX = 448.0  # of e4m3fn
_ONNX = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}


@dataclass
class Micro:
    """A graph under construction. Values between 1/16 steps: exact in half, and small when packed."""

    name: str
    opset: int = 17
    seed: int = 0
    inputs: dict[str, Array] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    outputs: dict[str, tuple[str, Array]] = field(default_factory=dict)  # name -> tensor, what it should be
    dynamic: dict[str, tuple[Sequence[int], Sequence[int]]] = field(default_factory=dict)  # input -> least, most

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng([self.seed, *self.name.encode()])

    def draw(self, *shape: int, scale: float = 1.0) -> Array:
        """Near-normal numbers in steps of ``scale`` / 16."""
        return (np.clip(np.rint(self.rng.standard_normal(shape) * 16), -48, 48) / 16 * scale).astype(np.float32)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Array:
        """Numbers in 256 steps between two bounds, never on one."""
        steps = self.rng.integers(0, 256, shape) + 0.5
        return (low + (high - low) * steps / 256).astype(np.float32)

    def input(self, name: str, value: Array) -> str:
        self.inputs[name] = value
        return name

    def constant(self, value: Any, dtype: type | None = np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        array = np.asarray(value) if dtype is None else np.asarray(value, dtype)
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def tensor(self, value: onnx.TensorProto) -> str:
        self.constants.append(value)
        return value.name

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        """Adds a node; returns the name of its output, or a list of them."""
        names = [f"{kind.lower()}_{len(self.nodes)}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        attributes = {k: v for k, v in attributes.items() if v is not None}
        label = f"canary.{self.name}/{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=label, domain=domain, **attributes))
        return names[0] if outputs == 1 else names

    def half(self, tensor: str) -> str:
        return self.op("Cast", tensor, to=TensorProto.FLOAT16)

    def single(self, tensor: str) -> str:
        return self.op("Cast", tensor, to=TensorProto.FLOAT)

    def reshape(self, tensor: str, *shape: int) -> str:
        return self.op("Reshape", tensor, self.constant(shape, np.int64))

    def slice(self, tensor: str, start: int, stop: int, axis: int) -> str:
        return self.op("Slice", tensor, *(self.constant([v], np.int64) for v in (start, stop, axis)))

    def sum(self, tensor: str, axis: int) -> str:
        return self.op("ReduceSum", tensor, self.constant([axis], np.int64), keepdims=0)

    def output(self, tensor: str, expected: Array, name: str = "out") -> None:
        kind = np.int32 if expected.dtype.kind in "iub" else np.float32
        self.outputs[name] = (self.op("Identity", tensor), np.ascontiguousarray(expected.astype(kind)))

    def model(self) -> onnx.ModelProto:
        renamed = {tensor: name for name, (tensor, _) in self.outputs.items()}
        nodes = []
        for node in self.nodes:
            copy = onnx.NodeProto.FromString(node.SerializeToString())
            for i, name in enumerate(copy.output):
                copy.output[i] = renamed.get(name, name)
            nodes.append(copy)

        def value(name: str, array: Array) -> onnx.ValueInfoProto:
            shape: list[Any] = list(array.shape)
            for axis in range(len(shape)) if name in self.dynamic else ():
                if self.dynamic[name][0][axis] != self.dynamic[name][1][axis]:
                    shape[axis] = f"{name}_{axis}"
            if name in self.outputs and self.dynamic:
                shape = [f"{name}_{axis}" if axis < 2 else size for axis, size in enumerate(shape)]
            return helper.make_tensor_value_info(name, _ONNX[array.dtype.name], shape)

        graph = helper.make_graph(
            nodes,
            self.name,
            [value(name, array) for name, array in self.inputs.items()],
            [value(name, array) for name, (_, array) in self.outputs.items()],
            self.constants,
        )
        domains = [helper.make_opsetid("", self.opset)]
        if any(node.domain == PLUGINS for node in self.nodes):
            domains.append(helper.make_opsetid(PLUGINS, 1))
        return helper.make_model(graph, opset_imports=domains, ir_version=8 if self.opset < 19 else 9)


# --- sampling ---------------------------------------------------------------------------------------------------------------

Sample = Callable[[Array, Array, Array], Array]


def bilinear(image_CHW: Array, x: Array, y: Array) -> Array:
    """[C, ...points]: values at pixel coordinates, where 0 is the centre of the first pixel; zero outside."""
    _, height, width = image_CHW.shape
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    total = np.zeros((image_CHW.shape[0], *x.shape))
    for dx in (0, 1):
        for dy in (0, 1):
            column, row = x0 + dx, y0 + dy
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            weight = (1 - np.abs(x - column)) * (1 - np.abs(y - row)) * inside
            total += weight * image_CHW[:, row.clip(0, height - 1), column.clip(0, width - 1)]
    return total


def nearest(image_CHW: Array, x: Array, y: Array) -> Array:
    """As ``bilinear``, of the nearest pixel alone: what parsers give for a mode that they do not know."""
    _, height, width = image_CHW.shape
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return inside * image_CHW[:, row.clip(0, height - 1), column.clip(0, width - 1)].astype(np.float64)


def grid_sampled(images_NCHW: Array, grid_NPQ2: Array, sample: Sample) -> Array:
    """ONNX GridSample, align_corners 0, zeros outside."""
    height, width = images_NCHW.shape[2:]
    x = ((grid_NPQ2[..., 0].astype(np.float64) + 1) * width - 1) / 2
    y = ((grid_NPQ2[..., 1].astype(np.float64) + 1) * height - 1) / 2
    return np.stack([sample(image.astype(np.float64), xs, ys) for image, xs, ys in zip(images_NCHW, x, y)])


def attended(value_VHD: Array, shapes: Sequence[tuple[int, int]], loc_QHLP2: Array, weight_QHLP: Array, sample: Sample) -> Array:
    """Deformable attention, [Q, H * D]."""
    queries, heads, _, _ = weight_QHLP.shape
    out = np.zeros((queries, heads, value_VHD.shape[2]))
    start = 0
    for level, (h, w) in enumerate(shapes):
        for head in range(heads):
            image = value_VHD[start : start + h * w, head].astype(np.float64).T.reshape(-1, h, w)
            x, y = loc_QHLP2[:, head, level, :, 0] * w - 0.5, loc_QHLP2[:, head, level, :, 1] * h - 0.5
            out[:, head] += (sample(image, x, y) * weight_QHLP[:, head, level]).sum(-1).T
        start += h * w
    return out.reshape(queries, -1)


def deformed(x_CHW: Array, offset_K2hw: Array, mask_Khw: Array, weight_OCkk: Array, sample: Sample) -> Array:
    """Modulated deformable convolution (DCNv2) of stride 1 and padding 1: [O, h, w]."""
    _, height, width = x_CHW.shape
    size = weight_OCkk.shape[-1]
    rows, columns = np.mgrid[:height, :width]
    out = np.zeros((weight_OCkk.shape[0], height, width))
    for tap in range(size * size):
        y = rows + tap // size - 1 + offset_K2hw[tap, 0]
        x = columns + tap % size - 1 + offset_K2hw[tap, 1]
        taken = sample(x_CHW.astype(np.float64), x, y) * mask_Khw[tap]
        out += np.einsum("oc,chw->ohw", weight_OCkk[:, :, tap // size, tap % size].astype(np.float64), taken)
    return out


# --- numbers ----------------------------------------------------------------------------------------------------------------


def softmax(x: Array) -> Array:
    """Over the last axis."""
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x.astype(np.float64)))


def layer_norm(x: Array, scale: Array, bias: Array, epsilon: float = 1e-5) -> Array:
    """Over the last axis."""
    x = x.astype(np.float64)
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * scale + bias


def int8_rounded(x: Array, scale: Array | np.floating) -> Array:
    """Through QuantizeLinear and DequantizeLinear."""
    return np.clip(np.rint(x.astype(np.float64) / scale), -128, 127) * scale


def float8(x: Array) -> Array:
    """Rounded to e4m3fn (three bits of mantissa, no infinity), saturating."""
    x = np.asarray(x, np.float64)
    exponent = np.floor(np.log2(np.maximum(np.abs(x), 2.0**-30))).clip(-6, 8)
    step = 2.0 ** (exponent - 3)
    return np.clip(np.rint(x / step) * step, -FLOAT8_MAX, FLOAT8_MAX)


def tf32(x: Array) -> Array:
    """With the ten bits of mantissa that TF32 keeps."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)


def halved(x: Array) -> Array:
    """Through float16; what it cannot hold is infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(np.float16).astype(np.float64)


def signs(**named: Array) -> dict[str, Mapping[str, Array]]:
    """What an output named ``out`` is where a known fault is there."""
    return {name: {"out": np.asarray(value)} for name, value in named.items()}
