"""Norms that do not learn statistics, folded into the convolutions before them while the model learns.

A frozen norm is one factor and one offset a channel: ``norm(conv(x, W)) = conv(x, W * factor) + offset``. The product of
weights is small beside the image that it saves passing over, forward and backward. Gradients go through that product, to the
weights and to the norm's own scale and offset where these learn; they are the norm's up to rounding. A norm that takes the
statistics of its batch stays as it is, as long as it does.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from uniad.ops.deformable_conv import DeformConv2d


class Pair:
    """A convolution and the norm after it."""

    def __init__(self, conv: nn.Conv2d | DeformConv2d, norm: nn.BatchNorm2d) -> None:
        self.conv, self.norm = conv, norm
        self.plain_conv, self.plain_norm = conv.forward, norm.forward
        self.kept: tuple[Tensor, Tensor] | None = None
        vars(conv)["forward"], vars(norm)["forward"] = self.convolve, self.normalise

    def product(self) -> tuple[Tensor, Tensor]:
        """The weight and the offset of both as one convolution."""
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        return self.conv.weight * factor[:, None, None, None], norm.bias - norm.running_mean * factor

    def convolve(self, x: Tensor) -> Tensor:
        conv = self.conv
        if self.norm.training:
            return self.plain_conv(x)
        weight, offset = self.product() if self.kept is None else self.kept
        if isinstance(conv, DeformConv2d):
            out = conv.convolve(x, weight)
            return out + offset.to(out.dtype)[:, None, None]
        return nn.functional.conv2d(x, weight, offset, conv.stride, conv.padding, conv.dilation, conv.groups)

    def normalise(self, x: Tensor) -> Tensor:
        return self.plain_norm(x) if self.norm.training else x

    @torch.no_grad()
    def keep(self, dtype: torch.dtype | None) -> None:
        """Computes the product for good if nothing in it learns, in the dtype of autocast, which would cast it at every use."""
        learns = [self.conv.weight, self.norm.weight, self.norm.bias]
        if not self.norm.training and not any(p.requires_grad for p in learns):
            weight, offset = self.product()
            self.kept = weight.to(dtype or weight.dtype), offset.to(dtype or offset.dtype)


def fold_norms(backbone: nn.Module) -> list[Pair]:
    """Makes every pair of convolution and norm of a ResNet compute as one where the norm is in evaluation mode. Weights, their
    names and their gradients stay where they are. ``Pair.keep`` is for after weights are loaded."""
    return [Pair(conv, norm) for conv, norm in list(_pairs(backbone))]


def _pairs(backbone: nn.Module) -> Iterator[tuple[nn.Conv2d | DeformConv2d, nn.BatchNorm2d]]:
    """``conv1`` and ``bn1`` and so on of one module, and a shortcut's convolution and norm."""
    for module in backbone.modules():
        parts = dict(module.named_children())
        couples = [(part, parts.get(f"bn{name[4:]}")) for name, part in parts.items() if name.startswith("conv")]
        if isinstance(module, nn.Sequential) and len(module) == 2:
            couples.append((module[0], module[1]))
        for conv, norm in couples:
            # A bias would have to be folded as well; before a norm it is of no use, and no ResNet has one.
            biased = getattr(conv, "bias", None) is not None
            if isinstance(conv, (nn.Conv2d, DeformConv2d)) and isinstance(norm, nn.BatchNorm2d) and not biased:
                yield conv, norm
