"""ResNet (He et al. 2016) as image encoder, with deformable convolutions in chosen stages.

State_dict names are torchvision's; a deformable ``conv2`` adds ``conv2.conv_offset``. Style "caffe" strides in a bottleneck's
first 1x1 convolution, "pytorch" in its 3x3.
"""

from __future__ import annotations

from torch import Tensor, nn

from uniad.config.file import ConfigError
from uniad.config.spec import BackboneSpec
from uniad.ops.deformable_conv import DeformConv2d

_BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int, caffe: bool, dcn: bool, dcn_groups: int) -> None:
        super().__init__()
        if dcn:
            raise ConfigError("stage_with_dcn needs bottleneck blocks: depth 18 has none, use 50 or 101")
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels, stride)
        nn.init.zeros_(self.bn2.weight)  # a block starts as identity (Goyal et al. 2017), as in upstream

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, caffe: bool, dcn: bool, dcn_groups: int) -> None:
        super().__init__()
        first, second = (stride, 1) if caffe else (1, stride)
        self.conv1 = nn.Conv2d(in_channels, channels, 1, first, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        if dcn:
            self.conv2 = DeformConv2d(channels, channels, 3, second, 1, dcn_groups)
        else:
            self.conv2 = nn.Conv2d(channels, channels, 3, second, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, channels * 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels * 4)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(in_channels, channels * 4, stride)
        nn.init.zeros_(self.bn3.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class ResNet(nn.Module):
    """Feature maps of the stages in ``spec.out_indices`` (stage 0 has stride 4, each later one twice that)."""

    def __init__(self, spec: BackboneSpec) -> None:
        super().__init__()
        self.spec = spec
        block = BasicBlock if spec.depth == 18 else Bottleneck
        channels = spec.base_channels
        self.conv1 = nn.Conv2d(3, channels, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        for stage, count in enumerate(_BLOCKS[spec.depth][: spec.num_stages]):
            width = spec.base_channels * 2**stage
            blocks: list[nn.Module] = []
            for i in range(count):
                stride = 2 if stage > 0 and i == 0 else 1
                blocks.append(
                    block(channels, width, stride, spec.style == "caffe", spec.stage_with_dcn[stage], spec.dcn_groups)
                )
                channels = width * block.expansion
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self._fix_parameters()

    def forward(self, img: Tensor) -> list[Tensor]:
        """img [M, 3, H, W] normalised pixels, M = batch x cameras. Returns one [M, C, H/s, W/s] per output stage."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(img))))
        outs = []
        for stage in range(max(self.spec.out_indices) + 1):
            x = getattr(self, f"layer{stage + 1}")(x)
            if stage in self.spec.out_indices:
                outs.append(x)
        return outs

    def train(self, mode: bool = True) -> ResNet:
        """Frozen stages, and all norms where the spec says ``norm_eval``, keep their running statistics."""
        super().train(mode)
        if mode:
            for part in self._frozen_parts():
                part.eval()
            if self.spec.norm_eval:
                for module in self.modules():
                    if isinstance(module, nn.BatchNorm2d):
                        module.eval()
        return self

    def _frozen_parts(self) -> list[nn.Module]:
        """``frozen_stages`` = n >= 0 freezes the stem and the first n stages; -1 freezes nothing."""
        if self.spec.frozen_stages < 0:
            return []
        stages = [getattr(self, f"layer{i}") for i in range(1, self.spec.frozen_stages + 1)]
        return [self.conv1, self.bn1, *stages]

    def _fix_parameters(self) -> None:
        if not self.spec.norm_requires_grad:
            for module in self.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.requires_grad_(False)
        for part in self._frozen_parts():
            part.requires_grad_(False)
