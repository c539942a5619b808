"""Feature pyramid (Lin et al. 2017): every level gets what coarser levels know."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from uniad.config.spec import NeckSpec
from uniad.models.layers import init_linear


class _Conv(nn.Module):
    """A convolution under the name ``conv``, where published checkpoints have it."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2)
        init_linear(self.conv)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class FPN(nn.Module):
    def __init__(self, spec: NeckSpec) -> None:
        super().__init__()
        self.spec = spec
        inputs = spec.in_channels[spec.start_level :]
        extra = spec.num_outs - len(inputs)
        self.lateral_convs = nn.ModuleList(_Conv(c, spec.out_channels, 1) for c in inputs)
        self.fpn_convs = nn.ModuleList(_Conv(spec.out_channels, spec.out_channels, 3) for _ in inputs)
        if spec.add_extra_convs is not None:
            self.fpn_convs.extend(_Conv(spec.out_channels, spec.out_channels, 3, stride=2) for _ in range(extra))

    def forward(self, feats: list[Tensor]) -> list[Tensor]:
        """Backbone maps [M, C_i, h_i, w_i], finest first -> ``num_outs`` maps [M, D, h_i, w_i]."""
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, feats[self.spec.start_level :], strict=True)]
        for i in range(len(laterals) - 1, 0, -1):
            size = laterals[i - 1].shape[-2:]
            laterals[i - 1] = laterals[i - 1] + F.interpolate(laterals[i], size=size, mode="nearest")
        outs = [conv(x) for conv, x in zip(self.fpn_convs, laterals, strict=False)]
        while len(outs) < self.spec.num_outs:
            if self.spec.add_extra_convs is None:
                outs.append(F.max_pool2d(outs[-1], 1, stride=2))
                continue
            x = outs[-1]
            # Upstream's pyramid applies its ReLU between extra levels only, not before the first.
            if self.spec.relu_before_extra_convs and len(outs) > len(laterals):
                x = F.relu(x)
            outs.append(self.fpn_convs[len(outs)](x))
        return outs
