"""The canaries: one micro-graph for each fault of TensorRT that people have reported, and for the operators of our own export.

Each resembles the graph that shows the fault; docs/canary.md has the threads. ``signs`` are the outputs that a known fault gives,
so that a wrong answer can be named. ``avoid`` is tried in order: an option is advised only where the canary beside it is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from onnx import TensorProto, helper

from uniad.canary.graphs import (
    FLOAT8_MAX,
    PLUGINS,
    Array,
    Micro,
    Sample,
    attended,
    bilinear,
    deformed,
    float8,
    grid_sampled,
    halved,
    int8_rounded,
    layer_norm,
    nearest,
    sigmoid,
    signs,
    softmax,
    tf32,
)

FP32, FP16 = 1e-4, 3e-2  # allowed error, as a share of the largest expected value
Signs = Mapping[str, Mapping[str, Array]]


@dataclass(frozen=True)
class Facts:
    """What decides whether a canary concerns a graph."""

    operators: frozenset[str]
    backbone: frozenset[str]  # operators inside img_backbone
    opset: int = 17
    halves: bool = False
    int8: bool = False
    float8: bool = False
    dynamic: bool = False  # an input has a dimension without a size
    most_k: int = 0  # of its TopK
    reductions: bool = False  # a scatter that adds up

    def has(self, *operators: str) -> bool:
        return bool(self.operators & set(operators))


@dataclass(frozen=True)
class Kind:
    """A canary before it is drawn. ``make`` fills the graph and returns its ``signs``."""

    what: str  # that is computed wrong: the object of a sentence
    make: Callable[[Micro], Signs]
    concerns: Callable[[Facts], bool]
    threads: Sequence[str] = ()
    seen_in: str = ""  # releases and devices of the reports
    precision: str = "fp32"
    opset: int = 17
    limit: float = FP32
    avoid: Sequence[tuple[str, str]] = ()  # setting, canary that must be right for it
    elsewhere: Mapping[str, str] = field(default_factory=dict)  # back end -> why it is not asked


# --- sampling ---------------------------------------------------------------------------------------------------------------


def _grid_sample(g: Micro) -> Signs:
    return _sampled(g, g.draw(2, 16, 25, 25), g.uniform(2, 50, 8, 2, low=-1.2, high=1.2), "bilinear")


def _grid_sample_20(g: Micro) -> Signs:
    """The shapes of NVIDIA/TensorRT#4646, with a batch of 64."""
    return _sampled(g, g.draw(64, 1, 1, 256), g.uniform(64, 1, 9, 2, low=-1, high=1), "linear")


def _sampled(g: Micro, image: Array, grid: Array, mode: str) -> Signs:
    """mode: opset 20 has another word for bilinear."""
    out = g.op("GridSample", g.input("image", image), g.input("grid", grid),
               mode=mode, padding_mode="zeros", align_corners=0)  # fmt: skip
    g.output(out, grid_sampled(image, grid, bilinear))
    return signs(**{"it takes the nearest cell": grid_sampled(image, grid, nearest)})


HEADS, DIM, POINTS, QUERIES = 8, 16, 4, 60
WIDTH = HEADS * DIM
SHAPES = ((20, 20), (10, 10))
LEVELS, ROWS = len(SHAPES), sum(h * w for h, w in SHAPES)
_SIZES = np.array([(w, h) for h, w in SHAPES], np.float32)


@dataclass
class _Attention:
    """Weights of one layer of deformable attention, drawn once for graph and reference."""

    g: Micro

    def __post_init__(self) -> None:
        g, out = self.g, HEADS * LEVELS * POINTS
        self.value, self.output = g.draw(WIDTH, WIDTH, scale=0.125), g.draw(WIDTH, WIDTH, scale=0.125)
        self.offset, self.weight = g.draw(WIDTH, out * 2, scale=0.125), g.draw(WIDTH, out, scale=0.0625)

    def of(self, query: Array, rows: Array, points: Array, sample: Sample) -> Array:
        """Reference of a layer: query [Q, W], rows [V, W], points [Q, 2]."""
        q, v = query.astype(np.float64), rows.astype(np.float64) @ self.value
        offset = (q @ self.offset).reshape(QUERIES, HEADS, LEVELS, POINTS, 2)
        weight = softmax((q @ self.weight).reshape(QUERIES, HEADS, -1)).reshape(QUERIES, HEADS, LEVELS, POINTS)
        loc = points[:, None, None, None] + offset / _SIZES[:, None]
        taken = attended(v.reshape(ROWS, HEADS, DIM), SHAPES, loc, weight, sample)
        return taken @ self.output + q


def _deformable(g: Micro, how: str, types: str = "float") -> Signs:
    """Two layers, as the decoder of a track or map head has them; written as our export writes them."""
    query, rows, points = g.draw(1, QUERIES, WIDTH), g.draw(1, ROWS, WIDTH), g.uniform(1, QUERIES, 2, low=-0.05, high=1.05)
    layers = [_Attention(g) for _ in range(2)]
    low = g.half if types != "float" else lambda tensor: tensor
    tensor, values = low(g.input("query", query)), low(g.input("value", rows))
    at = g.op("Unsqueeze", g.op("Unsqueeze", g.input("points", points), g.constant([2], np.int64)), g.constant([3], np.int64))
    at = g.op("Unsqueeze", at, g.constant([4], np.int64))

    def product(x: str, weight: Array) -> str:
        return g.op("MatMul", x, low(g.constant(weight)))

    for layer in layers:
        value = g.reshape(product(values, layer.value), 1, ROWS, HEADS, DIM)
        offset = g.reshape(product(tensor, layer.offset), 1, QUERIES, HEADS, LEVELS, POINTS, 2)
        weight = g.op("Softmax", g.reshape(product(tensor, layer.weight), 1, QUERIES, HEADS, LEVELS * POINTS), axis=-1)
        weight = g.reshape(weight, 1, QUERIES, HEADS, LEVELS, POINTS)
        offset = offset if types == "float" else g.single(offset)  # positions stay in float
        loc = g.op("Add", at, g.op("Div", offset, g.constant(_SIZES.reshape(1, 1, 1, LEVELS, 1, 2))))
        taken = {"gridsample": _by_grid_sample, "gather": _by_gather, "plugin": _by_plugin}[how](g, value, loc, weight, types)
        tensor = g.op("Add", product(taken, layer.output), tensor)
    g.output(tensor if types == "float" else g.single(tensor), _layers(layers, query, rows, points, bilinear))
    return signs(
        **{
            "it takes the nearest cell": _layers(layers, query, rows, points, nearest),
            "its samples are all zero": query,
        }
    )


