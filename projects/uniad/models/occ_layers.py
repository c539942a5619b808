"""Pieces of the occupancy head: cutting its grid out of the BEV, shrinking and enlarging feature maps, and the transformer layer.

Attribute names (``abn_down_project``, ``conv_skip_proj``, ...) and positions inside ``Sequential`` are those of published
checkpoints.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniad.geometry.grid import BevGrid
from uniad.models.layers import FFN, ResidualAttention


class MLP(nn.Module):
    """Linear layers with ReLU between them. [..., D] -> [..., out]"""

    def __init__(self, dim: int, hidden: int, out: int, num_layers: int) -> None:
        super().__init__()
        widths = [dim, *[hidden] * (num_layers - 1), out]
        self.layers = nn.ModuleList([nn.Linear(a, b) for a, b in zip(widths, widths[1:])])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


class GridSlicer(nn.Module):
    """Bilinear samples of a map at the centres of another grid with the same axes; zero beyond the map.

    Both grids are fixed and upright, so a sample is a weighted sum of two rows, then of two columns: gathers with constant
    indices, which cost less than a general sampler and exist everywhere. All positions are in metres.
    """

    x_lo: Tensor  # indices
    x_hi: Tensor
    y_lo: Tensor
    y_hi: Tensor

    def __init__(
        self, map_hw: tuple[int, int], map_centres: tuple[float, float, float, float], grid: BevGrid
    ) -> None:
        """map_hw: the map's rows and columns; map_centres: centres of its first and last column (x) and row (y);
        grid: what is cut out."""
        super().__init__()
        x0, x1, y0, y1 = map_centres
        for axis, size, lo, hi, edge, step, count in (
            ("x", map_hw[1], x0, x1, grid.x_min, grid.cell_x, grid.columns),
            ("y", map_hw[0], y0, y1, grid.y_min, grid.cell_y, grid.rows),
        ):
            centres = edge + step * (torch.arange(count, dtype=torch.float64) + 0.5)
            cell = (centres - lo) / (hi - lo) * (size - 1)
            below = cell.floor()
            for side, index, weight in (("lo", below, 1 - (cell - below)), ("hi", below + 1, cell - below)):
                inside = (index >= 0) & (index < size)
                self.register_buffer(f"{axis}_{side}", index.clamp(0, size - 1).long(), persistent=False)
                self.register_buffer(f"{axis}_{side}_weight", (weight * inside).float(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[B, D, H, W] -> [B, D, h, w]"""
        weight = {k: v.to(x.dtype) for k, v in self.named_buffers() if k.endswith("weight")}
        y = x.index_select(2, self.y_lo) * weight["y_lo_weight"][:, None]
        y = y + x.index_select(2, self.y_hi) * weight["y_hi_weight"][:, None]
        return y.index_select(3, self.x_lo) * weight["x_lo_weight"] + y.index_select(3, self.x_hi) * weight["x_hi_weight"]


