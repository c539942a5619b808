"""Deformable attention on the GPU: one kernel forward, one backward, for plain attention and for attention on cameras.

A program owns a few neighbouring queries of one head and walks levels and points; what it reads of a map are rows of ``D``
contiguous values. For cameras it also walks those that see any of its cells, so nothing is compacted, padded or gathered first,
and cells that a camera does not see cost nothing. Sums are float32 whatever the inputs are. Gradients of the value are added
atomically: their last bits depend on the order.

Layouts: value [B, max(N, 1), V, heads, D]; point [B, Q, heads, L, P, 2]; weight [B, Q, heads, L, P]; for cameras (N > 0) point
is an offset in pixels, ref [B, N, Q, Z, 2] and hit [B, N, Q]; otherwise (N = 0) point is a fraction of (width, height).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_LEVELS = 4
# Queries of a program. With 32 channels a tile has 512 values: more tiles in flight hide the latency of scattered reads.
QUERIES = 16
WARPS = 2


@triton.jit
def _pixel(x, y, W, H):
    # Beyond one pixel outside nothing is read; far values must not overflow the conversion.
    x = tl.minimum(tl.maximum(x, -2.0), W + 1.0)
    y = tl.minimum(tl.maximum(y, -2.0), H + 1.0)
    col, row = tl.floor(x), tl.floor(y)
    return col.to(tl.int32), row.to(tl.int32), x - col, y - row


@triton.jit
def _inside(col, row, live, W, H):
    return live & (col >= 0) & (col < W) & (row >= 0) & (row < H)


@triton.jit
def _read(ptr, start, col, row, inside, channel, W, STRIDE: tl.constexpr):
    at = (start + row * W + col) * STRIDE
    return tl.load(ptr + at[:, None] + channel[None, :], mask=inside[:, None], other=0.0).to(tl.float32)


@triton.jit
def _forward(
    value, point, weight, ref, hit, out, queries, rows,
    N: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, L: tl.constexpr, P: tl.constexpr, Z: tl.constexpr,
    H0: tl.constexpr, W0: tl.constexpr, H1: tl.constexpr, W1: tl.constexpr,
    H2: tl.constexpr, W2: tl.constexpr, H3: tl.constexpr, W3: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0) % HEADS
    query = (tl.program_id(0) // HEADS) * Q + tl.arange(0, Q)
    batch = tl.program_id(1).to(tl.int64)
    live = query < queries
    channel = tl.arange(0, D)
    sample = ((batch * queries + query) * HEADS + head) * (L * P)
    total = tl.zeros([Q, D], tl.float32)
    count = tl.zeros([Q], tl.float32)
    CAMERAS: tl.constexpr = N if N > 0 else 1
    for camera in range(CAMERAS):
        plane = batch * CAMERAS + camera
        if N > 0:
            seen = live & (tl.load(hit + plane * queries + query, mask=live, other=0) != 0)
        else:
            seen = live
        count += seen.to(tl.float32)
        if tl.max(seen.to(tl.int32), axis=0) > 0:
            base = value + (plane * rows * HEADS + head) * D
            start = 0
            for level in tl.static_range(L):
                H = H0 if level == 0 else (H1 if level == 1 else (H2 if level == 2 else H3))
                W = W0 if level == 0 else (W1 if level == 1 else (W2 if level == 2 else W3))
                for p in range(P):
                    at = sample + level * P + p
                    x = tl.load(point + at * 2, mask=seen, other=0.0).to(tl.float32)
                    y = tl.load(point + at * 2 + 1, mask=seen, other=0.0).to(tl.float32)
                    if N > 0:
                        anchor = ((plane * queries + query) * Z + p % Z) * 2
                        x += tl.load(ref + anchor, mask=seen, other=0.0).to(tl.float32) * W
                        y += tl.load(ref + anchor + 1, mask=seen, other=0.0).to(tl.float32) * H
                    else:
                        x *= W
                        y *= H
                    share = tl.load(weight + at, mask=seen, other=0.0).to(tl.float32)
                    col, row, fx, fy = _pixel(x - 0.5, y - 0.5, W, H)
                    a = _read(base, start, col, row, _inside(col, row, seen, W, H), channel, W, HEADS * D)
                    b = _read(base, start, col + 1, row, _inside(col + 1, row, seen, W, H), channel, W, HEADS * D)
                    c = _read(base, start, col, row + 1, _inside(col, row + 1, seen, W, H), channel, W, HEADS * D)
                    d = _read(base, start, col + 1, row + 1, _inside(col + 1, row + 1, seen, W, H), channel, W, HEADS * D)
                    top = share * (1.0 - fy)
                    bottom = share * fy
                    total += (top * (1.0 - fx))[:, None] * a + (top * fx)[:, None] * b
                    total += (bottom * (1.0 - fx))[:, None] * c + (bottom * fx)[:, None] * d
                start += H * W
    if N > 0:
        total = total / tl.maximum(count, 1.0)[:, None]
    place = ((batch * queries + query) * HEADS + head) * D
    tl.store(out + place[:, None] + channel[None, :], total.to(out.dtype.element_ty), mask=live[:, None])


@triton.jit
def _add(ptr, start, col, row, inside, channel, amount, W, STRIDE: tl.constexpr):
    at = (start + row * W + col) * STRIDE
    tl.atomic_add(ptr + at[:, None] + channel[None, :], amount, mask=inside[:, None], sem="relaxed")


@triton.jit
def _backward(
    grad, value, point, weight, ref, hit, grad_value, grad_point, grad_weight, queries, rows,
    N: tl.constexpr, HEADS: tl.constexpr, D: tl.constexpr, L: tl.constexpr, P: tl.constexpr, Z: tl.constexpr,
    H0: tl.constexpr, W0: tl.constexpr, H1: tl.constexpr, W1: tl.constexpr,
    H2: tl.constexpr, W2: tl.constexpr, H3: tl.constexpr, W3: tl.constexpr, Q: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0) % HEADS
    query = (tl.program_id(0) // HEADS) * Q + tl.arange(0, Q)
    batch = tl.program_id(1).to(tl.int64)
    live = query < queries
    channel = tl.arange(0, D)
    sample = ((batch * queries + query) * HEADS + head) * (L * P)
    place = ((batch * queries + query) * HEADS + head) * D
    go = tl.load(grad + place[:, None] + channel[None, :], mask=live[:, None], other=0.0).to(tl.float32)
    CAMERAS: tl.constexpr = N if N > 0 else 1
    if N > 0:
        count = tl.zeros([Q], tl.float32)
        for camera in range(CAMERAS):
            count += tl.load(hit + (batch * CAMERAS + camera) * queries + query, mask=live, other=0).to(tl.float32)
        go = go / tl.maximum(count, 1.0)[:, None]
    start = 0
    for level in tl.static_range(L):
        H = H0 if level == 0 else (H1 if level == 1 else (H2 if level == 2 else H3))
        W = W0 if level == 0 else (W1 if level == 1 else (W2 if level == 2 else W3))
        for p in range(P):
            at = sample + level * P + p
            px = tl.load(point + at * 2, mask=live, other=0.0).to(tl.float32)
            py = tl.load(point + at * 2 + 1, mask=live, other=0.0).to(tl.float32)
            share = tl.load(weight + at, mask=live, other=0.0).to(tl.float32)
            to_x = tl.zeros([Q], tl.float32)
            to_y = tl.zeros([Q], tl.float32)
            to_share = tl.zeros([Q], tl.float32)
            # Cameras innermost: a point's gradient is the sum over those that see the cell, written once.
            for camera in range(CAMERAS):
                plane = batch * CAMERAS + camera
                if N > 0:
                    seen = live & (tl.load(hit + plane * queries + query, mask=live, other=0) != 0)
                else:
                    seen = live
                if tl.max(seen.to(tl.int32), axis=0) > 0:
                    if N > 0:
                        anchor = ((plane * queries + query) * Z + p % Z) * 2
                        x = px + tl.load(ref + anchor, mask=seen, other=0.0).to(tl.float32) * W
                        y = py + tl.load(ref + anchor + 1, mask=seen, other=0.0).to(tl.float32) * H
                    else:
                        x = px * W
                        y = py * H
                    col, row, fx, fy = _pixel(x - 0.5, y - 0.5, W, H)
                    base = value + (plane * rows * HEADS + head) * D
                    into = grad_value + (plane * rows * HEADS + head) * D
                    in_a = _inside(col, row, seen, W, H)
                    in_b = _inside(col + 1, row, seen, W, H)
                    in_c = _inside(col, row + 1, seen, W, H)
                    in_d = _inside(col + 1, row + 1, seen, W, H)
                    a = tl.sum(go * _read(base, start, col, row, in_a, channel, W, HEADS * D), axis=1)
                    b = tl.sum(go * _read(base, start, col + 1, row, in_b, channel, W, HEADS * D), axis=1)
                    c = tl.sum(go * _read(base, start, col, row + 1, in_c, channel, W, HEADS * D), axis=1)
                    d = tl.sum(go * _read(base, start, col + 1, row + 1, in_d, channel, W, HEADS * D), axis=1)
                    gx = 1.0 - fx
                    gy = 1.0 - fy
                    to_share += gy * (gx * a + fx * b) + fy * (gx * c + fx * d)
                    to_x += gy * (b - a) + fy * (d - c)
                    to_y += gx * (c - a) + fx * (d - b)
                    _add(into, start, col, row, in_a, channel, go * (share * gy * gx)[:, None], W, HEADS * D)
                    _add(into, start, col + 1, row, in_b, channel, go * (share * gy * fx)[:, None], W, HEADS * D)
                    _add(into, start, col, row + 1, in_c, channel, go * (share * fy * gx)[:, None], W, HEADS * D)
                    _add(into, start, col + 1, row + 1, in_d, channel, go * (share * fy * fx)[:, None], W, HEADS * D)
            if N == 0:
                to_x *= W
                to_y *= H
            tl.store(grad_weight + at, to_share.to(grad_weight.dtype.element_ty), mask=live)
            tl.store(grad_point + at * 2, (to_x * share).to(grad_point.dtype.element_ty), mask=live)
            tl.store(grad_point + at * 2 + 1, (to_y * share).to(grad_point.dtype.element_ty), mask=live)
        start += H * W


def supports(levels: int, dim: int) -> bool:
    """The kernels take up to four levels and a power of two of channels per head."""
    return levels <= MAX_LEVELS and dim >= 8 and dim & (dim - 1) == 0


def _launch(kernel, tensors: list[Tensor], point: Tensor, value: Tensor, ref: Tensor | None, shapes: list[int]) -> None:
    batch, queries, heads, levels, points, _ = point.shape
    cameras, z = (0, 1) if ref is None else (ref.shape[1], ref.shape[3])
    shapes = list(shapes) + [1] * (2 * MAX_LEVELS - len(shapes))
    grid = (triton.cdiv(queries, QUERIES) * heads, batch)
    kernel[grid](
        *tensors, queries, value.shape[-3], cameras, heads, value.shape[-1], levels, points, z, *shapes, QUERIES,
        num_warps=WARPS,
    )  # fmt: skip


@torch.library.custom_op("uniad::deformable_attention", mutates_args=())
def _attend(
    value: Tensor, point: Tensor, weight: Tensor, ref: Tensor | None, hit: Tensor | None, shapes: list[int]
) -> Tensor:
    out = value.new_empty(*point.shape[:3], value.shape[-1])
    # Triton takes no None: kernels built for N = 0 never read the stand-ins.
    _launch(_forward, [value, point, weight, point if ref is None else ref, point if hit is None else hit, out],
            point, value, ref, shapes)  # fmt: skip
    return out


@_attend.register_fake
def _(value, point, weight, ref, hit, shapes):
    return value.new_empty(*point.shape[:3], value.shape[-1])


@torch.library.custom_op("uniad::deformable_attention_backward", mutates_args=())
def _attend_backward(
    grad: Tensor, value: Tensor, point: Tensor, weight: Tensor, ref: Tensor | None, hit: Tensor | None, shapes: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    grad_value = torch.zeros_like(value, dtype=torch.float32)  # atomics in half precision would lose most small summands
    grad_point, grad_weight = torch.empty_like(point), torch.empty_like(weight)
    _launch(_backward, [grad, value, point, weight, point if ref is None else ref, point if hit is None else hit,
                        grad_value, grad_point, grad_weight], point, value, ref, shapes)  # fmt: skip
    return grad_value.to(value.dtype, copy=False), grad_point, grad_weight


@_attend_backward.register_fake
def _(grad, value, point, weight, ref, hit, shapes):
    return torch.empty_like(value), torch.empty_like(point), torch.empty_like(weight)


def _save(ctx, inputs, output) -> None:
    *tensors, ctx.shapes = inputs
    ctx.save_for_backward(*tensors)


def _differentiate(ctx, grad):
    return (*_attend_backward(grad.contiguous(), *ctx.saved_tensors, ctx.shapes), None, None, None)


_attend.register_autograd(_differentiate, setup_context=_save)


def attend(value_BVHD: Tensor, shapes: tuple[tuple[int, int], ...], loc_BQHLP2: Tensor, weight_BQHLP: Tensor) -> Tensor:
    """As ``deformable_attention``: [B, Q, heads * D]."""
    flat = [n for hw in shapes for n in hw]
    out = _attend(value_BVHD.contiguous(), loc_BQHLP2.contiguous(), weight_BQHLP.contiguous(), None, None, flat)
    return out.flatten(2)


def attend_cameras(
    value_BNVHD: Tensor,
    shapes: tuple[tuple[int, int], ...],
    ref_BNSZ2: Tensor,
    hit_BNS: Tensor,
    offset_BSHLP2: Tensor,
    weight_BSHLP: Tensor,
) -> Tensor:
    """As ``camera_attention``, but with room for every cell in every camera. References get no gradient: [B, S, heads * D]."""
    flat = [n for hw in shapes for n in hw]
    out = _attend(
        value_BNVHD.contiguous(), offset_BSHLP2.contiguous(), weight_BSHLP.contiguous(), ref_BNSZ2.detach().contiguous(),
        hit_BNS.to(torch.uint8).contiguous(), flat,
    )  # fmt: skip
    return out.flatten(2)
