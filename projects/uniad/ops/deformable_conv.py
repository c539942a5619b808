"""Modulated deformable convolution (DCNv2, Zhu et al. 2019).

Every output pixel reads each kernel tap at a learnt sub-pixel offset, scaled by a learnt mask; outside the map is zero. All taps
are sampled at once and multiplied by the weight as one matrix product, image by image where memory would not hold the batch.
Sampling is plain operators, but for a kernel where a GPU infers (``triton_deformable_conv``).
"""

from __future__ import annotations

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from uniad.ops.bilinear import corners, pad_rows
from uniad.ops.kernels import deformable_kernels
from uniad.ops.sampling import exporting, get_sampling

# Sampled columns kept at a time, in values: 2**27 float32 are 512 MB. A larger batch is cut into groups of images.
COLUMN_LIMIT = 2**27


def modulated_deform_conv2d(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, stride: int = 1, padding: int = 1, dilation: int = 1
) -> Tensor:
    """x [M, C, h, w]; offset [M, G*K*2, ho, wo] in pixels, (dy, dx) per tap, K = kh*kw taps of G offset groups; mask
    [M, G*K, ho, wo]; weight [O, C, kh, kw]. Returns [M, O, ho, wo]."""
    images, channels = x.shape[:2]
    kernel = weight.shape[2] * weight.shape[3]
    ho, wo = offset.shape[-2:]
    group = max(1, COLUMN_LIMIT // (channels * kernel * ho * wo))
    if exporting() or group >= images:
        return _convolve(x, offset, mask, weight, stride, padding, dilation)
    parts = zip(x.split(group), offset.split(group), mask.split(group), strict=True)
    return torch.cat([_convolve(*part, weight, stride, padding, dilation) for part in parts])


def _convolve(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, stride: int, padding: int, dilation: int
) -> Tensor:
    images, channels, h, w = x.shape
    out_channels, _, kh, kw = weight.shape
    ho, wo = offset.shape[-2:]
    taps = kh * kw
    groups = offset.shape[1] // (2 * taps)
    device = x.device
    # Where every tap would read without offsets, in pixels
    ky, kx = (k.reshape(1, taps, 1, 1) * dilation - padding for k in torch.meshgrid(
        torch.arange(kh, dtype=torch.float32, device=device),
        torch.arange(kw, dtype=torch.float32, device=device), indexing="ij"))
    oy = (torch.arange(ho, dtype=torch.float32, device=device) * stride).view(1, 1, ho, 1)
    ox = (torch.arange(wo, dtype=torch.float32, device=device) * stride).view(1, 1, 1, wo)
    delta = offset.float().view(images * groups, taps, 2, ho, wo)
    y, px = delta[:, :, 0] + (ky + oy), delta[:, :, 1] + (kx + ox)  # [M*G, K, ho, wo]
    maps = x.reshape(images * groups, channels // groups, h, w)
    sample = _gather_taps if get_sampling() == "gather" else _grid_sample_taps
    columns = sample(maps, px, y)  # [M*G, C/G, K, ho, wo]
    columns = columns * mask.view(images * groups, 1, taps, ho, wo).to(columns.dtype)
    columns = columns.reshape(images, channels * taps, ho * wo).to(weight.dtype)
    return (weight.reshape(1, out_channels, channels * taps) @ columns).view(images, out_channels, ho, wo)


def _grid_sample_taps(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    h, w = maps.shape[-2:]
    _, taps, ho, wo = x.shape
    grid = torch.stack([(x * 2.0 + 1.0) / w - 1.0, (y * 2.0 + 1.0) / h - 1.0], -1).flatten(1, 2)
    out = F.grid_sample(maps.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return out.unflatten(2, (taps, ho))


def _gather_taps(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    count, channels, h, w = maps.shape
    padded = pad_rows(maps.flatten(2).transpose(1, 2), (h, w))
    base = torch.arange(count, dtype=torch.int32, device=maps.device).view(-1, 1, 1, 1) * padded.shape[1]
    flat = padded.flatten(0, 1)
    out: Tensor | None = None
    for index, factor in corners(x, y, (h, w)):
        taken = flat.index_select(0, (index + base).flatten()).view(*x.shape, channels)
        part = taken.float() * factor.unsqueeze(-1)
        out = part if out is None else out + part
    assert out is not None  # a cell has corners
    return out.permute(0, 4, 1, 2, 3)


def _learns(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


class DeformConv2d(nn.Module):
    """3x3-like convolution that learns where to look: replaces ``nn.Conv2d(..., bias=False)``."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1, padding: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel, kernel))
        self.conv_offset = nn.Conv2d(in_channels, groups * 3 * kernel * kernel, kernel, stride, padding)
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        # Starts as a plain convolution at half strength: no offset, mask sigmoid(0).
        for parameter in self.conv_offset.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """[M, C, h, w] -> [M, O, ho, wo]"""
        return self.convolve(x, self.weight)

    def convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """The same with another weight in place of the module's."""
        field = self.conv_offset(x)
        kernels = self._kernels(x, field, weight)
        if kernels is not None:
            sampled = kernels.columns(x, field, list(weight.shape[2:]), self.stride, self.padding)
            flat = weight.permute(0, 2, 3, 1).flatten(1)  # taps before channels, as the columns
            return F.linear(sampled, flat).transpose(1, 2).unflatten(2, field.shape[-2:])
        taps = field.shape[1] // 3
        offset, mask = field[:, : 2 * taps], field[:, 2 * taps :].sigmoid()
        inputs = x, offset, mask, weight, self.stride, self.padding
        if _learns(x, field, weight) and not exporting():
            # Columns are nine times the input. They are sampled again for gradients, as upstream's kernels do: kept, those of a
            # ResNet-101 at 1600x928 fill more than 100 GB with a clip of five frames.
            return checkpoint(modulated_deform_conv2d, *inputs, use_reentrant=False, preserve_rng_state=False)
        return modulated_deform_conv2d(*inputs)

    def _kernels(self, x: Tensor, field: Tensor, weight: Tensor) -> ModuleType | None:
        """The Triton kernel where it can run: a GPU, no gradients, one offset group, nothing being exported."""
        learns = _learns(x, field, weight)
        groups, channels = field.shape[1] // (3 * weight.shape[2] * weight.shape[3]), x.shape[1]
        if x.device.type != "cuda" or learns or groups > 1 or get_sampling() is not None or exporting():
            return None
        _, kernels = deformable_kernels()
        return kernels if kernels is not None and kernels.supports(channels) else None
