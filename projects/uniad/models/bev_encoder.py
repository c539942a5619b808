"""BEVFormer encoder (Li et al. 2022): camera features and the BEV of the frame before become the BEV of now.

Axis letters as in types.py, and Z: points of a BEV cell's pillar. ``grid_hw`` is the BEV grid (rows, columns).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from uniad.config.spec import UNIAD_V2, BevSpec
from uniad.interface.pillars import MIN_DEPTH, camera_slots
from uniad.models.decoder import DetectionDecoder
from uniad.models.layers import FFN, init_linear, init_sampling, linear_of
from uniad.models.precision import full_precision
from uniad.ops.camera_attention import camera_attention
from uniad.ops.deformable_attention import SpatialShapes, deformable_attention, level_sizes
from uniad.ops.rotate import rotate_bev

FAR_OUTSIDE = 1e3  # image widths; keeps the coordinates of points beside a camera finite in a half-precision engine


class TemporalSelfAttention(nn.Module):
    """Each cell reads the BEV before and the current one, a few points each; the two results are averaged."""

    def __init__(self, spec: BevSpec) -> None:
        super().__init__()
        self.num_heads, self.num_points = spec.num_heads, spec.tsa_points
        dim, samples = spec.embed_dims, 2 * spec.num_heads * spec.tsa_points
        self.sampling_offsets = nn.Linear(2 * dim, 2 * samples)
        self.attention_weights = nn.Linear(2 * dim, samples)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self.dropout = nn.Dropout(spec.dropout)
        self.init_weights()

    def init_weights(self) -> None:
        init_sampling(self, 2)

    def forward(
        self, query: Tensor, before: Tensor, now: Tensor, bev_pos: Tensor, ref: Tensor, grid_hw: tuple[int, int]
    ) -> Tensor:
        """query, before, now: [B, S, D]; bev_pos: [B or 1, S, D]; ref: where each cell looks, fractions of the BEV, in ``before``
        and in ``now`` [B, S, 2, 2], or in both alike [B, S, 1, 2]. Returns [B, S, D]."""
        heads, points = self.num_heads, self.num_points
        both = torch.cat([before, query + bev_pos], -1)
        offset = self.sampling_offsets(both).unflatten(-1, (heads, 2, points, 2)).float()
        weight = self.attention_weights(both).unflatten(-1, (heads, 2, points)).float().softmax(-1)
        loc = ref[:, :, None, :, None] + offset / level_sizes((grid_hw,), query.device)[0]
        # The two BEVs are two levels of one attention; halving the weights makes their sum a mean.
        value = self.value_proj(torch.cat([before, now], 1)).unflatten(-1, (heads, -1))
        out = deformable_attention(value, (grid_hw, grid_hw), loc, weight * 0.5)
        return query + self.dropout(self.output_proj(out))


class _CameraSampling(nn.Module):
    """The parameters that published checkpoints keep under ``deformable_attention``."""

    def __init__(self, spec: BevSpec) -> None:
        super().__init__()
        self.num_heads, self.num_levels, self.num_points = spec.num_heads, spec.num_levels, spec.sca_points
        dim, samples = spec.embed_dims, spec.num_heads * spec.num_levels * spec.sca_points
        self.sampling_offsets = nn.Linear(dim, 2 * samples)
        self.attention_weights = nn.Linear(dim, samples)
        self.value_proj = nn.Linear(dim, dim)
        self.init_weights()

    def init_weights(self) -> None:
        init_sampling(self, self.num_levels)

    def forward(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """query [B, S, D] -> offsets in pixels [B, S, heads, L, P, 2], weights [B, S, heads, L, P]"""
        heads, levels, points = self.num_heads, self.num_levels, self.num_points
        offset = self.sampling_offsets(query).unflatten(-1, (heads, levels, points, 2)).float()
        weight = self.attention_weights(query).unflatten(-1, (heads, levels * points)).float().softmax(-1)
        return offset, weight.unflatten(-1, (levels, points))


class SpatialCrossAttention(nn.Module):
    """Each cell reads the cameras that see its pillar, around the pixels where the pillar's points fall."""

    def __init__(self, spec: BevSpec) -> None:
        super().__init__()
        self.deformable_attention = _CameraSampling(spec)
        self.output_proj = nn.Linear(spec.embed_dims, spec.embed_dims)
        self.dropout = nn.Dropout(spec.dropout)
        self.slots = camera_slots(spec)
        self.init_weights()

    def init_weights(self) -> None:
        init_linear(self.output_proj)

    def forward(
        self,
        query: Tensor,
        feats_BNVD: Tensor,
        spatial_shapes: SpatialShapes,
        ref_BNSZ2: Tensor,
        hit_BNS: Tensor,
        grid_hw: tuple[int, int],
    ) -> Tensor:
        """query [B, S, D]; see ``camera_attention`` for the others. Returns [B, S, D]."""
        sampling = self.deformable_attention
        offset, weight = sampling(query)
        value = sampling.value_proj(feats_BNVD).unflatten(-1, (sampling.num_heads, -1))
        out = camera_attention(value, spatial_shapes, ref_BNSZ2, hit_BNS, offset, weight, grid_hw, self.slots)
        return query + self.dropout(self.output_proj(out))