class ConvNormRelu(nn.Module):
    """3x3 convolution, batch norm, ReLU."""

    def __init__(self, dim: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, out, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu()


class LightProjection(nn.Module):
    """BEV features to the head's own width: ``num_layers - 1`` convolutions, then a 1x1. [B, D, h, w] -> [B, out, h, w]"""

    def __init__(self, dim: int, out: int, num_layers: int) -> None:
        super().__init__()
        self.conv_layers = nn.Sequential(
            *[ConvNormRelu(dim, dim) for _ in range(num_layers - 1)], nn.Conv2d(dim, out, kernel_size=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_layers(x)


def _norm_relu(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm2d(dim), nn.ReLU())


class HalvingBottleneck(nn.Module):
    """Residual bottleneck that halves the map, rounding up. [B, D, h, w] -> [B, D, ceil(h / 2), ceil(w / 2)]"""

    def __init__(self, dim: int) -> None:
        super().__init__()
        half = dim // 2
        self.layers = nn.Sequential(OrderedDict[str, nn.Module](
            conv_down_project=nn.Conv2d(dim, half, 1, bias=False),
            abn_down_project=_norm_relu(half),
            conv=nn.Conv2d(half, half, 3, stride=2, padding=1, bias=False),
            abn=_norm_relu(half),
            conv_up_project=nn.Conv2d(half, dim, 1, bias=False),
            abn_up_project=_norm_relu(dim),
        ))  # fmt: skip
        self.projection = nn.Sequential(OrderedDict[str, nn.Module](
            conv_skip_proj=nn.Conv2d(dim, dim, 1, bias=False), bn_skip_proj=nn.BatchNorm2d(dim)
        ))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + self.projection(_halve(x))


def _halve(x: Tensor) -> Tensor:
    """Largest of every 2x2 cells. An odd edge is completed with zeros, not with nothing: a negative feature there becomes 0.

    Written without padding first, which onnxruntime 1.23 folds into the pooling and thereby pads with minus infinity.
    """
    h, w = x.shape[-2:]
    x = F.max_pool2d(x, 2, ceil_mode=True)
    if h % 2:
        x = torch.cat([x[:, :, :-1], x[:, :, -1:].relu()], 2)
    if w % 2:
        x = torch.cat([x[..., :-1], x[..., -1:].relu()], 3)
    return x


class UpsampleAdd(nn.Module):
    """Enlarges a map twofold, projects it, fits it to ``skip`` and adds that. [B, D, h, w], [B, D, H, W] -> [B, D, H, W]"""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.upsample_layer = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            nn.Conv2d(dim, dim, 1, bias=False),
            nn.BatchNorm2d(dim),
        )

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        return resize(self.upsample_layer(x), (skip.shape[-2], skip.shape[-1])) + skip


def resize(x: Tensor, hw: tuple[int, int]) -> Tensor:
    """[N, D, h, w] -> [N, D, *hw], bilinear; the same tensor where it fits already."""
    return x if tuple(x.shape[-2:]) == tuple(hw) else F.interpolate(x, hw, mode="bilinear", align_corners=False)


class UpsampleBlock(nn.Module):
    """Enlarges a map twofold between two convolutions and adds the projected ``skip`` (Zhou and Kraehenbuehl 2022)."""

    def __init__(self, dim: int, out: int, skip_dim: int, relu: bool) -> None:
        super().__init__()
        half = out // 2
        self.conv = nn.Sequential(
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
            nn.Conv2d(dim, half, 3, padding=1, bias=False),
            nn.BatchNorm2d(half),
            nn.ReLU(),
            nn.Conv2d(half, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.up = nn.Conv2d(skip_dim, out, 1)
        self.relu = relu

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = self.conv(x)
        x = x + F.interpolate(self.up(skip), x.shape[-2:])  # nearest
        return x.relu() if self.relu else x


class DenseDecoder(nn.Module):
    """Features at a quarter of the grid's resolution to full resolution. [N, D, h, w] -> [N, D, 4h, 4w]"""

    def __init__(self, dim: int, num_blocks: int = 2) -> None:
        super().__init__()
        self.layers = nn.ModuleList([UpsampleBlock(dim, dim, dim, relu=i < num_blocks - 1) for i in range(num_blocks)])

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for layer in self.layers:
            y = layer(y, x)
        return y


class CellLayer(nn.Module):
    """Transformer layer in which BEV cells look at each other, then at the agents."""

    def __init__(self, dim: int, num_heads: int, ffn_dims: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([ResidualAttention(dim, num_heads) for _ in range(2)])
        self.ffns = nn.ModuleList([FFN(dim, ffn_dims)])
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(3)])

    def forward(self, cells: Tensor, agents: Tensor, blocked: Tensor) -> Tensor:
        """cells [B, S, D]; agents [B, A, D]; blocked [B, S, A] bool, True where a cell does not look at an agent."""
        cells = self.norms[0](self.attentions[0](cells))
        cells = self.norms[1](self.attentions[1](cells, agents, key_padding=blocked))
        return self.norms[2](self.ffns[0](cells))


class CellTransformer(nn.Module):
    """The layers of all future steps, in order; each step takes its share."""

    def __init__(self, dim: int, num_heads: int, ffn_dims: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([CellLayer(dim, num_heads, ffn_dims) for _ in range(num_layers)])
        self.post_norm = nn.LayerNorm(dim)  # in every checkpoint, and used by none
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_normal_(parameter)
