"""Mask decoder of the map head: every query attends to the BEV, and the attention logits themselves become its mask.

Panoptic SegFormer (Li et al. 2022, section 3.3). Two of these live in the map head, one for things and one for stuff. The
parameter names are upstream's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from uniad.models.layers import linear_of

NORM_EPS = 1e-6


class Masks(NamedTuple):
    """Masks of G queries over S BEV cells; values are >= 0 and trained towards 0 or 1, but nothing bounds them above."""

    mask: Tensor  # [B, G, S] of the last, attention-only layer
    layer_masks: tuple[Tensor, ...]  # L times [B, G, S]; empty unless asked for
    layer_queries: tuple[Tensor, ...]  # L times [B, G, D], each block's output


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SelfAttention(nn.Module):
    """Plain attention among the queries of one image."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BGD: Tensor) -> Tensor:
        q, k, v = (split_heads(t, self.num_heads) for t in self.qkv(x_BGD).chunk(3, dim=-1))
        return self.proj(join_heads(F.scaled_dot_product_attention(q, k, v)))


class MaskAttention(nn.Module):
    """Attention of queries to BEV cells whose logits, mixed over the heads, are the queries' masks.

    ``with_value`` False is the decoder's tail: a mask and nothing else.
    """

    def __init__(self, dim: int, num_heads: int, with_value: bool = True) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        if with_value:
            self.v = nn.Linear(dim, dim)
            self.proj = nn.Linear(dim, dim)
        # One-element sequences, because upstream's names carry a ".0".
        self.linear_l1 = nn.Sequential(nn.Linear(num_heads, num_heads))
        self.linear = nn.Sequential(nn.Linear(num_heads, 1))

    def logits(self, query_BGD: Tensor, memory_BSD: Tensor) -> Tensor:
        """Scaled attention logits [B, heads, G, S]."""
        q, k = split_heads(self.q(query_BGD), self.num_heads), split_heads(self.k(memory_BSD), self.num_heads)
        return (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)

    def mask(self, logits_BHGS: Tensor) -> Tensor:
        """Masks [B, G, S]: a two-layer perceptron over the heads, as 1x1 convolutions so that nothing is permuted."""
        mix, head = linear_of(self.linear_l1, 0), linear_of(self.linear, 0)
        x = F.relu(F.conv2d(logits_BHGS, mix.weight[..., None, None], mix.bias))
        return F.relu(F.conv2d(x, head.weight[..., None, None], head.bias)).squeeze(1)

    def attend(self, query_BGD: Tensor, memory_BSD: Tensor) -> Tensor:
        """Attention output [B, G, D] without the logits ever being stored."""
        q, k, v = (
            split_heads(t, self.num_heads) for t in (self.q(query_BGD), self.k(memory_BSD), self.v(memory_BSD))
        )
        return self.proj(join_heads(F.scaled_dot_product_attention(q, k, v)))

    def attend_with_mask(self, query_BGD: Tensor, memory_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Attention output [B, G, D] and masks [B, G, S] of the same logits."""
        logits = self.logits(query_BGD, memory_BSD)
        out = logits.softmax(-1) @ split_heads(self.v(memory_BSD), self.num_heads)
        return self.proj(join_heads(out)), self.mask(logits)


class MaskBlock(nn.Module):
    def __init__(self, dim: int, num_heads: int, self_attn: bool) -> None:
        super().__init__()
        self.head_norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = MaskAttention(dim, num_heads)
        self.head_norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, 4 * dim)
        if self_attn:
            self.self_attention = SelfAttention(dim, num_heads)
            self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.self_attn = self_attn

    def forward(self, query_BGD: Tensor, memory_BSD: Tensor, with_mask: bool) -> tuple[Tensor, Tensor | None]:
        if self.self_attn:
            query_BGD = self.norm3(query_BGD + self.self_attention(query_BGD))
        if with_mask:
            out, mask = self.attn.attend_with_mask(query_BGD, memory_BSD)
        else:
            out, mask = self.attn.attend(query_BGD, memory_BSD), None
        query_BGD = self.head_norm1(query_BGD + out)
        return self.head_norm2(query_BGD + self.mlp(query_BGD)), mask


class MaskHead(nn.Module):
    """``num_layers`` blocks and an attention-only tail. Only stuff queries (``self_attn``) see one another."""

    def __init__(self, dim: int, num_heads: int, num_layers: int, self_attn: bool = False) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(MaskBlock(dim, num_heads, self_attn) for _ in range(num_layers))
        self.attnen = MaskAttention(dim, num_heads, with_value=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, memory_BSD: Tensor, query_BGD: Tensor, query_pos_BGD: Tensor | None = None, all_layers: bool = False
    ) -> Masks:
        """Masks of the queries over the cells of ``memory``.

        ``query_pos`` is added in front of every block and stays in the residual stream, as in upstream. Intermediate masks
        exist for the auxiliary losses; without ``all_layers`` they are never computed.
        """
        layer_masks, layer_queries = [], []
        for block in self.blocks:
            query_BGD, mask = block(_add(query_BGD, query_pos_BGD), memory_BSD, all_layers)
            layer_queries.append(query_BGD)
            if mask is not None:
                layer_masks.append(mask)
        logits = self.attnen.logits(_add(query_BGD, query_pos_BGD), memory_BSD)
        return Masks(self.attnen.mask(logits), tuple(layer_masks), tuple(layer_queries))


def _add(x: Tensor, pos: Tensor | None) -> Tensor:
    return x if pos is None else x + pos


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """[B, G, D] -> [B, heads, G, D / heads]"""
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[B, heads, G, D / heads] -> [B, G, D]"""
    return x.transpose(1, 2).flatten(2)


def cell_masks_to_canvas(mask_BGS: Tensor, bev_hw: tuple[int, int], canvas_hw: tuple[int, int]) -> Tensor:
    """[B, G, S] masks over BEV cells as [B, G, h, w] on the canvas, bilinear where the two grids differ."""
    mask = mask_BGS.unflatten(-1, bev_hw)
    if tuple(bev_hw) == tuple(canvas_hw):
        return mask
    return F.interpolate(mask, size=tuple(canvas_hw), mode="bilinear", align_corners=False)


