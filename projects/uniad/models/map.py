"""Map head: Panoptic SegFormer on the bird's-eye view (Li et al. 2022; UniAD section 3.1).

An encoder refines the BEV by deformable attention to itself; a decoder lets queries find map elements and refines a box around
each; mask heads (``map_masks``) turn queries into masks; ``map_select`` turns those into a map. Parameter names are the
upstream ones, under ``seg_head.``.

Boxes live on the canvas: x is the BEV column and y the BEV row, both as fractions.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from uniad.config.spec import MapSpec
from uniad.interface.types import MapOutput
from uniad.models.layers import (
    BIAS_OF_PRIOR,
    FFN,
    DeformableAttention,
    ModuleListOf,
    ResidualAttention,
    init_linear,
    inverse_sigmoid,
    linear_of,
    sine_position,
)
from uniad.models.map_masks import MaskHead, Masks, cell_masks_to_canvas
from uniad.models.map_select import best_pairs, mask_quality, merge_lanes
from uniad.models.precision import full_precision
from uniad.models.track import take_rows


class MapQueries(NamedTuple):
    """What the location decoder found: R map queries, L decoder layers."""

    cls: Tensor  # [L, B, R, C] logits of the thing classes
    boxes: Tensor  # [L, B, R, 4] cx cy w h, fractions of the canvas
    memory: Tensor  # [B, S, D] refined BEV
    memory_pos: Tensor  # [B, S, D] position code of its cells
    query: Tensor  # [B, R, D] features after the last layer
    query_pos: Tensor  # [B, R, D]
    reference: Tensor  # [B, R, 2 or 4] inverse sigmoid of what the last layer refined (2 if there is one layer)


class LearntMasks(NamedTuple):
    """Masks of K thing queries and of the stuff classes after every mask layer, for losses. L and L' mask layers."""

    things: list[Tensor]  # L + 1 times [B, K, h, w] float32; the last is what the head is asked for
    thing_cls: list[Tensor]  # L times [B, K, C] logits; upstream trains them with weight 0
    thing_boxes: list[Tensor]  # L times [B, K, 4], likewise
    stuff: list[Tensor]  # L' + 1 times [B, num_stuff, h, w] float32
    stuff_cls: list[Tensor]  # L' times [B, num_stuff, 1] logits: is the class there?


class EncoderLayer(nn.Module):
    def __init__(self, spec: MapSpec) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([_bev_attention(spec)])
        self.ffns = nn.ModuleList([FFN(spec.embed_dims, spec.ffn_dims, spec.ffn_dropout)])
        self.norms = nn.ModuleList([nn.LayerNorm(spec.embed_dims) for _ in range(2)])

    def forward(self, x_BSD: Tensor, pos: Tensor, reference: Tensor, bev_hw: tuple[int, int]) -> Tensor:
        x = self.norms[0](self.attentions[0](x_BSD, x_BSD, reference, (bev_hw,), query_pos=pos))
        return self.norms[1](self.ffns[0](x))


class DecoderLayer(nn.Module):
    def __init__(self, spec: MapSpec) -> None:
        super().__init__()
        own = ResidualAttention(spec.embed_dims, spec.num_heads, spec.dropout)
        self.attentions = nn.ModuleList([own, _bev_attention(spec)])
        self.ffns = nn.ModuleList([FFN(spec.embed_dims, spec.ffn_dims, spec.ffn_dropout)])
        self.norms = nn.ModuleList([nn.LayerNorm(spec.embed_dims) for _ in range(3)])

    def forward(self, x_BRD: Tensor, pos: Tensor, memory: Tensor, reference: Tensor, bev_hw: tuple[int, int]) -> Tensor:
        x = self.norms[0](self.attentions[0](x_BRD, query_pos=pos))
        x = self.norms[1](self.attentions[1](x, memory, reference[:, :, None], (bev_hw,), query_pos=pos))
        return self.norms[2](self.ffns[0](x))


