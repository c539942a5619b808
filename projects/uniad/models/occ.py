"""Occupancy head: where each vehicle is and will be, as a mask per agent and future step on a bird's-eye-view grid.

UniAD section 3.3 (Hu et al. 2023). A BEV state steps through time; in every step its cells attend to the agents whose own
rough mask covers them, so that scene features and agents shape each other. An agent's occupancy is the product of its query
with the state, decoded to the grid's resolution.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from uniad.config.spec import OccSpec
from uniad.geometry.grid import BevGrid
from uniad.geometry.nuscenes import STEP_S
from uniad.interface.types import Agents, MotionOutput, OccOutput
from uniad.models.layers import linear_of
from uniad.models.occ_layers import (
    MLP,
    CellTransformer,
    DenseDecoder,
    GridSlicer,
    HalvingBottleneck,
    LightProjection,
    UpsampleAdd,
    resize,
)
from uniad.models.precision import full_precision


class OccRaw(NamedTuple):
    """What the losses compare; F' = now and the future steps, on the head's grid."""

    logits: Tensor  # [B, A, F', h, w]
    mask_logits: Tensor | None  # [B, A, F', h, w] the rough masks that steer the attention, enlarged; None at inference
    valid: Tensor  # [B, A] bool, agents that take part


def _clones(module: nn.Module, count: int) -> nn.ModuleList:
    """Copies that start equal, as upstream's model's do."""
    return nn.ModuleList([copy.deepcopy(module) for _ in range(count)])


class OccHead(nn.Module):
    def __init__(self, spec: OccSpec) -> None:
        super().__init__()
        self.spec = spec
        grid = BevGrid.from_bounds(spec.xbound, spec.ybound)
        self.grid_hw = grid.shape
        assert spec.slice_bev or grid.shape == tuple(spec.bev_hw), f"{grid.shape} grid on an uncut BEV of {spec.bev_hw} cells"
        dim, query, track = spec.proj_dims, spec.query_dims, spec.bev_dims  # tracks are as wide as the BEV
        self.num_steps = spec.n_future + 1
        self.layers_per_step, rest = divmod(spec.num_layers, self.num_steps)
        assert self.layers_per_step and not rest, f"{spec.num_layers} layers for {self.num_steps} frames"
        self.slicer = GridSlicer(spec.bev_hw, spec.bev_centres, grid) if spec.slice_bev else None
        self.bev_light_proj = (
            LightProjection(spec.bev_dims, dim, spec.proj_layers) if spec.proj_layers else nn.Sequential()
        )
        self.base_downscale = nn.Sequential(HalvingBottleneck(dim), HalvingBottleneck(dim))
        self.transformer_decoder = CellTransformer(spec.embed_dims, spec.num_heads, spec.ffn_dims, spec.num_layers)
        self.temporal_mlps = _clones(MLP(query, query, dim, 2), self.num_steps)
        self.downscale_convs = _clones(HalvingBottleneck(dim), self.num_steps)
        self.upsample_adds = _clones(UpsampleAdd(dim), self.num_steps)
        self.dense_decoder = DenseDecoder(dim)
        self.mode_fuser = nn.Sequential(nn.Linear(track, dim), nn.LayerNorm(dim), nn.ReLU())
        self.multi_query_fuser = nn.Sequential(
            nn.Linear(dim + track * 2, query * 2), nn.LayerNorm(query * 2), nn.ReLU(), nn.Linear(query * 2, dim)
        )
        self.query_to_occ_feat = MLP(query, query, dim, spec.query_mlp_layers)
        self.temporal_mlp_for_mask = copy.deepcopy(self.query_to_occ_feat)
        if spec.cell_features:
            self.cell_proj = nn.Sequential(nn.Conv2d(spec.bev_dims, 2 * dim, 1), nn.ReLU(), nn.Conv2d(2 * dim, dim, 1))
        if spec.draw_boxes:
            self.box_drawer = BoxDrawer(dim, self.num_steps, grid)

    def forward(
        self, bev: Tensor, motion: MotionOutput, agents: Agents, vehicle: Tensor, bev_pos: Tensor | None = None
    ) -> OccOutput:
        """Occupancy of a step.

        bev: [B, S, D]; vehicle: [B, A] bool, the agent slots that take part (tracked vehicles, never the ego car). A sample
        without any has an empty grid. bev_pos: [1 or B, S, D], needed for ``cell_features`` alone.
        """
        return self.read(self.predict(bev, motion, agents, vehicle, bev_pos, with_masks=False), agents.score)

    def predict(
        self,
        bev: Tensor,
        motion: MotionOutput,
        agents: Agents,
        vehicle: Tensor,
        bev_pos: Tensor | None = None,
        with_masks: bool = True,
    ) -> OccRaw:
        """Logits before any threshold, arguments as in ``forward``. Training needs the rough masks; inference does not."""
        valid = vehicle & agents.valid
        query = self.fuse(motion, valid)
        raw = self.roll_out(bev, query, valid, bev_pos, with_masks)
        if self.spec.draw_boxes:
            raw = raw._replace(logits=raw.logits + self.box_drawer(agents.boxes, query))
        return raw

    def read(self, raw: OccRaw, score: Tensor) -> OccOutput:
        """Thresholded masks from logits. score: [B, A] of the tracks."""
        prob = raw.logits.float().sigmoid()
        if self.spec.test_with_track_score:
            prob = prob * score.float()[:, :, None, None, None]
        prob = prob.masked_fill(~raw.valid[:, :, None, None, None], 0.0)
        seg = (prob.amax(1) > self.spec.test_seg_thresh).int()
        return OccOutput(logits=raw.logits, valid=raw.valid, prob=prob, seg=seg, ids=claim_cells(prob, seg))

    def fuse(self, motion: MotionOutput, valid: Tensor) -> Tensor:
        """One query an agent [B, A, D], from its futures, its track and its position (which learns nothing here).

        Slots that are not valid count as zeros, as upstream's model feeds one query of zeros when it has none.
        """
        empty = ~valid[..., None]
        mode = self.mode_fuser(motion.traj_query[-1].masked_fill(empty[..., None], 0.0)).amax(2)
        track = motion.query.masked_fill(empty, 0.0)
        pos = motion.query_pos.detach().masked_fill(empty, 0.0)
        return self.multi_query_fuser(torch.cat([mode, track.to(mode.dtype), pos.to(mode.dtype)], dim=-1))

    def roll_out(
        self, bev: Tensor, query: Tensor, valid: Tensor, bev_pos: Tensor | None = None, with_masks: bool = True
    ) -> OccRaw:
        """bev: [B, S, D]; query: [B, A, D] of ``fuse``; valid: [B, A] bool; bev_pos: [1 or B, S, D] for ``cell_features``."""
        state = self._cut(bev)
        cells = None
        if self.spec.cell_features:
            assert bev_pos is not None
            cells = self.cell_proj(self._cut(bev + bev_pos.to(bev.dtype)))
        state = self.base_downscale(self.bev_light_proj(state))  # a quarter of the grid's resolution
        states, embeddings, masks = [], [], []
        for step in range(self.num_steps):
            state, embedding, mask = self._advance(step, state, query, valid)
            states.append(state)
            embeddings.append(embedding)
            if with_masks:
                masks.append(resize(mask, self.grid_hw))
        dense = resize(self.dense_decoder(torch.stack(states, 1).flatten(0, 1)), self.grid_hw)
        if cells is not None:  # the same in every step: what moves is where the agents look
            dense = (dense.unflatten(0, (-1, self.num_steps)) + cells[:, None]).flatten(0, 1)
        agent = self.query_to_occ_feat(torch.stack(embeddings, 1))  # [B, F', A, D]
        logits = _dot(agent.flatten(0, 1), dense).unflatten(0, (-1, self.num_steps)).transpose(1, 2)
        return OccRaw(logits, torch.stack(masks, 2) if with_masks else None, valid)

    def _cut(self, bev: Tensor) -> Tensor:
        """[B, S, D] -> the part under the head's grid, [B, D, h, w]"""
        grid = bev.transpose(1, 2).unflatten(2, self.spec.bev_hw)
        return grid if self.slicer is None else self.slicer(grid)

    def _advance(self, step: int, state: Tensor, query: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The state one step on [B, D, h/4, w/4], the agents' mask embeddings [B, A, D] and rough masks [B, A, h/8, w/8].

        The queries of every step come from the same agents' queries, not from those of the step before.
        """
        coarse = self.downscale_convs[step](state)
        agents = self.temporal_mlps[step](query)
        embedding = self.temporal_mlp_for_mask(agents)
        mask = _dot(embedding, coarse)
        blocked = self._blocked(mask, valid)
        cells = coarse.flatten(2).transpose(1, 2)
        first = step * self.layers_per_step
        for layer in self.transformer_decoder.layers[first : first + self.layers_per_step]:
            cells = layer(cells, agents, blocked)
        coarse = cells.transpose(1, 2).unflatten(2, coarse.shape[-2:])
        return self.upsample_adds[step](coarse, state), embedding, mask

    def _blocked(self, mask: Tensor, valid: Tensor) -> Tensor:
        """[B, S, A] bool: a cell looks only at agents that may cover it, or at all of them if none does."""
        absent = ~valid[:, None, :]
        outside = (mask.detach().float().sigmoid() < self.spec.attn_mask_thresh).flatten(2).transpose(1, 2) | absent
        return absent | (outside & ~outside.all(-1, keepdim=True))


class BoxDrawer(nn.Module):
    """Logits of the cells that an agent's box covers where its velocity takes it, corrected by what its query knows.

    A box says to centimetres what a mask on coarse cells has to be learnt for. Beyond ``REACH`` cells from the box's edge the
    logits fall no further, so that what the head has learnt still counts there.
    """

    GAIN = 4.0  # logit per cell of distance from the edge, at first
    REACH = 2.0

    def __init__(self, dim: int, num_steps: int, grid: BevGrid) -> None:
        super().__init__()
        self.num_steps, self.cell = num_steps, (grid.cell_x, grid.cell_y)
        # Labels are polygons between the cell edges nearest to a box's corners, filled with their border (``BevGrid.cell_of``,
        # ``draw_instances``): a cell stands for its lower edge, and a box reaches half a cell further.
        self.register_buffer("x", grid.x_min + grid.cell_x * torch.arange(grid.columns).float(), persistent=False)
        self.register_buffer("y", grid.y_min + grid.cell_y * torch.arange(grid.rows).float(), persistent=False)
        self.correction = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, num_steps * 3))  # m, m, rad
        last = linear_of(self.correction, -1)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.log_gain = nn.Parameter(torch.full((num_steps,), self.GAIN).log())
        self.margin = nn.Parameter(torch.full((num_steps,), 0.5))  # cells

    def forward(self, boxes: Tensor, query: Tensor) -> Tensor:
        """boxes: [B, A, 9] box9 of now, lidar frame; query: [B, A, D]. Returns [B, A, F', h, w]."""
        with full_precision(boxes):
            moved = self.correction(query.float()).unflatten(-1, (self.num_steps, 3))
            x, y, _, width, length, _, yaw, vx, vy = boxes.detach().float()[:, :, None].unbind(-1)  # [B, A, 1] each
            time_s = STEP_S * torch.arange(self.num_steps, device=boxes.device, dtype=moved.dtype)
            x, y, yaw = x + vx * time_s + moved[..., 0], y + vy * time_s + moved[..., 1], yaw + moved[..., 2]
            # In units of the logit, so that few operations touch every cell of every agent. cos and sin turn clockwise, as yaw.
            gain = self.log_gain.exp()
            across, along = (self._scaled(yaw, x, y, gain, quarter) for quarter in (False, True))
            edge = [gain * (0.5 * side / max(self.cell) + self.margin) for side in (width, length)]
            inside = torch.minimum(edge[0][..., None, None] - across.abs(), edge[1][..., None, None] - along.abs())
            return inside.clamp(min=-self.REACH * self.GAIN)

    def _scaled(self, yaw: Tensor, x: Tensor, y: Tensor, gain: Tensor, along: bool) -> Tensor:
        """How far every cell lies from a box's middle, along its length or across, in cells times ``gain``. [B, A, F', h, w]"""
        scale = gain / max(self.cell)
        cos, sin = yaw.cos() * scale, yaw.sin() * scale
        by_x, by_y = (sin, cos) if along else (cos, -sin)
        columns = by_x[..., None] * self.x - (by_x * x + by_y * y)[..., None]
        return columns[..., None, :] + (by_y[..., None] * self.y)[..., None]


def _dot(query: Tensor, features: Tensor) -> Tensor:
    """Product of every query with every cell: [N, A, D], [N, D, h, w] -> [N, A, h, w]."""
    return torch.matmul(query, features.flatten(2)).unflatten(2, features.shape[-2:])


def claim_cells(prob: Tensor, seg: Tensor) -> Tensor:
    """Which agent each occupied cell belongs to: 1 + the slot of the likeliest, 0 where free, int32 [B, F', h, w].

    prob: [B, A, F', h, w]; seg: [B, F', h, w], 1 where occupied. A slot is one agent in all frames, so ids are consistent.
    """
    return seg.int() * (prob.argmax(1).int() + 1)
