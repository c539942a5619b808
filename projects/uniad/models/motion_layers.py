"""What a motion layer is made of: attention among modes, to agents, to the map, and into the BEV along the way to a goal.

Attribute names are those of published checkpoints. A *token* is one mode of one agent; tokens are laid out [B, A, K, D].
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from uniad.config.spec import MotionSpec
from uniad.models.attention import MultiheadAttention
from uniad.models.layers import FFN, init_sampling
from uniad.models.motion_geometry import at_centre, to_fraction
from uniad.models.precision import full_precision
from uniad.ops.deformable_attention import deformable_attention, level_sizes

HEADS, DROPOUT = 8, 0.1  # of the attention among sets, which no config sets


class EncoderLayer(nn.Module):
    """Self-attention and perceptron, normalised after each residual (Vaswani et al. 2017). [N, K, D] -> [N, K, D]"""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(dim, HEADS, DROPOUT)
        self.linear1, self.linear2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.dropout(self.self_attn(x, x, x)))
        return self.norm2(x + self.dropout(self.linear2(self.dropout(self.linear1(x).relu()))))


class DecoderLayer(nn.Module):
    """The modes of an agent among themselves, then each to a set of keys.

    tokens [B, A, K, D]; keys [B, M, D]; padding [B, M] bool, True where there is no key. -> [B, A, K, D]
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(dim, HEADS, DROPOUT)
        self.multihead_attn = MultiheadAttention(dim, HEADS, DROPOUT)
        self.linear1, self.linear2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.norm3 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, tokens: Tensor, keys: Tensor, padding: Tensor | None = None) -> Tensor:
        b, a, k, _ = tokens.shape
        x = tokens.flatten(0, 1)
        x = self.norm1(x + self.dropout(self.self_attn(x, x, x)))
        # Every token reads the same keys, so all agents of a sample go in one sequence.
        x = x.reshape(b, a * k, -1)
        x = self.norm2(x + self.dropout(self.multihead_attn(x, keys, keys, padding)))
        x = self.norm3(x + self.dropout(self.linear2(self.dropout(self.linear1(x).relu()))))
        return x.reshape(b, a, k, -1)