def _layers(layers: Sequence[_Attention], query: Array, rows: Array, points: Array, sample: Sample) -> Array:
    out = query[0]
    for layer in layers:
        out = layer.of(out, rows[0], points[0], sample)
    return out[None]


def _by_grid_sample(g: Micro, value: str, loc: str, weight: str, types: str) -> str:
    grid = g.op("Sub", g.op("Mul", loc, g.constant(2.0)), g.constant(1.0))
    grid = g.reshape(g.op("Transpose", grid, perm=[3, 0, 2, 1, 4, 5]), LEVELS, HEADS, QUERIES, POINTS, 2)
    weight = g.reshape(g.op("Transpose", weight, perm=[3, 0, 2, 1, 4]), LEVELS, HEADS, QUERIES, POINTS)
    weight = g.op("Unsqueeze", weight, g.constant([2], np.int64))
    maps = g.reshape(g.op("Transpose", value, perm=[0, 2, 3, 1]), HEADS, DIM, ROWS)
    out, start = "", 0
    for level, (h, w) in enumerate(SHAPES):
        image = g.reshape(g.slice(maps, start, start + h * w, 2), HEADS, DIM, h, w)
        at = g.op("Gather", grid, g.constant(level, np.int64), axis=0)
        if types == "mixed":  # GridSample alone in float, between halves
            image = g.single(image)
        elif types == "half":
            at = g.half(at)
        sampled = g.op("GridSample", image, at, mode="bilinear", padding_mode="zeros", align_corners=0)
        sampled = g.half(sampled) if types == "mixed" else sampled
        part = g.sum(g.op("Mul", sampled, g.op("Gather", weight, g.constant(level, np.int64), axis=0)), -1)
        out = g.op("Add", out, part) if out else part
        start += h * w
    return g.op("Transpose", g.reshape(out, 1, WIDTH, QUERIES), perm=[0, 2, 1])


def _corners(g: Micro, x: str, y: str, h: int, w: int) -> list[tuple[str, str]]:
    """Row in the padded map and bilinear weight of the four neighbours, as uniad.ops.bilinear has them."""
    one = g.constant(1.0)
    x, y = (g.op("Clip", v, g.constant(-1.0), g.constant(float(n))) for v, n in ((x, w), (y, h)))
    x0, y0 = (g.op("Min", g.op("Floor", v), g.constant(float(n - 1))) for v, n in ((x, w), (y, h)))
    fx, fy = g.op("Sub", x, x0), g.op("Sub", y, y0)
    row = g.op("Mul", g.op("Add", y0, one), g.constant(float(w + 2)))
    index = g.op("Cast", g.op("Add", row, g.op("Add", x0, one)), to=TensorProto.INT32)
    gx, gy = g.op("Sub", one, fx), g.op("Sub", one, fy)
    pairs = ((0, gx, gy), (1, fx, gy), (w + 2, gx, fy), (w + 3, fx, fy))
    return [(g.op("Add", index, g.constant(n, np.int32)) if n else index, g.op("Mul", a, b)) for n, a, b in pairs]


def _by_gather(g: Micro, value: str, loc: str, weight: str, types: str) -> str:
    loc = g.reshape(g.op("Transpose", loc, perm=[3, 0, 2, 1, 4, 5]), LEVELS, HEADS, QUERIES, POINTS, 2)
    weight = g.reshape(g.op("Transpose", weight, perm=[3, 0, 2, 1, 4]), LEVELS, HEADS, QUERIES, POINTS)
    rows = g.reshape(g.op("Transpose", value, perm=[0, 2, 1, 3]), HEADS, ROWS, DIM)
    out, start = "", 0
    for level, (h, w) in enumerate(SHAPES):
        image = g.reshape(g.slice(rows, start, start + h * w, 1), HEADS, h, w, DIM)
        image = g.op("Pad", image, g.constant([0, 1, 1, 0, 0, 1, 1, 0], np.int64), mode="constant")
        step = (h + 2) * (w + 2)
        flat = g.reshape(image, HEADS * step, DIM)
        at = g.op("Gather", loc, g.constant(level, np.int64), axis=0)
        x, y = (
            g.op(
                "Sub", g.op("Mul", g.op("Gather", at, g.constant(axis, np.int64), axis=3), g.constant(float(n))), g.constant(0.5)
            )
            for axis, n in ((0, w), (1, h))
        )
        base = g.constant(np.arange(HEADS).reshape(-1, 1, 1) * step, np.int32)
        of_level = g.op("Gather", weight, g.constant(level, np.int64), axis=0)
        for index, factor in _corners(g, x, y, h, w):
            taken = g.op("Gather", flat, g.reshape(g.op("Add", index, base), HEADS * QUERIES * POINTS), axis=0)
            taken = g.reshape(taken, HEADS, QUERIES, POINTS, DIM)
            factor = g.op("Unsqueeze", g.op("Mul", factor, of_level), g.constant([3], np.int64))
            part = g.sum(g.op("Mul", taken, factor), 2)
            out = g.op("Add", out, part) if out else part
        start += h * w
    out = g.op("Transpose", g.reshape(out, 1, HEADS, QUERIES, DIM), perm=[0, 2, 1, 3])
    return g.reshape(out, 1, QUERIES, WIDTH)


