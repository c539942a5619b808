"""Norms that do not learn statistics, folded into the convolutions before them while the model learns.

A frozen norm is one factor and one offset a channel: ``norm(conv(x, W)) = conv(x, W * factor) + offset``. The product of
weights is small beside the image that it saves passing over, forward and backward. Gradients go through that product, to the
weights and to the norm's own scale and offset where these learn; they are the norm's up to rounding. A norm that takes the
statistics of its batch stays as it is, as long as it does. No GPU has run this yet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor, nn

from uniad.ops.deformable_conv import DeformConv2d


def fold_norms(backbone: nn.Module) -> int:
    """Makes every pair of convolution and norm of a ResNet compute as one where the norm is in evaluation mode. Weights, their
    names and their gradients stay where they are. Returns how many pairs there are."""
    pairs = list(_pairs(backbone))
    for conv, norm in pairs:
        conv.forward = partial(_convolve, conv, norm, conv.forward)
        norm.forward = partial(_pass_on, norm, norm.forward)
    return len(pairs)


def _pairs(backbone: nn.Module) -> Iterator[tuple[nn.Conv2d | DeformConv2d, nn.BatchNorm2d]]:
    """``conv1`` and ``bn1`` and so on of one module, and a shortcut's convolution and norm."""
    for module in backbone.modules():
        parts = dict(module.named_children())
        couples = [(part, parts.get(f"bn{name[4:]}")) for name, part in parts.items() if name.startswith("conv")]
        if isinstance(module, nn.Sequential) and len(module) == 2:
            couples.append((module[0], module[1]))
        for conv, norm in couples:
            if isinstance(conv, (nn.Conv2d, DeformConv2d)) and isinstance(norm, nn.BatchNorm2d):
                yield conv, norm


def _convolve(conv: nn.Conv2d | DeformConv2d, norm: nn.BatchNorm2d, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    if norm.training:
        return plain(x)
    assert norm.running_mean is not None and norm.running_var is not None
    factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weight, offset = conv.weight * factor[:, None, None, None], norm.bias - norm.running_mean * factor
    if isinstance(conv, DeformConv2d):
        out = conv.convolve(x, weight)
        return out + offset.to(out.dtype)[:, None, None]
    return nn.functional.conv2d(x, weight, offset, conv.stride, conv.padding, conv.dilation, conv.groups)


def _pass_on(norm: nn.BatchNorm2d, plain: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return plain(x) if norm.training else x
