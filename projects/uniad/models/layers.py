"""Pieces that the transformers share.

Attribute names (``ffns.0.layers.0.0``, ``attentions.0.attn.in_proj_weight``, ...) are those of published checkpoints; where one
looks odd, that is why.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, overload

import torch
from torch import Tensor, nn

from uniad.models.attention import MultiheadAttention
from uniad.ops.deformable_attention import SpatialShapes, deformable_attention, first_level_of_many, level_sizes

__all__ = ["BIAS_OF_PRIOR", "FFN", "DeformableAttention", "LearnedPositionalEncoding", "ModuleListOf", "MultiheadAttention",
           "ResidualAttention", "init_linear", "inverse_sigmoid", "linear_of", "init_offsets", "sine_position"]

BIAS_OF_PRIOR = -math.log((1.0 - 0.01) / 0.01)  # of class logits: an untrained model gives 1 % (Lin et al. 2017)
M = TypeVar("M", bound=nn.Module)
EPS = 1e-5  # of inverse_sigmoid: outside pc_range references saturate at +-11.5, which the next frame relies on


def inverse_sigmoid(x: Tensor) -> Tensor:
    """log(x / (1 - x)) of a value in 0..1, saturating at log(1e-5) on both sides. Any shape."""
    x = x.clamp(0.0, 1.0)
    return torch.log(x.clamp(min=EPS) / (1.0 - x).clamp(min=EPS))


if TYPE_CHECKING:

    class ModuleListOf(nn.ModuleList, Generic[M]):
        """A ModuleList whose elements have a type."""

        def __init__(self, modules: Iterable[M]) -> None: ...
        @overload
        def __getitem__(self, idx: int) -> M: ...
        @overload
        def __getitem__(self, idx: slice) -> ModuleListOf[M]: ...
        def __iter__(self) -> Iterator[M]: ...
else:
    ModuleListOf = nn.ModuleList


def linear_of(layers: nn.Sequential, index: int) -> nn.Linear:
    """The linear layer at that place."""
    linear = layers[index]
    if not isinstance(linear, nn.Linear):
        raise TypeError(f"layer {index} is a {type(linear).__name__}")
    return linear


def init_linear(linear: nn.Linear | nn.Conv2d) -> None:
    """Xavier weights and no bias, as every projection of upstream's model starts."""
    nn.init.xavier_uniform_(linear.weight)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def init_offsets(num_heads: int, repeat: int, num_points: int) -> Tensor:
    """Starting offsets of deformable attention: head h looks along h/num_heads of a turn, point p lies p + 1 pixels out.

    Returns the flat bias [heads * repeat * points * 2]; ``repeat`` counts levels (times BEVs in temporal attention).
    """
    angle = torch.arange(num_heads, dtype=torch.float32) * (2.0 * math.pi / num_heads)
    direction = torch.stack([angle.cos(), angle.sin()], -1)
    direction = direction / direction.abs().amax(-1, keepdim=True)
    steps = torch.arange(1, num_points + 1, dtype=torch.float32)
    ring = direction[:, None, None, :] * steps[None, None, :, None]
    return ring.expand(num_heads, repeat, num_points, 2).reshape(-1).clone()


class Sampling(Protocol):
    """What deformable attentions have in common."""

    num_heads: int
    num_points: int
    sampling_offsets: nn.Linear
    attention_weights: nn.Linear
    value_proj: nn.Linear


def init_sampling(module: Sampling, repeat: int) -> None:
    """Start a deformable attention: offsets on the ring, equal weights, Xavier projections."""
    nn.init.zeros_(module.sampling_offsets.weight)
    with torch.no_grad():
        module.sampling_offsets.bias.copy_(init_offsets(module.num_heads, repeat, module.num_points))
    nn.init.zeros_(module.attention_weights.weight)
    nn.init.zeros_(module.attention_weights.bias)
    init_linear(module.value_proj)
    output_proj = getattr(module, "output_proj", None)
    if output_proj is not None:
        init_linear(output_proj)