class BevEncoderLayer(nn.Module):
    def __init__(self, spec: BevSpec) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([TemporalSelfAttention(spec), SpatialCrossAttention(spec)])
        self.ffns = nn.ModuleList([FFN(spec.embed_dims, spec.ffn_dims, spec.ffn_dropout)])
        self.norms = nn.ModuleList(nn.LayerNorm(spec.embed_dims) for _ in range(3))

    def forward(self, query: Tensor, temporal: tuple, spatial: tuple, grid_hw: tuple[int, int]) -> Tensor:
        query = self.norms[0](self.attentions[0](query, *temporal, grid_hw))
        query = self.norms[1](self.attentions[1](query, *spatial, grid_hw))
        return self.norms[2](self.ffns[0](query))


class BevEncoder(nn.Module):
    def __init__(self, spec: BevSpec) -> None:
        super().__init__()
        self.spec = spec
        self.layers = nn.ModuleList(BevEncoderLayer(spec) for _ in range(spec.num_layers))
        pillars, cells = pillar_points(spec)
        self.register_buffer("pillars_SZ3", pillars, persistent=False)
        self.register_buffer("cells_S2", cells, persistent=False)

    def forward(
        self,
        query: Tensor,
        bev_pos: Tensor,
        prev_bev: Tensor,
        has_prev_bev: Tensor,
        shift_B2: Tensor,
        feats_BNVD: Tensor,
        spatial_shapes: SpatialShapes,
        lidar2img: Tensor,
        img_hw: tuple[int, int],
    ) -> Tensor:
        """query [B, S, D]; bev_pos [B or 1, S, D]; prev_bev [B, S, D] in the axes of now; has_prev_bev [B] bool; shift_B2:
        motion of the car as fraction of the BEV; feats_BNVD: all levels one after the other. Returns [B, S, D]."""
        grid_hw = (self.spec.height, self.spec.width)
        with full_precision(query):
            ref_cam, hit = project_pillars(self.pillars_SZ3, lidar2img, img_hw)
            if not self.spec.shift_now:  # without a BEV before, both are the current one
                shift_B2 = torch.where(has_prev_bev[:, None], shift_B2, torch.zeros_like(shift_B2))
            shifted = self.cells_S2[None] + shift_B2[:, None].float()
            # UniAD v1 shifts a tensor that both BEVs share, so it reads the current one beside the cell, too.
            both = [shifted] if self.spec.shift_now else [shifted, self.cells_S2.expand_as(shifted)]
            ref = torch.stack(both, 2)
        has_prev = has_prev_bev[:, None, None]
        first = query
        for layer in self.layers:
            # Without a BEV before, a layer reads its own query twice; with one, the query that the first layer got.
            before = torch.where(has_prev, prev_bev, query)
            now = torch.where(has_prev, first, query)
            temporal = (before, now, bev_pos, ref)
            spatial = (feats_BNVD, spatial_shapes, ref_cam, hit)
            query = layer(query, temporal, spatial, grid_hw)
        return query


