"""Multi-head attention over padded sets.

The parameter names (``in_proj_weight``, ``in_proj_bias``, ``out_proj``) are those of ``torch.nn.MultiheadAttention``, which the
upstream checkpoints were saved from; the computation is batch-first and takes a mask of padded keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Added to the logit of a padded key: small enough that exp() is exactly 0 beside any valid key, representable in half precision.
PADDED_LOGIT = -1.0e4


def padding_bias(key_padding: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the logits of an attention: key_padding [..., K] bool, True where there is no key -> [..., K].

    A query without any key sees them all. Its result is finite and must not be used, as that of an offset common to all its
    logits, which softmax ignores; yet such an offset makes the fused attention of cuDNN give query gradients that are not
    finite in bf16 (benchmarks/masked_attention.py), and minus infinity would give NaN everywhere.
    """
    padded = key_padding.to(dtype)
    return padded * (1.0 - padded.amin(-1, keepdim=True)) * PADDED_LOGIT


class MultiheadAttention(nn.Module):
    """Scaled dot-product attention with ``num_heads`` heads."""

    def __init__(self, dim: int, num_heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout  # of the attention weights
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query: Tensor, key: Tensor, value: Tensor, key_padding: Tensor | None = None) -> Tensor:
        """Attend from ``query`` to ``key``/``value``.

        query: [B, R, D]; key, value: [B, K, D]; key_padding: [B, K] bool, True where there is no key, or [B, R, K] for keys
        that only some queries may see. Returns [B, R, D]; where a query has no key, numbers without meaning.
        Projections are fused where the same tensor is passed twice (``query is key`` or ``key is value``).
        """
        dim = query.shape[-1]
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if query is key:
            q, k = F.linear(query, weight[: 2 * dim], bias[: 2 * dim]).chunk(2, dim=-1)
            v = F.linear(value, weight[2 * dim :], bias[2 * dim :])
        elif key is value:
            q = F.linear(query, weight[:dim], bias[:dim])
            k, v = F.linear(key, weight[dim:], bias[dim:]).chunk(2, dim=-1)
        else:
            q = F.linear(query, weight[:dim], bias[:dim])
            k = F.linear(key, weight[dim : 2 * dim], bias[dim : 2 * dim])
            v = F.linear(value, weight[2 * dim :], bias[2 * dim :])
        mask = None
        if key_padding is not None:
            mask = padding_bias((key_padding if key_padding.dim() == 3 else key_padding[:, None])[:, None], q.dtype)
        out = F.scaled_dot_product_attention(
            self._split(q), self._split(k), self._split(v), mask, dropout_p=self.dropout if self.training else 0.0
        )
        return self.out_proj(out.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        """[B, R, D] -> [B, heads, R, D / heads]"""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
