"""Sampling of a deformable convolution on the GPU, without gradients: one kernel writes the columns that the weight multiplies.

A program owns a few output pixels and a slice of the channels. Where a tap reads is computed once for all of them; they lie side
by side in memory (channels last), so a corner is one run of values. Sums are float32 whatever the inputs are.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS, WARPS = 32, 4
MAX_CHANNELS = 64  # of a program


@triton.jit
def _corner(image, col, row, live, channel, W, H, C):
    inside = live & (col >= 0) & (col < W) & (row >= 0) & (row < H)
    at = (row * W + col) * C
    return tl.load(image + at[:, None] + channel[None, :], mask=inside[:, None], other=0.0).to(tl.float32)


@triton.jit
def _columns(
    x, field, out, pixels, H, W, C, wo, stride, padding,
    TAPS: tl.constexpr, KW: tl.constexpr, P: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * P + tl.arange(0, P)
    channel = tl.program_id(1) * D + tl.arange(0, D)
    image = tl.program_id(2).to(tl.int64)
    live = pixel < pixels
    top = (pixel // wo * stride - padding).to(tl.float32)
    left = (pixel % wo * stride - padding).to(tl.float32)
    source = x + image * H * W * C
    offset = field + image * 3 * TAPS * pixels + pixel
    place = out + ((image * pixels + pixel) * TAPS * C)[:, None] + channel[None, :]
    for tap in range(TAPS):
        y = top + tap // KW + tl.load(offset + 2 * tap * pixels, mask=live, other=0.0).to(tl.float32)
        x_ = left + tap % KW + tl.load(offset + (2 * tap + 1) * pixels, mask=live, other=0.0).to(tl.float32)
        share = tl.sigmoid(tl.load(offset + (2 * TAPS + tap) * pixels, mask=live, other=0.0).to(tl.float32))
        # Beyond one pixel outside nothing is read; far values must not overflow the conversion.
        y = tl.minimum(tl.maximum(y, -2.0), H + 1.0)
        x_ = tl.minimum(tl.maximum(x_, -2.0), W + 1.0)
        row, col = tl.floor(y), tl.floor(x_)
        fy, fx = y - row, x_ - col
        row, col = row.to(tl.int32), col.to(tl.int32)
        value = ((1.0 - fy) * (1.0 - fx))[:, None] * _corner(source, col, row, live, channel, W, H, C)
        value += ((1.0 - fy) * fx)[:, None] * _corner(source, col + 1, row, live, channel, W, H, C)
        value += (fy * (1.0 - fx))[:, None] * _corner(source, col, row + 1, live, channel, W, H, C)
        value += (fy * fx)[:, None] * _corner(source, col + 1, row + 1, live, channel, W, H, C)
        tl.store(place + tap * C, (value * share[:, None]).to(out.dtype.element_ty), mask=live[:, None])


def supports(channels: int) -> bool:
    """The kernel takes equal slices of channels, each a power of two."""
    slice_ = min(channels, MAX_CHANNELS)
    return channels >= 8 and channels % slice_ == 0 and slice_ & (slice_ - 1) == 0


@torch.library.custom_op("uniad::deformable_columns", mutates_args=())
def columns(x: Tensor, field: Tensor, kernel: list[int], stride: int, padding: int) -> Tensor:
    """x [M, C, h, w] with channels last; field [M, 3*K, ho, wo]: (dy, dx) of every tap in pixels, then the masks' logits.

    Returns [M, ho * wo, K * C] in the dtype of x: what each tap reads, times its mask; zero outside the map.
    """
    images, channels, h, w = x.shape
    ho, wo = field.shape[-2:]
    out = x.new_empty(images, ho * wo, kernel[0] * kernel[1] * channels)
    slice_ = min(channels, MAX_CHANNELS)
    grid = (triton.cdiv(ho * wo, PIXELS), channels // slice_, images)
    _columns[grid](
        x.permute(0, 2, 3, 1).contiguous(), field.contiguous(), out, ho * wo, h, w, channels, wo, stride, padding,
        kernel[0] * kernel[1], kernel[1], PIXELS, slice_, num_warps=WARPS,
    )  # fmt: skip
    return out


@columns.register_fake
def _(x, field, kernel, stride, padding):
    ho, wo = field.shape[-2:]
    return x.new_empty(x.shape[0], ho * wo, kernel[0] * kernel[1] * x.shape[1])