class Layers(nn.Module):
    """A stack; its name is part of upstream's parameter names."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)


class MapTransformer(nn.Module):
    """Parameters of encoder and decoder; ``MapHead`` runs them."""

    def __init__(self, spec: MapSpec) -> None:
        super().__init__()
        self.level_embeds = nn.Parameter(torch.empty(4, spec.embed_dims))  # upstream's 4, of which one is used
        self.encoder = Layers([EncoderLayer(spec) for _ in range(spec.encoder_layers)])
        self.decoder = Layers([DecoderLayer(spec) for _ in range(spec.decoder_layers)])
        self.reference_points = nn.Linear(spec.embed_dims, 2)


class MapHead(nn.Module):
    """``forward`` makes a map of a BEV: ``queries`` finds elements, ``select`` masks, sorts and merges the best.

    Losses take ``queries`` and, of those that answer for an element, ``learnt_masks``.
    """

    def __init__(self, spec: MapSpec) -> None:
        super().__init__()
        self.spec = spec
        dim, layers = spec.embed_dims, range(spec.decoder_layers)
        h, w = spec.bev_hw
        self.transformer = MapTransformer(spec)
        self.bev_embedding = nn.Embedding(h * w, dim)  # never used; published checkpoints carry it
        self.cls_branches: ModuleListOf[nn.Linear] = ModuleListOf([nn.Linear(dim, spec.num_things) for _ in layers])
        self.reg_branches: ModuleListOf[nn.Sequential] = ModuleListOf([_box_branch(dim) for _ in layers])
        self.query_embedding = nn.Embedding(spec.num_query, 2 * dim)  # position half, feature half
        self.stuff_query = nn.Embedding(spec.num_stuff, 2 * dim)  # feature half, position half
        things = range(spec.things_mask_layers)
        # These two are trained with weight 0 only.
        self.reg_branches2: ModuleListOf[nn.Sequential] = ModuleListOf([_box_branch(dim) for _ in things])
        self.cls_thing_branches: ModuleListOf[nn.Linear] = ModuleListOf([nn.Linear(dim, spec.num_things) for _ in things])
        stuff = range(spec.stuff_mask_layers)
        self.cls_stuff_branches: ModuleListOf[nn.Linear] = ModuleListOf([nn.Linear(dim, 1) for _ in stuff])
        self.things_mask_head = MaskHead(dim, spec.num_heads, spec.things_mask_layers)
        self.stuff_mask_head = MaskHead(dim, spec.num_heads, spec.stuff_mask_layers, self_attn=True)
        self.register_buffer("cell_code", sine_position((h, w), dim).flatten(1).t().contiguous(), persistent=False)
        self.register_buffer("cell_centres", _cell_centres(h, w), persistent=False)
        self._init_weights()

    def _init_weights(self) -> None:
        for module in self.transformer.modules():
            if isinstance(module, FFN):
                init_linear(module.first)
                init_linear(module.second)
            elif isinstance(module, ResidualAttention):
                nn.init.xavier_uniform_(module.attn.out_proj.weight)
        init_linear(self.transformer.reference_points)
        nn.init.normal_(self.transformer.level_embeds)
        for branch in (*self.cls_branches, *self.cls_thing_branches, *self.cls_stuff_branches):
            nn.init.constant_(branch.bias, BIAS_OF_PRIOR)
        for branch in (*self.reg_branches, *self.reg_branches2):
            last = linear_of(branch, -1)
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        nn.init.constant_(linear_of(self.reg_branches[0], -1).bias[2:], -2.0)  # first boxes span an eighth of the canvas

    def forward(self, bev_BSD: Tensor) -> MapOutput:
        """The map of a frame. bev: [B, S, D], cells row by row."""
        return self.select(self.queries(bev_BSD))

    def queries(self, bev_BSD: Tensor) -> MapQueries:
        """What the location decoder finds, with every layer's classes and boxes: what losses read. bev: [B, S, D]."""
        memory, memory_pos = self._encode(bev_BSD)
        batch = bev_BSD.shape[0]
        pos_RD, query_RD = self.query_embedding.weight.chunk(2, dim=1)
        pos, x = pos_RD.expand(batch, -1, -1), query_RD.expand(batch, -1, -1)
        box = self.transformer.reference_points(pos).float().sigmoid()  # a point before the first layer, then boxes
        cls, boxes, reference = [], [], box
        for i, layer in enumerate(self.transformer.decoder.layers):
            x = layer(x, pos, memory, box, self.spec.bev_hw)
            reference = inverse_sigmoid(box)
            refined = self._refine(i, x, reference)
            box = refined.detach()  # each layer learns its own refinement
            cls.append(self.cls_branches[i](x).float())
            boxes.append(refined)
        return MapQueries(torch.stack(cls), torch.stack(boxes), memory, memory_pos, x, pos, reference)

    def _encode(self, bev_BSD: Tensor) -> tuple[Tensor, Tensor]:
        pos = (self.cell_code + self.transformer.level_embeds[0]).expand_as(bev_BSD)
        x = bev_BSD
        for layer in self.transformer.encoder.layers:
            x = layer(x, pos, self.cell_centres, self.spec.bev_hw)
        return x, pos

    def _refine(self, layer: int, x_BRD: Tensor, reference: Tensor) -> Tensor:
        """Box [B, R, 4] from a feature and what it refines, in fp32: the last product decides fractions of a cell."""
        branch = self.reg_branches[layer]
        hidden = branch[:-1](x_BRD)
        with full_precision(hidden):
            change = branch[-1](hidden.float())
        missing = change.shape[-1] - reference.shape[-1]  # a point has no size to refine
        return (change + nn.functional.pad(reference, (0, missing))).sigmoid()

    def thing_masks(self, memory_BSD: Tensor, query_BGD: Tensor, all_layers: bool = False) -> Masks:
        """Masks of G thing queries over the BEV. No query sees another, so padding among them does no harm."""
        return self.things_mask_head(memory_BSD, query_BGD, all_layers=all_layers)

    def stuff_masks(self, memory_BSD: Tensor, all_layers: bool = False) -> Masks:
        """Masks of the stuff classes (the drivable area) over the BEV."""
        batch = memory_BSD.shape[0]
        query, pos = self.stuff_query.weight.expand(batch, -1, -1).chunk(2, dim=-1)
        return self.stuff_mask_head(memory_BSD, query, pos, all_layers)

    def learnt_masks(self, queries: MapQueries, rows: Tensor) -> LearntMasks:
        """What losses read of the mask heads. rows: [B, K] int64, the thing queries to make masks of."""
        things = self.thing_masks(queries.memory, take_rows(queries.query, rows), all_layers=True)
        stuff_masks, stuff_cls = self._learnt_stuff(queries.memory)
        return LearntMasks(
            things=[self._on_cells(mask) for mask in (*things.layer_masks, things.mask)],
            thing_cls=[branch(query) for branch, query in zip(self.cls_thing_branches, things.layer_queries)],
            thing_boxes=[branch(query) for branch, query in zip(self.reg_branches2, things.layer_queries)],
            stuff=stuff_masks,
            stuff_cls=stuff_cls,
        )

    def _learnt_stuff(self, memory_BSD: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """``LearntMasks.stuff`` and ``stuff_cls``."""
        layers, batch = len(self.cls_stuff_branches), memory_BSD.shape[0]
        if self.spec.num_stuff:
            stuff = self.stuff_masks(memory_BSD, all_layers=True)
            masks = [self._on_cells(mask) for mask in (*stuff.layer_masks, stuff.mask)]
            return masks, [branch(query) for branch, query in zip(self.cls_stuff_branches, stuff.layer_queries)]
        # No class, no mask; the weights that upstream has nevertheless take part with a gradient of zero, as there.
        unused = (*self.stuff_mask_head.parameters(), *self.cls_stuff_branches.parameters())
        nothing = torch.stack([weight.float().sum() for weight in unused]).sum() * 0
        none = nothing.expand(batch, 0, 1)
        return [nothing.expand(batch, 0, *self.spec.bev_hw)] * (layers + 1), [none] * layers

    def select(self, queries: MapQueries) -> MapOutput:
        """The ``top_k`` elements in the order of their final score, and the merged lanes."""
        spec = self.spec
        best = best_pairs(queries.cls[-1], spec.top_k)
        mask = self._on_canvas(self.thing_masks(queries.memory, take_rows(queries.query, best.index)).mask)
        drivable = self._on_canvas(self.stuff_masks(queries.memory).mask)[:, -1] if spec.num_stuff else None
        # Masks make the final order: a confident class with a blurred mask falls back.
        score, order = (best.score * mask_quality(mask).square()).topk(spec.top_k, dim=1)
        order = order.to(torch.int32)
        mask, label = take_rows(mask, order), take_rows(best.label, order)
        box = take_rows(queries.boxes[-1], take_rows(best.index, order))
        kept = score >= spec.quality_threshold_things
        merged = merge_lanes(mask, label, kept, spec.num_things, spec.overlap_threshold_things, spec.merge_rounds)
        return MapOutput(
            score=score,
            label=label,
            box=_corners(box),
            mask=mask,
            kept=kept,
            drivable=torch.zeros_like(mask[:, 0]) if drivable is None else drivable,
            lanes=merged.lanes,
            query=queries.query,
            query_pos=queries.query_pos,
            settled=merged.settled,
        )

    def _on_cells(self, mask_BGS: Tensor) -> Tensor:
        return mask_BGS.float().unflatten(-1, self.spec.bev_hw)

    def _on_canvas(self, mask_BGS: Tensor) -> Tensor:
        return cell_masks_to_canvas(mask_BGS.float(), self.spec.bev_hw, self.spec.canvas_hw)


def _bev_attention(spec: MapSpec) -> DeformableAttention:
    """Built for ``attn_levels``, fed the BEV alone: in the full model the levels fold as the published weights know it."""
    return DeformableAttention(spec.embed_dims, spec.num_heads, spec.attn_levels, spec.num_points, spec.cross_dropout)


def _box_branch(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4))


def _cell_centres(h: int, w: int) -> Tensor:
    """Centre of every cell as fractions of (width, height), [1, S, 1, 2]."""
    y, x = torch.meshgrid((torch.arange(h) + 0.5) / h, (torch.arange(w) + 0.5) / w, indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(1, h * w, 1, 2)


def _corners(box: Tensor) -> Tensor:
    """Boxes [..., 4] cx cy w h -> x0 y0 x1 y1 within the canvas."""
    centre, half = box[..., :2], box[..., 2:] / 2
    return torch.cat([centre - half, centre + half], dim=-1).clamp(0.0, 1.0)
