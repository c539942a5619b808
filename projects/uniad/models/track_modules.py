"""The learned parts of tracking: memory bank and query interaction, on the carried slots only.

Upstream runs both over all detection rows and then keeps a few. A row's result depends on no other row
in the memory bank, and on the kept rows only in the query interaction, so here rows are gathered into their slots first.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniad.config.spec import TrackSpec
from uniad.interface.types import Tracks
from uniad.models.attention import MultiheadAttention
from uniad.models.precision import full_precision

SAVE_PERIOD = 3.0  # frames between two memories of a track at inference


class MemoryBank(nn.Module):
    """Attention of a track's embedding to what it was in earlier frames (UniAD, supplementary B.2)."""

    def __init__(self, spec: TrackSpec) -> None:
        super().__init__()
        dim = spec.embed_dims
        self.save_thresh = spec.mem_score_thresh
        self.save_proj = nn.Linear(dim, dim)
        self.temporal_attn = MultiheadAttention(dim, 8)
        self.temporal_fc1 = nn.Linear(dim, dim)
        self.temporal_fc2 = nn.Linear(dim, dim)
        self.temporal_norm1 = nn.LayerNorm(dim)
        self.temporal_norm2 = nn.LayerNorm(dim)
        _init_xavier(self)

    def forward(self, embedding: Tensor, score: Tensor, tracks: Tracks) -> tuple[Tensor, Tracks]:
        """Recall, then remember.

        embedding: [B, Q, D] of this frame; score: [B, Q]; tracks: the slots with their memories.
        Returns the embedding [B, Q, D] with the past in it, and tracks with updated mem_bank, mem_padding and save_period.
        In training every frame is remembered, at inference every fourth.
        """
        embedding = self.recall(embedding, tracks.mem_bank, tracks.mem_padding)
        save, save_period = self.due_in_training(score, tracks) if self.training else self.due_at_test(score, tracks)
        return embedding, self.remember(embedding, save, tracks)._replace(save_period=save_period)

    def recall(self, embedding: Tensor, mem_bank: Tensor, mem_padding: Tensor) -> Tensor:
        """Embedding [B, Q, D] enriched from mem_bank [B, Q, T, D]; unchanged where the newest memory is missing."""
        batch = embedding.shape[0]
        query, bank = embedding.flatten(0, 1)[:, None], mem_bank.flatten(0, 1)
        past = self.temporal_attn(query, bank, bank, mem_padding.flatten(0, 1))[:, 0].unflatten(0, (batch, -1))
        x = self.temporal_norm1(embedding + past)
        x = self.temporal_norm2(x + self.temporal_fc2(F.relu(self.temporal_fc1(x))))
        return torch.where(mem_padding[..., -1:], embedding, x.to(embedding.dtype))

    def due_at_test(self, score: Tensor, tracks: Tracks) -> tuple[Tensor, Tensor]:
        """Which slots [B, Q] save now, and the new save_period [B, Q]. Counted down after the test: every fourth frame saves."""
        period = tracks.save_period
        save = (period == 0) & (score > self.save_thresh)
        return save, (period - 1.0).clamp(min=0.0).masked_fill(save, SAVE_PERIOD)

    def due_in_training(self, score: Tensor, tracks: Tracks) -> tuple[Tensor, Tensor]:
        """Which slots [B, Q] save now, and save_period as it was: training saves every frame."""
        return score > 0, tracks.save_period

    def remember(self, embedding: Tensor, save: Tensor, tracks: Tracks) -> Tracks:
        """Push the projected embedding [B, Q, D] into the memories where ``save`` [B, Q]; the oldest falls out."""
        newest = self.save_proj(embedding)[:, :, None].to(tracks.mem_bank.dtype)
        bank = torch.cat([tracks.mem_bank[:, :, 1:], newest], dim=2)
        shifted = torch.cat([tracks.mem_padding[:, :, 1:], torch.zeros_like(save[..., None])], dim=2)
        # In logic, not by torch.where: few inference engines select between booleans.
        padding = (save[..., None] & shifted) | (~save[..., None] & tracks.mem_padding)
        return tracks._replace(
            mem_bank=torch.where(save[..., None, None], bank, tracks.mem_bank),
            mem_padding=padding,
        )


class QueryInteraction(nn.Module):
    """Turns a frame's output embeddings into the queries of the next frame (MOTR, Zeng et al. 2022)."""

    def __init__(self, spec: TrackSpec) -> None:
        super().__init__()
        dim, dropout = spec.embed_dims, spec.merger_dropout
        self.update_query_pos = spec.update_query_pos
        self.self_attn = MultiheadAttention(dim, 8, dropout)
        self.linear1 = nn.Linear(dim, dim)
        self.linear2 = nn.Linear(dim, dim)
        if spec.update_query_pos:
            self.linear_pos1 = nn.Linear(dim, dim)
            self.linear_pos2 = nn.Linear(dim, dim)
            self.norm_pos = nn.LayerNorm(dim)
        self.linear_feat1 = nn.Linear(dim, dim)
        self.linear_feat2 = nn.Linear(dim, dim)
        self.norm_feat = nn.LayerNorm(dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        _init_xavier(self)

    def forward(self, query: Tensor, embedding: Tensor, valid: Tensor) -> Tensor:
        """query: [B, Q, 2D] position and feature half; embedding: [B, Q, D]; valid: [B, Q] bool, other slots are not attended.

        Returns the updated query [B, Q, 2D]; it is meaningless, though finite, in slots that are not valid.
        """
        pos, feat = query.chunk(2, dim=-1)
        where = pos + embedding
        drop = self.dropout
        x = self.norm1(embedding + drop(self.self_attn(where, where, embedding, ~valid)))
        x = self.norm2(x + drop(self.linear2(drop(F.relu(self.linear1(x))))))
        if self.update_query_pos:
            pos = self.norm_pos(pos + drop(self.linear_pos2(drop(F.relu(self.linear_pos1(x))))))
        feat = self.norm_feat(feat + drop(self.linear_feat2(drop(F.relu(self.linear_feat1(x))))))
        return torch.cat([pos, feat], dim=-1).to(query.dtype)


class ReferencePoints(nn.Linear):
    """Linear layer from the position half of a query to its reference point, always in fp32."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, 3)

    def forward(self, input: Tensor) -> Tensor:
        """Queries [..., 2D] -> [..., 3], inverse sigmoid of the fraction of pc_range."""
        with full_precision(input):
            return super().forward(input[..., : self.in_features].float())


def _init_xavier(module: nn.Module) -> None:
    for p in module.parameters():
        if p.dim() > 1:
            nn.init.xavier_uniform_(p)