class PerceptionTransformer(nn.Module):
    """What stands at ``pts_bbox_head.transformer`` in published checkpoints: BEV encoder, its embeddings, and the detection
    decoder, which the caller builds and runs."""

    def __init__(self, spec: BevSpec, decoder: DetectionDecoder) -> None:
        super().__init__()
        self.spec = spec
        dim = spec.embed_dims
        self.encoder = BevEncoder(spec)
        self.decoder = decoder
        # Four levels even where fewer are fed: published tiny checkpoints hold four.
        self.level_embeds = nn.Parameter(torch.empty(max(4, spec.num_levels), dim))
        self.cams_embeds = nn.Parameter(torch.empty(spec.num_cams, dim))
        self.can_bus_mlp = nn.Sequential(
            nn.Linear(18, dim // 2), nn.ReLU(), nn.Linear(dim // 2, dim), nn.ReLU()
        )
        self.can_bus_mlp.add_module("norm", nn.LayerNorm(dim))
        self.init_weights()

    def init_weights(self) -> None:
        """Every matrix below this module starts Xavier-uniform, then each attention as its paper says."""
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.xavier_uniform_(p)
        for module in self.modules():
            init: Any = getattr(module, "init_weights", None)
            if module is not self and init is not None:
                init()
        nn.init.normal_(self.level_embeds)
        nn.init.normal_(self.cams_embeds)
        init_linear(linear_of(self.can_bus_mlp, 0))
        init_linear(linear_of(self.can_bus_mlp, 2))

    def bev_features(
        self,
        feats: list[Tensor],
        bev_query: Tensor,
        bev_pos: Tensor,
        prev_bev: Tensor,
        has_prev_bev: Tensor,
        can_bus: Tensor,
        lidar2img: Tensor,
        img_hw: tuple[int, int],
        l2g_r: Tensor | None = None,
    ) -> Tensor:
        """Encode one frame.

        feats: one [B, N, D, h, w] per level; bev_query: [S, D]; bev_pos: [D, h, w] or [B, D, h, w]; prev_bev: [B, S, D] in the
        axes of the frame before; has_prev_bev: [B] bool; can_bus: [B, 18] with position (0:3, metres, global axes) and heading
        (17, degrees) as differences to the frame before, heading 16 (radians) absolute; lidar2img: [B, N, 4, 4];
        img_hw: pixels of the padded image; l2g_r: [B, 3, 3] as ``Frame`` has it, for the shift of UniAD v2 alone. Returns
        [B, S, D] float32.
        """
        spec, b = self.spec, lidar2img.shape[0]
        can_bus = can_bus.float()
        with full_precision(can_bus):
            shift = bev_shift(can_bus, spec, l2g_r) if spec.use_shift else torch.zeros_like(can_bus[:, :2])
            query = bev_query.float()[None].expand(b, -1, -1)
            if spec.use_can_bus:
                query = query + self.can_bus_mlp(can_bus)[:, None]
        if spec.rotate_prev_bev:
            prev_bev = rotate_bev(prev_bev, can_bus[:, 17], (spec.height, spec.width), spec.rotate_center)
        # The residual stream stays fp32 under autocast; only the projections and what they read are half.
        bev_pos = (bev_pos if bev_pos.dim() == 4 else bev_pos[None]).flatten(2).transpose(1, 2)
        flat = [f.flatten(3).transpose(2, 3) + self.level_embeds[i].to(f.dtype) for i, f in enumerate(feats)]
        feats_BNVD = torch.cat(flat, 2) + self.cams_embeds[:, None].to(feats[0].dtype)
        shapes = tuple((f.shape[-2], f.shape[-1]) for f in feats)
        return self.encoder(
            query, bev_pos, prev_bev, has_prev_bev.bool(), shift, feats_BNVD, shapes, lidar2img, img_hw
        ).float()


def bev_shift(can_bus: Tensor, spec: BevSpec, l2g_r: Tensor | None = None) -> Tensor:
    """How far the car moved since the frame before, as fractions of the BEV (x, y). can_bus [B, 18] -> [B, 2].

    UniAD v1's angle algebra (heading minus direction of travel) reduces to a rotation of the global translation, which needs
    no arc tangent. v2 multiplies the translation by the inverse of l2g_r [B, 3, 3]; since that matrix is stored transposed
    and its inverse is its transpose, the translation turns by the lidar's rotation once more, not back. Its weights learnt that.
    """
    if spec.shift_rule == UNIAD_V2:
        assert l2g_r is not None
        x, y = (l2g_r.float() * can_bus[:, :3, None]).sum(1)[:, :2].unbind(-1)
    else:
        dx, dy, heading = can_bus[:, 0], can_bus[:, 1], can_bus[:, 16]
        cos, sin = heading.cos(), heading.sin()
        x, y = dx * sin - dy * cos, dx * cos + dy * sin
    return torch.stack([x / (spec.pc_range[3] - spec.pc_range[0]), y / (spec.pc_range[4] - spec.pc_range[1])], -1)


def pillar_points(spec: BevSpec) -> tuple[Tensor, Tensor]:
    """Centres of the points of every cell's pillar [S, Z, 3] in metres, lidar frame, and of the cells [S, 2] as fractions."""
    x0, y0, z0, x1, y1, z1 = spec.pc_range
    h, w, levels = spec.height, spec.width, spec.points_in_pillar
    # Upstream's code spaces the points half a metre from bottom and top of the range, whatever their number.
    z = torch.linspace(0.5, z1 - z0 - 0.5, levels) / (z1 - z0)
    x, y = torch.linspace(0.5, w - 0.5, w) / w, torch.linspace(0.5, h - 0.5, h) / h
    ys, xs, zs = torch.meshgrid(y, x, z, indexing="ij")
    points = torch.stack([xs * (x1 - x0) + x0, ys * (y1 - y0) + y0, zs * (z1 - z0) + z0], -1)
    cells = torch.stack([xs, ys], -1)[:, :, 0]
    return points.flatten(0, 1), cells.flatten(0, 1).contiguous()


def project_pillars(points_SZ3: Tensor, lidar2img: Tensor, img_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Where pillars fall in each camera: fractions of (width, height) [B, N, S, Z, 2], and whether any point of the pillar is
    seen [B, N, S] bool."""
    seen, ref = _project(points_SZ3, lidar2img, img_hw)
    return ref, seen.float().amax(-1) > 0.5  # any() would leave as a 64-bit reduction


def _project(points_SZ3: Tensor, lidar2img: Tensor, img_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
    # Written out instead of a matrix product: TF32 would move points by a pixel and flip cells at image borders.
    matrix = lidar2img.float()[:, :, None, None]  # [B, N, 1, 1, 4, 4]
    x, y, z = points_SZ3.unbind(-1)
    u, v, depth = (
        matrix[..., i, 0] * x + matrix[..., i, 1] * y + matrix[..., i, 2] * z + matrix[..., i, 3] for i in range(3)
    )
    scale = depth.clamp(min=MIN_DEPTH)
    u, v = u / scale / img_hw[1], v / scale / img_hw[0]
    seen = (depth > MIN_DEPTH) & (u > 0.0) & (u < 1.0) & (v > 0.0) & (v < 1.0)
    return seen, torch.stack([u, v], -1).clamp(-FAR_OUTSIDE, FAR_OUTSIDE)