def _by_plugin(g: Micro, value: str, loc: str, weight: str, types: str) -> str:
    starts = np.cumsum([0, *(h * w for h, w in SHAPES)])[:-1]
    out = g.op("MultiscaleDeformableAttnPlugin_TRT", value, g.constant(SHAPES, np.int32), g.constant(starts, np.int32), loc,
               weight, domain=PLUGINS)  # fmt: skip
    return g.reshape(out, 1, QUERIES, WIDTH)


def _deformable_conv(g: Micro, how: str) -> Signs:
    channels, size = 16, 14
    x, weight = g.draw(1, channels, size, size), g.draw(channels, channels, 3, 3, scale=0.25)
    field = g.draw(1, 27, size, size)
    offset, mask = field[0, :18].reshape(9, 2, size, size), sigmoid(field[0, 18:])
    image, learnt = g.input("x", x), g.input("field", field)
    moved, strength = g.slice(learnt, 0, 18, 1), g.op("Sigmoid", g.slice(learnt, 18, 27, 1))
    if how == "plugin":
        out = g.op("ModulatedDeformConv2d", image, moved, strength, g.constant(weight), domain=PLUGINS, stride=[1, 1],
                   padding=[1, 1], dilation=[1, 1], group=1, deformable_group=1)  # fmt: skip
    else:
        rows, columns = np.mgrid[:size, :size].astype(np.float32)
        tap = np.arange(9)
        y0 = rows + (tap // 3 - 1)[:, None, None]
        x0 = columns + (tap % 3 - 1)[:, None, None]
        moved = g.reshape(moved, 1, 9, 2, size, size)
        y, at = (
            g.op("Add", g.op("Gather", moved, g.constant(axis, np.int64), axis=2), g.constant(base[None]))
            for axis, base in ((0, y0), (1, x0))
        )
        taken = (_taps_by_grid_sample if how == "gridsample" else _taps_by_gather)(g, image, at, y, channels, size)
        taken = g.op("Mul", taken, g.op("Unsqueeze", strength, g.constant([1], np.int64)))
        taken = g.reshape(taken, 1, channels * 9, size * size)
        out = g.op("MatMul", g.constant(weight.reshape(1, channels, -1)), taken)
        out = g.reshape(out, 1, channels, size, size)
    g.output(out, deformed(x[0], offset, mask, weight, bilinear)[None])
    return signs(
        **{
            "it takes the nearest cell": deformed(x[0], offset, mask, weight, nearest)[None],
            "its offsets are left out": deformed(x[0], 0 * offset, mask, weight, bilinear)[None],
            "it is all zero": np.zeros((1, channels, size, size)),
        }
    )


def _taps_by_grid_sample(g: Micro, image: str, x: str, y: str, channels: int, size: int) -> str:
    axes = []
    for v in (x, y):
        v = g.op("Add", g.op("Mul", v, g.constant(2.0)), g.constant(1.0))
        v = g.op("Sub", g.op("Div", v, g.constant(float(size))), g.constant(1.0))
        axes.append(g.op("Unsqueeze", v, g.constant([4], np.int64)))
    grid = g.reshape(g.op("Concat", *axes, axis=4), 1, 9 * size, size, 2)
    taken = g.op("GridSample", image, grid, mode="bilinear", padding_mode="zeros", align_corners=0)
    return g.reshape(taken, 1, channels, 9, size, size)


def _taps_by_gather(g: Micro, image: str, x: str, y: str, channels: int, size: int) -> str:
    rows = g.reshape(g.op("Transpose", g.reshape(image, 1, channels, size * size), perm=[0, 2, 1]), 1, size, size, channels)
    padded = g.op("Pad", rows, g.constant([0, 1, 1, 0, 0, 1, 1, 0], np.int64), mode="constant")
    flat = g.reshape(padded, (size + 2) ** 2, channels)
    out = ""
    for index, factor in _corners(g, x, y, size, size):
        taken = g.op("Gather", flat, g.reshape(index, 9 * size * size), axis=0)
        part = g.op("Mul", g.reshape(taken, 1, 9, size, size, channels), g.op("Unsqueeze", factor, g.constant([4], np.int64)))
        out = g.op("Add", out, part) if out else part
    return g.op("Transpose", out, perm=[0, 4, 1, 2, 3])


# --- norms and attention ----------------------------------------------------------------------------------------------------


def _layer_norm(g: Micro, plain: bool) -> Signs:
    """Values of hundreds, as after self-attention: their squares are beyond 65504."""
    x, residual = g.draw(1, 40, WIDTH, scale=200.0) + np.float32(300), g.draw(1, 40, WIDTH)
    scale, bias = g.draw(WIDTH) + np.float32(2), g.draw(WIDTH)
    tensors = [g.half(g.input(name, value)) for name, value in (("x", x), ("residual", residual))]
    if plain:  # kept in float between halves, as a converted graph has it
        tensors = [g.single(tensor) for tensor in tensors]
    tensor = g.op("Add", *tensors)
    if plain:
        mean = g.op("ReduceMean", tensor, axes=[-1], keepdims=1)
        centred = g.op("Sub", tensor, mean)
        variance = g.op("ReduceMean", g.op("Pow", centred, g.constant(2.0)), axes=[-1], keepdims=1)
        deviation = g.op("Sqrt", g.op("Add", variance, g.constant(1e-5)))
        out = g.op("Add", g.op("Mul", g.op("Div", centred, deviation), g.constant(scale)), g.constant(bias))
        out = g.half(out)
    else:
        out = g.op("LayerNormalization", tensor, g.half(g.constant(scale)), g.half(g.constant(bias)), axis=-1, epsilon=1e-5)
    g.output(g.single(out), layer_norm(x + residual, scale, bias))
    return signs(**{"its variance overflows fp16": np.broadcast_to(bias, x.shape)})


def _attention(g: Micro, dynamic: bool = False, half: bool = False) -> Signs:
    """Self-attention with masked keys, twice."""
    tokens, batch = 40, 1
    x, padded = g.draw(batch, tokens, WIDTH), np.zeros((batch, tokens), np.int32)
    padded[:, 30:] = 1
    layers = [[g.draw(WIDTH, WIDTH, scale=0.125) for _ in range(4)] for _ in range(2)]
    tensor, mask = g.input("x", x), g.input("padded", padded)
    if dynamic:
        g.dynamic = {"x": ((1, 8, WIDTH), (2, 120, WIDTH)), "padded": ((1, 8), (2, 120))}
    low = g.half if half else lambda t: t
    tensor = low(tensor)
    hidden = g.op("Unsqueeze", g.op("Cast", mask, to=TensorProto.BOOL), g.constant([1, 2], np.int64))
    split = (0, -1, HEADS, DIM) if dynamic else (batch, tokens, HEADS, DIM)
    merged = (0, -1, WIDTH) if dynamic else (batch, tokens, WIDTH)
    never = low(g.constant(-np.inf))
    for q, k, v, o in layers:
        query, key, value = (g.reshape(g.op("MatMul", tensor, low(g.constant(w))), *split) for w in (q, k, v))
        query = g.op("Mul", g.op("Transpose", query, perm=[0, 2, 1, 3]), low(g.constant(1 / math.sqrt(DIM))))
        scores = g.op("MatMul", query, g.op("Transpose", key, perm=[0, 2, 3, 1]))
        weights = g.op("Softmax", g.op("Where", hidden, never, scores), axis=-1)
        taken = g.op("MatMul", weights, g.op("Transpose", value, perm=[0, 2, 1, 3]))
        taken = g.reshape(g.op("Transpose", taken, perm=[0, 2, 1, 3]), *merged)
        tensor = g.op("Add", g.op("MatMul", taken, low(g.constant(o))), tensor)
    g.output(g.single(tensor) if half else tensor, _attended(layers, x, padded))
    return signs(
        **{
            "its mask is left out": _attended(layers, x, 0 * padded),
            "its scores are not scaled": _attended(layers, x, padded, 1.0),
            "it is all zero": np.zeros_like(x),
        }
    )


def _attended(layers: Sequence[Sequence[Array]], x: Array, padded: Array, scale: float = 1 / math.sqrt(DIM)) -> Array:
    out = x.astype(np.float64)
    for q, k, v, o in layers:
        query, key, value = ((out @ w).reshape(*x.shape[:2], HEADS, DIM).transpose(0, 2, 1, 3) for w in (q, k, v))
        scores = np.where(padded[:, None, None] > 0, -np.inf, query @ key.transpose(0, 1, 3, 2) * scale)
        out = (softmax(scores) @ value).transpose(0, 2, 1, 3).reshape(x.shape) @ o + out
    return out


# --- low precision ----------------------------------------------------------------------------------------------------------


def _pair(g: Micro, tensor: str, scale: Array | np.floating, axis: int | None = None) -> str:
    """QuantizeLinear and DequantizeLinear to int8, as our quantised graphs have them."""
    steps = g.constant(scale)
    zero = g.constant(np.zeros(np.shape(scale)), np.int8)
    return g.op("DequantizeLinear", g.op("QuantizeLinear", tensor, steps, zero, axis=axis), steps, zero, axis=axis)


def _int8_matmul(g: Micro) -> Signs:
    x, weight, bias = g.draw(1, 64, 512), g.draw(512, 512, scale=0.25), g.draw(512)
    step, steps = (
        np.float32(0.2817),
        (np.abs(weight).max(0) / 6.87).astype(np.float32),
    )  # few levels: a rounding that is left out shows
    out = g.op("MatMul", _pair(g, g.input("x", x), step), _pair(g, g.constant(weight), steps, 1))
    g.output(g.op("Add", out, g.constant(bias)), int8_rounded(x, step) @ int8_rounded(weight, steps) + bias)
    return signs(**{"it computes in fp32": x.astype(np.float64) @ weight + bias})


def _int8_convolution(g: Micro) -> Signs:
    x, weight = g.draw(1, 32, 12, 12), g.draw(32, 32, 3, 3, scale=0.25)
    step, steps = np.float32(0.2817), (np.abs(weight).max((1, 2, 3)) / 6.87).astype(np.float32)
    out = g.op("Conv", _pair(g, g.input("x", x), step), _pair(g, g.constant(weight), steps, 0), kernel_shape=[3, 3],
               pads=[1, 1, 1, 1])  # fmt: skip
    still = np.zeros((9, 2, 12, 12)), np.ones((9, 12, 12))
    g.output(out, deformed(int8_rounded(x, step)[0], *still, int8_rounded(weight, steps[:, None, None, None]), bilinear)[None])
    return signs(**{"it computes in fp32": deformed(x[0], *still, weight, bilinear)[None]})


def _fp8_matmul(g: Micro) -> Signs:
    """Every operand through e4m3, which has three bits of mantissa."""
    x, weight = g.draw(1, 64, 512) * np.float32(0.937), g.draw(512, 512, scale=0.25) * np.float32(0.937)
    scales = [np.float32(np.abs(v).max() / FLOAT8_MAX) for v in (x, weight)]
    zero = g.tensor(helper.make_tensor("fp8_zero", TensorProto.FLOAT8E4M3FN, [], b"\0", raw=True))
    operands, rounded = [], []
    for tensor, array, scale in ((g.input("x", x), x, scales[0]), (g.constant(weight), weight, scales[1])):
        steps = g.constant(scale)
        operands.append(g.op("DequantizeLinear", g.op("QuantizeLinear", tensor, steps, zero), steps, zero))
        rounded.append(float8(array.astype(np.float32) / scale) * scale)
    g.output(g.op("MatMul", *operands), rounded[0] @ rounded[1])
    return signs(**{"it computes in fp32": x.astype(np.float64) @ weight})


def _projection(g: Micro) -> Signs:
    """Points of a BEV to pixels of six cameras: entries of thousands, and metres."""
    points = np.concatenate([g.draw(1, 300, 3, scale=16.0) * np.float32(1.037), np.ones((1, 300, 1), np.float32)], -1)
    matrices = g.draw(6, 4, 4, scale=500.0) * np.float32(1.019)
    moved = g.op("Transpose", g.input("lidar2img", matrices), perm=[0, 2, 1])
    g.output(g.op("MatMul", g.input("points", points), moved), _projected(points, matrices))
    return signs(
        **{
            "it computes in TF32": _projected(tf32(points), tf32(matrices)),
            "it computes in fp16": _projected(halved(points), halved(matrices)),
        }
    )


def _projected(points: Array, matrices: Array) -> Array:
    return points.astype(np.float64) @ matrices.astype(np.float64).transpose(0, 2, 1)


# --- selection --------------------------------------------------------------------------------------------------------------


def _distinct(g: Micro, *shape: int) -> Array:
    return (g.rng.permutation(math.prod(shape)).reshape(shape) / np.float32(16)).astype(np.float32)


def _top_k(g: Micro, width: int, k: int) -> Signs:
    scores, rows = _distinct(g, 1, width), g.draw(width, 4)
    best, index = g.op("TopK", g.input("scores", scores), g.constant([k], np.int64), outputs=2, axis=1, largest=1, sorted=1)
    order = np.argsort(-scores[0])[:k]
    g.output(best, scores[:, order])
    g.output(g.op("Cast", index, to=TensorProto.INT32), order[None].astype(np.int32), "index")
    taken = g.op("Gather", g.input("rows", rows), g.op("Squeeze", index, g.constant([0], np.int64)), axis=0)
    g.output(taken, rows[order], "taken")
    least = {"it takes the least": {"out": scores[:, np.argsort(scores[0])[:k]]}}
    if k <= 3840:
        return least
    return {"it stops at 3840": {"out": np.where(np.arange(k) < 3840, scores[:, order], 0)}, **least}


def _scatter_add(g: Micro) -> Signs:
    data, updates = g.draw(8, 4), g.draw(6, 4)
    rows = np.array([1, 3, 1, 7, 3, 1])
    out = g.op(
        "ScatterND", g.input("data", data), g.constant(rows[:, None], np.int64), g.input("updates", updates), reduction="add"
    )
    added, written = data.copy(), data.copy()
    np.add.at(added, rows, updates)
    written[rows] = updates
    g.output(out, added)
    return signs(**{"it writes where it should add": written})


def _gather_linear(g: Micro) -> Signs:
    """The edges of NVIDIA/TensorRT#3645: a row for each edge, projected, cut into heads and multiplied."""
    centre, near, rows = g.draw(20, WIDTH), g.draw(50, WIDTH), g.rng.integers(0, 20, 50).astype(np.int32)
    q, k = g.draw(WIDTH, WIDTH, scale=0.125), g.draw(WIDTH, WIDTH, scale=0.125)
    taken = g.op("Gather", g.input("centre", centre), g.input("edges", rows), axis=0)
    query, key = (
        g.reshape(g.op("MatMul", t, g.constant(w)), -1, HEADS, DIM) for t, w in ((taken, q), (g.input("near", near), k))
    )
    g.output(g.sum(g.op("Mul", query, key), -1), _edges(centre[rows], near, q, k))
    return signs(**{"its rows are not gathered": _edges(np.resize(centre, near.shape), near, q, k)})


def _edges(centre: Array, near: Array, q: Array, k: Array) -> Array:
    return ((centre.astype(np.float64) @ q) * (near.astype(np.float64) @ k)).reshape(-1, HEADS, DIM).sum(-1)


# --- the operators of our export --------------------------------------------------------------------------------------------


def _image_operators(g: Micro) -> Signs:
    channels, size = 8, 13
    x, weight, bias = g.draw(1, channels, size, size), g.draw(channels, channels, 3, 3, scale=0.25), g.draw(channels)
    scale, shift, mean = g.draw(channels) + np.float32(2), g.draw(channels), g.draw(channels)
    var = g.uniform(channels, low=0.5, high=2)
    tensor = g.op("Conv", g.input("x", x), g.constant(weight), g.constant(bias), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    tensor = g.op("BatchNormalization", tensor, *(g.constant(v) for v in (scale, shift, mean, var)), epsilon=1e-5)
    tensor = g.op("Relu", tensor)
    pooled = g.op("MaxPool", tensor, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    empty = ""
    linear = {"mode": "linear", "coordinate_transformation_mode": "half_pixel"}
    twice = g.op("Resize", pooled, empty, g.constant([1, 1, 2, 2]), **linear)
    fitted = g.op("Resize", twice, empty, empty, g.constant([1, channels, size, size], np.int64), **linear)
    out = g.op("Add", fitted, g.op("MaxPool", tensor, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    still = np.zeros((9, 2, size, size)), np.ones((9, size, size))
    made = deformed(x[0], *still, weight, bilinear) + bias[:, None, None]
    norm = [v.astype(np.float64)[:, None, None] for v in (scale, shift, mean, var)]
    made = np.maximum((made - norm[2]) / np.sqrt(norm[3] + 1e-5) * norm[0] + norm[1], 0)
    low = _pooled(made, 2, 2, 0)
    g.output(out, (_resized(_resized(low, 14), size) + _pooled(made, 3, 1, 1))[None])
    return signs(**{"it resizes to the nearest cell": (_pooled(made, 3, 1, 1) + _resized(_resized(low, 14, 1), size, 1))[None]})


def _pooled(x_CHW: Array, kernel: int, stride: int, pad: int) -> Array:
    """Largest of each window; the last one may hang over the edge."""
    size = x_CHW.shape[1]
    count = -(-(size + 2 * pad - kernel) // stride) + 1
    span = (count - 1) * stride + kernel
    padded = np.full((x_CHW.shape[0], max(span, size + pad), max(span, size + pad)), -np.inf)
    padded[:, pad : pad + size, pad : pad + size] = x_CHW
    windows = [padded[:, i : i + span - kernel + 1 : stride, j : j + span - kernel + 1 : stride]
               for i in range(kernel) for j in range(kernel)]  # fmt: skip
    return np.max(windows, 0)


def _resized(x_CHW: Array, size: int, nearest_cell: bool | int = False) -> Array:
    """Linear, half-pixel centres, edges repeated."""
    old = x_CHW.shape[1]
    at = ((np.arange(size) + 0.5) * old / size - 0.5).clip(0, old - 1)
    if nearest_cell:
        at = np.rint(at)
    low = np.floor(at).astype(int)
    high, part = np.minimum(low + 1, old - 1), at - low
    rows = x_CHW[:, low] * (1 - part)[:, None] + x_CHW[:, high] * part[:, None]
    return rows[:, :, low] * (1 - part) + rows[:, :, high] * part


def _elementwise(g: Micro) -> Signs:
    x, y = g.uniform(1, 8, 25, low=-3, high=3), g.uniform(1, 8, 25, low=0.1, high=3)
    a, b = g.input("x", x), g.input("y", y)
    wide = x.astype(np.float64), y.astype(np.float64)
    rows: list[tuple[str, Array]] = []
    for kind in ("Sigmoid", "Exp", "Sin", "Cos", "Atan", "Tanh", "Neg", "Round", "Floor", "Erf", "Abs"):
        rows.append((g.op(kind, a), _UNARY[kind](wide[0])))
    rows += [(g.op("Log", b), np.log(wide[1])), (g.op("Sqrt", b), np.sqrt(wide[1]))]
    for kind, function in (("Add", np.add), ("Sub", np.subtract), ("Mul", np.multiply), ("Div", np.divide), ("Min", np.minimum),
                           ("Max", np.maximum)):  # fmt: skip
        rows.append((g.op(kind, a, b), function(*wide)))
    rows.append((g.op("Pow", b, g.constant(2.0)), wide[1] ** 2))
    rows.append((g.op("Clip", a, g.constant(-1.5), g.constant(2.0)), np.clip(wide[0], -1.5, 2)))
    whole = g.op("Cast", b, to=TensorProto.INT32)
    rest = g.op("Mod", g.op("Mul", whole, g.constant(7, np.int32)), g.constant(3, np.int32))
    rows.append((g.op("Cast", rest, to=TensorProto.FLOAT), (y.astype(np.int32) * 7) % 3))
    g.output(g.op("Concat", *(name for name, _ in rows), axis=0), np.concatenate([np.asarray(v, np.float64) for _, v in rows]))
    return {}


_UNARY: dict[str, Callable[[Array], Array]] = {
    "Sigmoid": sigmoid, "Exp": np.exp, "Sin": np.sin, "Cos": np.cos, "Atan": np.arctan, "Tanh": np.tanh, "Neg": np.negative,
    "Round": np.rint, "Floor": np.floor, "Abs": np.abs, "Erf": np.vectorize(math.erf),
}  # fmt: skip


def _logic(g: Micro) -> Signs:
    x, y = g.draw(1, 400, scale=0.5), g.draw(1, 400, scale=0.5)
    a, b = g.input("x", x), g.input("y", y)
    tests: list[tuple[str, Array]] = []
    for kind, function in (("Greater", np.greater), ("GreaterOrEqual", np.greater_equal), ("Less", np.less),
                           ("LessOrEqual", np.less_equal), ("Equal", np.equal)):  # fmt: skip
        tests.append((g.op(kind, a, b), function(x, y)))
    tests += [
        (g.op("And", tests[0][0], tests[1][0]), tests[0][1] & tests[1][1]),
        (g.op("Or", tests[2][0], tests[4][0]), tests[2][1] | tests[4][1]),
        (g.op("Not", tests[4][0]), ~tests[4][1]),
    ]
    negative = g.op("Log", a)  # nan below zero
    tests.append((g.op("IsNaN", negative), x < 0))
    whole = [g.op("Cast", name, to=TensorProto.INT32) for name, _ in tests]
    g.output(g.op("Concat", *whole, axis=0), np.concatenate([v for _, v in tests]).astype(np.int32))
    g.output(g.op("Where", tests[0][0], a, b), np.maximum(x, y), "larger")
    return {"its choice is the other way round": {"larger": np.minimum(x, y)}}


def _shapes(g: Micro) -> Signs:
    x, rows = _distinct(g, 1, 30, 12), g.rng.integers(0, 30, (1, 7)).astype(np.int32)
    a, index = g.input("x", x), g.input("rows", rows)
    wide = x.astype(np.float64) / 16
    a = g.op("Mul", a, g.constant(1 / 16))
    parts: list[tuple[str, Array]] = []

    def row(name: str, value: Array) -> None:
        parts.append((g.reshape(name, -1), value.reshape(-1)))

    left, right = g.op("Split", a, g.constant([5, 7], np.int64), outputs=2, axis=2)
    row(g.op("Concat", right, left, axis=2), np.concatenate([wide[..., 5:], wide[..., :5]], 2))
    row(g.op("Transpose", a, perm=[0, 2, 1]), wide.transpose(0, 2, 1))
    row(g.op("Pad", a, g.constant([0, 2, 0, 0, 1, 0], np.int64), mode="constant"), np.pad(wide, ((0, 0), (2, 1), (0, 0))))
    row(g.op("Expand", g.slice(a, 3, 4, 1), g.constant([1, 9, 12], np.int64)), np.broadcast_to(wide[:, 3:4], (1, 9, 12)))
    row(g.op("Gather", a, g.op("Squeeze", index, g.constant([0], np.int64)), axis=1), wide[:, rows[0]])
    first = g.op("Squeeze", g.slice(a, 0, 1, 2), g.constant([2], np.int64))
    row(g.op("GatherElements", first, index, axis=1), np.take_along_axis(wide[..., 0], rows.astype(int), 1))
    for kind, function in (("ReduceMax", np.max), ("ReduceMin", np.min), ("ReduceMean", np.mean)):
        row(g.op(kind, a, axes=[-1], keepdims=0), function(wide, -1))
    row(g.sum(a, 1), wide.sum(1))
    row(g.op("Softmax", a, axis=-1), softmax(wide))
    row(g.op("LogSoftmax", a, axis=-1), np.log(softmax(wide)))
    weight, bias = g.draw(12, 6), g.draw(6)
    flat = g.op("Gemm", g.reshape(a, 30, 12), g.constant(weight), g.constant(bias))
    row(flat, wide[0] @ weight + bias)
    row(g.op("Unsqueeze", g.op("Constant", value=helper.make_tensor("two", TensorProto.FLOAT, [1], [2.0])),
             g.constant([0], np.int64)), np.array([2.0]))  # fmt: skip
    g.output(g.op("Concat", *(name for name, _ in parts), axis=0), np.concatenate([v for _, v in parts]))
    best = g.op("Cast", g.op("ArgMax", a, axis=-1, keepdims=0), to=TensorProto.INT32)
    g.output(best, wide.argmax(-1).astype(np.int32), "best")
    return {}


# --- the list ---------------------------------------------------------------------------------------------------------------

_TRT, _PARSER, _TORCH_TRT = "NVIDIA/TensorRT#", "onnx/onnx-tensorrt#", "pytorch/TensorRT#"
_GATHER = (("EXPORT_SAMPLING=gather", "deformable_attention_gather"), ("EXPORT_SAMPLING=plugin", "deformable_attention_plugin"))
_WHOLE = (("PRECISION=fp32", "attention"),)
_NO_PLUGIN = {"onnxruntime": "a plugin of TensorRT", "tensorrt_rtx": "TensorRT-RTX has no plugins"}


def _threads(prefix: str, *numbers: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{n}" for n in numbers)


def _any_of(*operators: str) -> Callable[[Facts], bool]:
    return lambda facts: facts.has(*operators)


KINDS: dict[str, Kind] = {
    "grid_sample": Kind(
        "bilinear GridSample", _grid_sample, _any_of("GridSample"), (*_threads(_TRT, 4646), *_threads(_PARSER, 1060)),
        "the parser's default for a mode that it does not know", avoid=_GATHER,
    ),
    "grid_sample_opset20": Kind(
        "GridSample of opset 20, whose bilinear mode is called linear", _grid_sample_20,
        lambda facts: facts.opset >= 20 and facts.has("GridSample"), (*_threads(_TRT, 4646), *_threads(_PARSER, 1060)),
        "10.1 to 11.1 and TensorRT-RTX 1.5", opset=20, avoid=(("TRT=11 (any TRT= writes opset 16 to 19)", "grid_sample"),),
    ),
    "deformable_attention_gridsample": Kind(
        "deformable attention by GridSample", partial(_deformable, how="gridsample"), _any_of("GridSample"),
        (*_threads(_TRT, 4813), *_threads(_TORCH_TRT, 4074), "lightly-ai/lightly-train#917"),
        "10.13.3, 10.14.1 and 11.1, fp32 too, sm_75 to sm_120", avoid=_GATHER,
    ),
    "deformable_attention_mixed": Kind(
        "deformable attention by GridSample in fp32 between halves", partial(_deformable, how="gridsample", types="mixed"),
        lambda facts: facts.halves and facts.has("GridSample"), (*_threads(_TORCH_TRT, 4074), *_threads(_TRT, 4813)),
        "10.14.1", "fp16", limit=FP16, avoid=(*_GATHER, *_WHOLE),
    ),
    "deformable_attention_half": Kind(
        "deformable attention by GridSample in fp16", partial(_deformable, how="gridsample", types="half"),
        lambda facts: facts.halves and facts.has("GridSample"), _threads("DerryHub/BEVFormer_tensorrt#", 109), "Orin", "fp16",
        limit=FP16, avoid=(*_GATHER, *_WHOLE),
    ),
    "deformable_attention_gather": Kind(
        "deformable attention by pad and gather", partial(_deformable, how="gather"),
        lambda facts: facts.has("Gather") and not facts.has("GridSample", "MultiscaleDeformableAttnPlugin_TRT"),
        ("lightly-ai/lightly-train#917",), "none: this is the way around GridSample",
        avoid=(("EXPORT_SAMPLING=gridsample", "deformable_attention_gridsample"), _GATHER[1]),
    ),
    "deformable_attention_plugin": Kind(
        "MultiscaleDeformableAttnPlugin_TRT", partial(_deformable, how="plugin"), _any_of("MultiscaleDeformableAttnPlugin_TRT"),
        (*_threads(_TRT, 2155), "VBTI-development/onedl-mmdeploy#3"), "all zero",
        avoid=(_GATHER[0], ("EXPORT_SAMPLING=gridsample", "deformable_attention_gridsample")), elsewhere=_NO_PLUGIN,
    ),
    "deformable_convolution_gridsample": Kind(
        "deformable convolution by GridSample", partial(_deformable_conv, how="gridsample"),
        lambda facts: "GridSample" in facts.backbone, _threads(_TRT, 4813), "none of its own",
        avoid=(("EXPORT_SAMPLING=gather", "deformable_convolution_gather"),),
    ),
    "deformable_convolution_gather": Kind(
        "deformable convolution by pad and gather", partial(_deformable_conv, how="gather"),
        lambda facts: "Gather" in facts.backbone, (), "none: this is the way around GridSample",
        avoid=(("EXPORT_SAMPLING=gridsample", "deformable_convolution_gridsample"),),
    ),
    "deformable_convolution_plugin": Kind(
        "the plugin ModulatedDeformConv2d", partial(_deformable_conv, how="plugin"), _any_of("ModulatedDeformConv2d"),
        ("NVIDIA/DL4AGX#85", "NVIDIA/DL4AGX#94", "open-mmlab/mmdeploy#1487"), "10.3 and newer (mAP 0)",
        avoid=(("EXPORT_SAMPLING=gather", "deformable_convolution_gather"),), elsewhere=_NO_PLUGIN,
    ),
    "layer_norm_half": Kind(
        "LayerNormalization in fp16", partial(_layer_norm, plain=False),
        lambda facts: facts.halves and facts.has("LayerNormalization"),
        (*_threads(_TRT, 2564, 3101, 4493), *_threads(_TORCH_TRT, 4061), *_threads("roboflow/rf-detr#", 176, 352)),
        "8.5, 8.6 and 10.10", "fp16", limit=FP16, avoid=_WHOLE,
    ),
    "layer_norm_plain": Kind(
        "a layer norm of plain operators that should stay in fp32", partial(_layer_norm, plain=True),
        lambda facts: facts.halves and facts.has("Pow", "ReduceMean"),
        (*_threads(_TRT, 2564, 3101), *_threads(_TORCH_TRT, 4061)), "8.5 and 8.6, which choose types themselves", "fp16",
        limit=FP16, avoid=(("TRT=8.6 (one LayerNormalization)", "layer_norm_half"), *_WHOLE),
    ),
    "attention": Kind(
        "self-attention with a mask", _attention, _any_of("Softmax"), _threads(_TRT, 4419, 4333, 4742),
        "10.3 (JetPack 6.1 and 6.2), 10.4 and 10.7; right in 10.5 and 10.8",
    ),
    "attention_dynamic": Kind(
        "self-attention of dynamic shape", partial(_attention, dynamic=True), lambda facts: facts.dynamic,
        _threads(_TRT, 4419, 4330, 4250), "10.3 (JetPack 6.1 and 6.2), 10.6",
        avoid=(("`make export` (its shapes are static)", "attention"),),
    ),
    "attention_half": Kind(
        "self-attention in fp16", partial(_attention, half=True), lambda facts: facts.halves and facts.has("Softmax"),
        _threads(_TRT, 4837, 4742), "10.16 on sm_120, 10.4", "fp16", limit=FP16, avoid=_WHOLE,
    ),
    "int8_matmul": Kind(
        "a matrix product between Q/DQ nodes", _int8_matmul, lambda facts: facts.int8 and facts.has("MatMul"),
        ("DerryHub/BEVFormer_tensorrt#108", *_threads(_TRT, 2658, 3074, 3197)), "8.5: kernels stay in fp16 or fp32",
        "int8", limit=2e-3, avoid=(("PRECISION=fp16", "attention_half"), *_WHOLE),
    ),
    "int8_convolution": Kind(
        "a convolution between Q/DQ nodes", _int8_convolution, lambda facts: facts.int8 and facts.has("Conv"),
        ("NVIDIA-AI-IOT/Lidar_AI_Solution#111", *_threads(_TRT, 3197)), "8.5: kernels stay in fp16 or fp32", "int8",
        limit=2e-3, avoid=(("PRECISION=fp16", "attention_half"), *_WHOLE),
        elsewhere={"tensorrt_rtx": "convolutions of an int8 graph are given to it in fp32, docs/quantization.md"},
    ),
    "fp8_matmul": Kind(
        "a matrix product between Q/DQ nodes of FP8", _fp8_matmul, lambda facts: facts.float8,
        _threads(_TRT, 4590, 4560), "10.13.3 on Thor, 10.12 on H100: fp32 without a word", "fp8", opset=19,
        limit=2e-3, avoid=(("PRECISION=fp16", "attention_half"), *_WHOLE),
    ),
    "projection": Kind(
        "a projection of points to pixels in fp32", _projection, _any_of("MatMul"),
        ("NVIDIA/DL4AGX, far3d-trt: points and intrinsics stay in fp32",), "wherever TF32 or fp16 is chosen for it",
        limit=5e-5, avoid=(("ENGINE_BACKEND=trtexec (it builds with --noTF32)", "attention"),),
    ),
    "top_k": Kind("TopK", partial(_top_k, width=337, k=96), _any_of("TopK"), _threads(_TRT, 216), "6.0"),
    "top_k_4000": Kind(
        "TopK of 4000", partial(_top_k, width=5000, k=4000), lambda facts: facts.most_k >= 3840,
        _threads(_TRT, 3846, 4244, 4390), "all: K above 3840 is refused, or cut",
        avoid=(("`make export` (it takes no K of 3840 or more)", "top_k"),),
    ),
    "scatter_nd_add": Kind(
        "ScatterND that adds up", _scatter_add, lambda facts: facts.reductions,
        (*_threads(_PARSER, 957, 1013), *_threads(_TRT, 3750)), "8.6 and 10.x: the reduction is left out",
        avoid=(("`make export` (it selects with masks)", "gather_linear"),),
    ),
    "gather_linear": Kind(
        "gathered rows, projected and cut into heads", _gather_linear, lambda facts: facts.has("Gather") and facts.has("MatMul"),
        (*_threads(_TRT, 3645), "NVlabs/FB-BEV#67"), "8.2 and 8.6.1; right in 10.3",
    ),
    "operators_image": Kind(
        "convolution, batch norm, pooling and resizing", _image_operators, _any_of("Conv"), ("open-mmlab/mmdeploy#496",),
        "7.2 (Resize)",
    ),
    "operators_elementwise": Kind("elementwise operators", _elementwise, _any_of("Add", "Mul"), (), "none: what our graphs use"),
    "operators_logic": Kind("comparisons and choices", _logic, _any_of("Where"), (), "none: what our graphs use"),
    "operators_shape": Kind("slices, gathers and reductions", _shapes, _any_of("Slice"), (), "none: what our graphs use"),
}  # fmt: skip


def concerned(facts: Facts, names: Collection[str] | None = None) -> list[str]:
    """Names of the canaries that concern a graph."""
    return [name for name, kind in KINDS.items() if (names is None or name in names) and kind.concerns(facts)]