class FFN(nn.Module):
    """Two-layer perceptron with residual. [..., D] -> [..., D]"""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout)),
            nn.Linear(hidden, dim),
            nn.Dropout(dropout),
        )

    @property
    def first(self) -> nn.Linear:
        hidden = self.layers[0]
        assert isinstance(hidden, nn.Sequential)
        return linear_of(hidden, 0)

    @property
    def second(self) -> nn.Linear:
        return linear_of(self.layers, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ResidualAttention(nn.Module):
    """Multi-head attention with positional encodings, dropout and residual; the parameters live under ``attn``."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.attn = MultiheadAttention(dim, num_heads, dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        query: Tensor,
        key: Tensor | None = None,
        query_pos: Tensor | None = None,
        key_pos: Tensor | None = None,
        key_padding: Tensor | None = None,
    ) -> Tensor:
        """query [B, R, D]; key [B, K, D], None for self-attention (``key_pos`` is then ``query_pos``); key_padding [B, K] bool,
        True where there is no key, or [B, R, K]. The value is the key without its position. Returns [B, R, D], residual
        included."""
        q = query if query_pos is None else query + query_pos
        if key is None:
            return query + self.dropout(self.attn(q, q, query, key_padding))
        k = key if key_pos is None else key + key_pos
        return query + self.dropout(self.attn(q, k, key, key_padding))


class DeformableAttention(nn.Module):
    """Deformable attention of queries on feature maps, with projections, dropout and residual (Zhu et al. 2021)."""

    def __init__(
        self, dim: int, num_heads: int = 8, num_levels: int = 1, num_points: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = num_heads, num_levels, num_points
        self.sampling_offsets = nn.Linear(dim, num_heads * num_levels * num_points * 2)
        self.attention_weights = nn.Linear(dim, num_heads * num_levels * num_points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(dropout)
        self.init_weights()

    def init_weights(self) -> None:
        init_sampling(self, self.num_levels)

    def forward(
        self,
        query: Tensor,
        value: Tensor,
        reference: Tensor,
        spatial_shapes: SpatialShapes,
        query_pos: Tensor | None = None,
        identity: Tensor | None = None,
    ) -> Tensor:
        """query [B, Q, D]; value [B, V, D], levels one after the other; reference [B, Q, L, 2] as fractions of (width, height),
        or [B, Q, L, 4] with a box (w, h) that scales the offsets. ``identity`` is what the result is added to, the query
        itself when None. One level may be fed to a module built for several: see ``first_level_of_many``. -> [B, Q, D]
        """
        identity = query if identity is None else identity
        q = query if query_pos is None else query + query_pos
        heads, levels, points = self.num_heads, self.num_levels, self.num_points
        value = self.value_proj(value).unflatten(-1, (heads, -1))
        offsets = self.sampling_offsets(q).unflatten(-1, (heads, levels, points, 2)).float()
        weights = self.attention_weights(q).unflatten(-1, (heads, levels * points)).float().softmax(-1)
        weights = weights.unflatten(-1, (levels, points))
        centre = reference[:, :, None, :, None, :2].float()
        if reference.shape[-1] == 4:
            extent = reference[:, :, None, :, None, 2:].float()
            loc = centre + offsets / points * extent * 0.5
        else:
            loc = centre + offsets / level_sizes(spatial_shapes, query.device)[:, None, :]
        if len(spatial_shapes) == 1 and levels > 1:
            loc, weights = first_level_of_many(loc, weights)
        out = self.output_proj(deformable_attention(value, spatial_shapes, loc, weights))
        return identity + self.dropout(out)


class LearnedPositionalEncoding(nn.Module):
    """One learnt vector per row and per column of the BEV grid; half of the features each."""

    def __init__(self, dim: int, height: int, width: int) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(height, dim // 2)
        self.col_embed = nn.Embedding(width, dim // 2)
        nn.init.uniform_(self.row_embed.weight)
        nn.init.uniform_(self.col_embed.weight)

    def forward(self) -> Tensor:
        """[D, h, w]: columns in the first half of D, rows in the second."""
        rows, cols = self.row_embed.weight, self.col_embed.weight
        h, w = rows.shape[0], cols.shape[0]
        return torch.cat([cols.t()[:, None, :].expand(-1, h, -1), rows.t()[:, :, None].expand(-1, -1, w)], 0)


def sine_position(hw: tuple[int, int], dim: int, offset: float = -0.5) -> Tensor:
    """Fixed sine and cosine code of every cell of an unpadded grid (Carion et al. 2020), normalised to one turn.

    Returns float32 [dim, h, w]: rows in the first half, columns in the second. Being constant, hold it in a buffer.
    """
    half = dim // 2
    exponent = torch.div(torch.arange(half), 2, rounding_mode="floor").float() * 2.0 / half

    def encode_position(n: int) -> Tensor:  # [n, half], sine and cosine alternating
        position = (torch.arange(1, n + 1, dtype=torch.float32) + offset) / (n + 1e-6) * (2.0 * math.pi)
        angle = position[:, None] / 10000.0**exponent
        return torch.stack([angle[:, 0::2].sin(), angle[:, 1::2].cos()], -1).flatten(1)

    (h, w), rows, cols = hw, encode_position(hw[0]), encode_position(hw[1])
    return torch.cat([rows.t()[:, :, None].expand(-1, -1, w), cols.t()[:, None, :].expand(-1, h, -1)], 0).contiguous()