class IntentionInteraction(nn.Module):
    """The modes of one agent among themselves. [B, A, K, D] -> [B, A, K, D]"""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.interaction_transformer = EncoderLayer(dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.interaction_transformer(tokens.flatten(0, 1)).reshape(tokens.shape)


class SetInteraction(nn.Module):
    """Modes of agents to a set: the agents, or the map elements. Positions are added to both sides, and to the values too."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.interaction_transformer = DecoderLayer(dim)

    def forward(
        self, tokens: Tensor, tokens_pos: Tensor, keys: Tensor, keys_pos: Tensor, padding: Tensor | None = None
    ) -> Tensor:
        return self.interaction_transformer(tokens + tokens_pos, keys + keys_pos, padding)


class MotionDeformableAttention(nn.Module):
    """Reads the BEV around the place where a mode ends: for each future step a few points of its own (UniAD section 3.2)."""

    def __init__(self, spec: MotionSpec) -> None:
        super().__init__()
        dim, samples = spec.embed_dims, spec.num_heads * spec.predict_steps * spec.num_points
        self.num_heads, self.num_steps, self.num_points = spec.num_heads, spec.predict_steps, spec.num_points
        self.shape, self.pc_range = (spec.bev_hw,), spec.pc_range
        self.sampling_offsets = nn.Linear(dim, samples * 2)
        self.attention_weights = nn.Linear(dim, samples)
        self.value_proj = nn.Linear(dim, dim)
        init_sampling(self, repeat=self.num_steps)
        # Unlike elsewhere, upstream's start leaves this one as PyTorch makes it.
        self.output_proj = nn.Sequential(nn.Linear(self.num_steps * dim, dim), nn.LayerNorm(dim), nn.ReLU())
        self.dropout = nn.Dropout(DROPOUT)

    def forward(self, tokens: Tensor, tokens_pos: Tensor, bev: Tensor, goal: Tensor, boxes: Tensor) -> Tensor:
        """tokens, tokens_pos [B, A, K, D]; bev [B, S, D]; goal [B, A, K, 2] metres from the agent's centre, lidar axes; boxes
        [B, A, 9]. Returns [B, A, K, D], residual included."""
        b, a, k, _ = tokens.shape
        heads, steps, points = self.num_heads, self.num_steps, self.num_points
        query = (tokens + tokens_pos).flatten(1, 2)
        value = self.value_proj(bev).unflatten(-1, (heads, -1))
        offsets = self.sampling_offsets(query).unflatten(-1, (heads, steps, points, 2)).float()
        weights = self.attention_weights(query).unflatten(-1, (heads, steps, points)).float().softmax(-1)
        with full_precision(goal):  # metres to a tenth over a hundred
            centre = to_fraction(at_centre(goal.detach(), boxes.detach()), self.pc_range).flatten(1, 2)
            loc = centre[:, :, None, None, None] + offsets / level_sizes(self.shape, query.device)
        # A step of a token is a query of its own. [B, A*K*F, heads, 1, P(, 2)]
        loc = loc.transpose(2, 3).flatten(1, 2).unsqueeze(3)
        weights = weights.transpose(2, 3).flatten(1, 2).unsqueeze(3)
        out = deformable_attention(value, self.shape, loc, weights)
        out = self.output_proj(out.reshape(b, a, k, -1))
        return tokens + self.dropout(out)


class BevInteraction(nn.Module):
    """Deformable attention and perceptron, normalised after each residual."""

    def __init__(self, spec: MotionSpec) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([MotionDeformableAttention(spec)])
        self.ffns = nn.ModuleList([FFN(spec.embed_dims, spec.ffn_dims, spec.ffn_dropout)])
        self.norms = nn.ModuleList([nn.LayerNorm(spec.embed_dims) for _ in range(2)])

    def forward(self, tokens: Tensor, tokens_pos: Tensor, bev: Tensor, goal: Tensor, boxes: Tensor) -> Tensor:
        x = self.norms[0](self.attentions[0](tokens, tokens_pos, bev, goal, boxes))
        return self.norms[1](self.ffns[0](x))


def mlp(dim_in: int, dim_hidden: int, dim_out: int) -> nn.Sequential:
    """Linear, ReLU, linear."""
    return nn.Sequential(nn.Linear(dim_in, dim_hidden), nn.ReLU(), nn.Linear(dim_hidden, dim_out))


class MotionFormer(nn.Module):
    """The layers that every prediction layer of the motion head runs once, and the perceptrons that join their results."""

    def __init__(self, spec: MotionSpec) -> None:
        super().__init__()
        dim = spec.embed_dims
        self.intention_interaction_layers = IntentionInteraction(dim)
        self.track_agent_interaction_layers = nn.ModuleList([SetInteraction(dim) for _ in range(spec.num_layers)])
        self.map_interaction_layers = nn.ModuleList([SetInteraction(dim) for _ in range(spec.num_layers)])
        self.bev_interaction_layers = nn.ModuleList([BevInteraction(spec) for _ in range(spec.num_layers)])
        self.static_dynamic_fuser = mlp(2 * dim, 2 * dim, dim)
        self.dynamic_embed_fuser = mlp(3 * dim, 2 * dim, dim)
        self.in_query_fuser = mlp(2 * dim, 2 * dim, dim)
        self.out_query_fuser = mlp(4 * dim, 2 * dim, dim)

    def intention(self, tokens: Tensor, static: Tensor, goals: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """What a layer starts from: the modes so far, the anchors' embedding, and the goals' as the agent, the scene from the
        agent's centre, and the scene see them. All [B, A, K, D]."""
        agent_level, scene_offset, scene_ego = goals
        dynamic = self.dynamic_embed_fuser(torch.cat([agent_level, scene_offset, scene_ego], -1))
        intention = self.static_dynamic_fuser(torch.cat([static, dynamic], -1))
        return self.in_query_fuser(torch.cat([tokens, intention], -1))

    def join(self, agents: Tensor, lanes: Tensor, bev: Tensor, track: Tensor) -> Tensor:
        """The three interactions and the track query [B, A, K, D] each -> the modes after this layer."""
        return self.out_query_fuser(torch.cat([agents, lanes, bev, track], -1))
