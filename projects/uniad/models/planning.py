"""Planning head: one query of the ego car asks the BEV where to go (UniAD section 3.4).

Parameter names are those of published checkpoints (``planning_head.*``).
"""

from __future__ import annotations

from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from uniad.config.spec import PlanSpec
from uniad.geometry.nuscenes import STEP_S
from uniad.interface.types import MotionOutput, PlanOutput
from uniad.models.attention import MultiheadAttention
from uniad.models.precision import full_precision

# Where can_bus [18] has what tells how the car moves in its own plane: acceleration and velocity (forward, left), yaw rate;
# and what each is divided by, so that all are about 1 in a town (m/s2, m/s, rad/s).
STATUS = (7, 8, 12, 13, 14)
STATUS_SCALE = (2.0, 2.0, 0.2, 8.0, 1.0)
FORWARD_ACCELERATION, YAW_RATE, FORWARD_VELOCITY = 7, 12, 13


class SingleQueryAttention(MultiheadAttention):
    """Attention of very few queries on very many keys, without ever projecting a key.

    A head's logit q . (W_k x + b_k) is (W_k' q) . x plus a term alike for all keys, which softmax drops; and its result is
    W_v of the weighted mean of the x. Projecting 40,000 BEV cells to keys and values would cost a hundred times more than the
    rest of the layer, and an activation of that size to keep for the backward pass. The numbers are the same.
    """

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:  # pyrefly: ignore[bad-override]  shares its weights alone
        """query [B, R, D], memory [B, S, D] -> [B, R, D]."""
        dim, heads = query.shape[-1], self.num_heads
        w_q, w_k, w_v = (w.unflatten(0, (heads, -1)) for w in self.in_proj_weight.chunk(3))  # [heads, D / heads, D] each
        b_q, _, b_v = self.in_proj_bias.chunk(3)
        q_BHRd = self._split(F.linear(query, w_q.flatten(0, 1), b_q)) * (dim // heads) ** -0.5
        asked_BHRD = q_BHRd @ w_k
        logits = asked_BHRD.flatten(1, 2) @ memory.transpose(1, 2)  # [B, heads * R, S]
        weights = F.dropout(logits.softmax(-1), self.dropout, self.training)
        mean_BHRD = (weights.to(memory.dtype) @ memory).unflatten(1, (heads, -1))
        # Dropout thins the weights, and with them what the value's bias counts for.
        share = weights.sum(-1, keepdim=True).unflatten(1, (heads, -1))
        out = mean_BHRD @ w_v.transpose(1, 2) + share * b_v.unflatten(0, (heads, 1, -1))
        return self.out_proj(out.transpose(1, 2).flatten(2).to(query.dtype))


class PlanDecoderLayer(nn.Module):
    """Self-attention, attention on the BEV, feed-forward; each with residual and a norm after it."""

    def __init__(self, dim: int, num_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = MultiheadAttention(dim, num_heads, dropout)
        self.multihead_attn = SingleQueryAttention(dim, num_heads, dropout)
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        """query [B, R, D], memory [B, S, D] -> [B, R, D]."""
        query = self.norm1(query + self.dropout(self.self_attn(query, query, query)))
        query = self.norm2(query + self.dropout(self.multihead_attn(query, memory)))
        hidden = self.dropout(self.linear1(query).relu())
        return self.norm3(query + self.dropout(self.linear2(hidden)))


class PlanDecoder(nn.Module):
    def __init__(self, num_layers: int, dim: int, num_heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(PlanDecoderLayer(dim, num_heads, hidden, dropout) for _ in range(num_layers))

    def forward(self, query: Tensor, memory: Tensor) -> Tensor:
        for layer in self.layers:
            query = layer(query, memory)
        return query


def adapter_block(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(dim, dim // 2, 3, padding=1), nn.ReLU(), nn.Conv2d(dim // 2, dim, 1))


class MotionPrior(nn.Module):
    """Where the car gets with the speed, acceleration and yaw rate of now, the last two dying away at rates that are learnt.

    Half a second ahead that is right to centimetres, which a head that regresses whole paths has to learn from every road anew.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.log_decay = nn.Parameter(torch.zeros(2))  # log of seconds, of acceleration and of yaw rate
        self.register_buffer("middle_s", STEP_S * (torch.arange(steps) + 0.5), persistent=False)  # of every step

    def forward(self, can_bus: Tensor) -> Tensor:
        """can_bus [B, 18] float32 as in ``Frame`` -> what each step adds, [B, steps, 2] metres, lidar frame (right, forward)."""
        decay_s = self.log_decay.exp()
        gained = decay_s * (1 - torch.exp(-self.middle_s[:, None] / decay_s))  # [steps, 2] seconds of either at full strength
        acceleration, yaw_rate, velocity = (can_bus[:, i, None] for i in (FORWARD_ACCELERATION, YAW_RATE, FORWARD_VELOCITY))
        length = STEP_S * (velocity + acceleration * gained[:, 0]).relu()
        turned = yaw_rate * gained[:, 1]  # counter-clockwise
        return torch.stack([-turned.sin() * length, turned.cos() * length], -1)


def shrinking(dim: int, width: int) -> nn.Sequential:
    """A quarter of the rows and columns, rounded up, of a map with ``dim`` channels: two convolutions to ``width`` channels."""
    return nn.Sequential(
        nn.Conv2d(dim, width, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU(),
    )  # fmt: skip


class PatchAhead(nn.Module):
    """What lies around and ahead of the car, read where it lies: two convolutions over that part of the BEV, then all its cells.

    Attention has to find a place before it can learn what to make of it; here every place has weights of its own.
    """

    WIDTH = 32

    def __init__(self, dim: int, bev_hw: tuple[int, int]) -> None:
        super().__init__()
        rows, columns = bev_hw  # a half of either: the car is in the middle of the BEV, so a fifth of the patch is behind it
        self.bev_hw = bev_hw
        self.rows, self.columns = slice(2 * rows // 5, 9 * rows // 10), slice(columns // 4, 3 * columns // 4)
        count = 1
        for part in (self.rows, self.columns):
            size = part.stop - part.start
            for _ in range(2):
                size = (size + 1) // 2
            count *= size
        self.shrink = shrinking(dim, self.WIDTH)
        self.read = nn.Sequential(nn.Linear(count * self.WIDTH, dim), nn.ReLU(), nn.Linear(dim, dim))

    def forward(self, bev: Tensor) -> Tensor:
        """bev [B, S, D] -> [B, D]."""
        grid = bev.transpose(1, 2).unflatten(2, self.bev_hw)[:, :, self.rows, self.columns]
        return self.read(self.shrink(grid).flatten(1))


class ImagesAhead(nn.Module):
    """What the cameras that look forward see, image cell by image cell, for what the BEV is too coarse or too low for.

    A BEV cell of nano is as wide as a car, and what hangs above the highest point that a pillar samples is in no cell: the offset
    from a lane's middle and the colour of a lamp are in the images alone. Begins as zero: a model that drives goes on driving.
    """

    WIDTH = 24
    CAMERAS = 3  # of nuScenes' and of Bench2Drive's order: front, and left and right of it

    def __init__(self, dim: int, feature_hw: tuple[int, int]) -> None:
        super().__init__()
        self.feature_hw = feature_hw
        count = self.CAMERAS * self.WIDTH
        for side in feature_hw:
            count *= -(-side // 4)
        self.shrink = shrinking(dim, self.WIDTH)
        last = nn.Linear(dim, dim)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.read = nn.Sequential(nn.Linear(count, dim), nn.ReLU(), last)

    def forward(self, images: Tensor) -> Tensor:
        """images [B, CAMERAS, D, rows, columns] of the finest features -> [B, D]. ValueError for another number of cells."""
        if tuple(images.shape[-2:]) != self.feature_hw:
            raise ValueError(
                f"native.plan_image_patch is {self.feature_hw}, and these images have features of {tuple(images.shape[-2:])}: "
                "a model with it takes images of one size"
            )
        return self.read(self.shrink(images.flatten(0, 1)).unflatten(0, images.shape[:2]).flatten(1))


class PlanHead(nn.Module):
    """Where the ego car drives within three seconds, given where it wants to go. A collision optimiser may follow outside."""

    def __init__(self, spec: PlanSpec) -> None:
        super().__init__()
        self.spec = spec
        dim = spec.embed_dims
        self.navi_embed = nn.Embedding(spec.num_commands, dim)
        self.reg_branch = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, spec.steps * 2))
        self.attn_module = PlanDecoder(spec.num_layers, dim, spec.num_heads, spec.ffn_dims or 2 * dim, spec.dropout)
        self.mlp_fuser = nn.Sequential(nn.Linear(3 * dim, dim), nn.LayerNorm(dim), nn.ReLU())
        self.pos_embed = nn.Embedding(1, dim)
        if spec.ego_status:
            self.status_mlp = nn.Sequential(nn.Linear(len(STATUS), dim), nn.ReLU(), nn.Linear(dim, dim))
        if spec.motion_prior:
            self.motion_prior = MotionPrior(spec.steps)
        if spec.bev_patch:
            self.patch_ahead = PatchAhead(dim, spec.bev_hw)
        if spec.image_patch:
            self.images_ahead = ImagesAhead(dim, spec.image_patch)
        if spec.with_adapter:
            self.bev_adapter = nn.Sequential(*(adapter_block(dim) for _ in range(3)))

    def forward(
        self,
        bev: Tensor,
        bev_pos: Tensor,
        motion: MotionOutput,
        command: Tensor,
        can_bus: Tensor | None = None,
        images: Tensor | None = None,
    ) -> PlanOutput:
        """bev [B, S, D]; bev_pos [1 or B, S, D]; motion with the ego car in the last agent slot; command [B] integer, a
        number of the vocabulary's (see ``command.check_command``; here values outside are clamped); can_bus [B, 18] as in
        ``Frame``, needed for ``ego_status`` and ``motion_prior`` alone; images as ``ImagesAhead`` takes them, needed for
        ``image_patch``."""
        query = self.ego_query(motion.traj_query[-1][:, -1], motion.query[:, -1], command)
        if self.spec.ego_status:
            assert can_bus is not None
            query = query + self.known(self.status(can_bus))[:, None].to(query.dtype)
        if self.spec.bev_patch:
            query = query + self.patch_ahead(bev)[:, None].to(query.dtype)
        if self.spec.image_patch:
            assert images is not None
            query = query + self.images_ahead(images)[:, None].to(query.dtype)
        return PlanOutput(self.trajectory(self.attend(query, bev, bev_pos), can_bus))

    def modes(self, traj_query: Tensor, track_query: Tensor, command: Tensor) -> Tensor:
        """What each of the ego car's motion modes makes of the command: [B, K, D].

        traj_query [B, K, D] of the last motion layer; track_query [B, D], which planning does not teach; command [B].
        """
        count = traj_query.shape[1]
        navigation = self.navi_embed(command.long().clamp(0, self.spec.num_commands - 1))
        shared = torch.stack([track_query.detach(), navigation.to(track_query.dtype)], 1).flatten(1)
        return self.mlp_fuser(torch.cat([traj_query, shared[:, None].expand(-1, count, -1).to(traj_query.dtype)], -1))

    def ego_query(self, traj_query: Tensor, track_query: Tensor, command: Tensor) -> Tensor:
        """Arguments as for ``modes``; each feature from the mode where it is strongest. [B, 1, D]"""
        return self.modes(traj_query, track_query, command).amax(1, keepdim=True) + self.pos_embed.weight

    def status(self, can_bus: Tensor) -> Tensor:
        """What the car's own motion says, [B, 18] -> [B, D]. In fp32: at 8 m/s bf16 is 3 cm/s wide."""
        with full_precision(can_bus):
            columns = can_bus.float()
            motion = torch.stack([columns[:, i] / scale for i, scale in zip(STATUS, STATUS_SCALE)], -1)
            return self.status_mlp(motion)

    def known(self, status: Tensor) -> Tensor:
        """[B, D] with some rows of a training step zeroed. Who always knows how it moves goes on like that instead of looking."""
        rows = F.dropout(torch.ones_like(status[:, :1]), self.spec.status_dropout, self.training)
        return status * (rows > 0)

    def memory(self, bev: Tensor, bev_pos: Tensor) -> Tensor:
        """What the query looks at: BEV with position, adapted where the model has an adapter. [B, S, D]"""
        feat = bev + bev_pos.to(bev.dtype)
        if not self.spec.with_adapter:
            return feat
        grid = feat.transpose(1, 2).unflatten(2, self.spec.bev_hw)
        return (grid + self.bev_adapter(grid)).flatten(2).transpose(1, 2)

    def attend(self, query: Tensor, bev: Tensor, bev_pos: Tensor) -> Tensor:
        """The ego query [B, 1, D] after it has seen the BEV."""
        return self.attn_module(query, self.memory(bev, bev_pos))

    def trajectory(self, query: Tensor, can_bus: Tensor | None = None) -> Tensor:
        """[B, 1, D] -> [B, steps, 2] metres, lidar frame. The head regresses steps, or what they differ from those of
        ``motion_prior`` by, which reads can_bus [B, 18]; their sum is the path.

        In fp32 even under autocast: bf16 tells apart 12 cm at 30 m.
        """
        with full_precision(query):
            steps = self.reg_branch(query.float()).unflatten(-1, (self.spec.steps, 2)).squeeze(1)
            if self.spec.motion_prior:
                assert can_bus is not None
                steps = steps + self.motion_prior(can_bus.float())
            return torch.stack(list(accumulate(steps.unbind(1))), 1)  # engines of JetPack 5 know no CumSum
