"""Detection decoder: queries attend to each other and to the BEV, and refine their boxes layer by layer.

Deformable DETR (Zhu et al. 2021) with DETR3D-style reference points (Wang et al. 2021), as in BEVFormer (Li et al. 2022).
Parameter names are those of upstream's checkpoints: ``DetectionDecoder`` lives at ``pts_bbox_head.transformer.decoder``,
``DetectionBranches`` gives ``pts_bbox_head`` its ``cls_branches``, ``reg_branches`` and ``past_traj_reg_branches``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from uniad.config.spec import UNIAD_V2, DecoderSpec, Range6
from uniad.geometry.boxes import box10_of_v2
from uniad.interface.types import DetOutput
from uniad.models.attention import PADDED_LOGIT
from uniad.models.layers import (
    BIAS_OF_PRIOR,
    FFN,
    DeformableAttention,
    ModuleListOf,
    ResidualAttention,
    inverse_sigmoid,
    linear_of,
)
from uniad.models.precision import full_precision
from uniad.models.track import to_metres

# Where x, y, z of the centre stand among the ten regressed numbers (box10).
CENTRE = (0, 1, 4)


class DecoderLayer(nn.Module):
    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        dim = spec.embed_dims
        self.attentions = nn.ModuleList(
            [
                ResidualAttention(dim, spec.num_heads, spec.dropout),
                DeformableAttention(dim, spec.num_heads, 1, spec.num_points, spec.cross_dropout),
            ]
        )
        self.ffns: ModuleListOf[FFN] = ModuleListOf([FFN(dim, spec.ffn_dims, spec.ffn_dropout)])
        self.norms = nn.ModuleList([nn.LayerNorm(dim) for _ in range(3)])

    def forward(
        self, x: Tensor, pos: Tensor, bev: Tensor, bev_hw: tuple[int, int], ref_xy: Tensor, padded: Tensor
    ) -> Tensor:
        """x, pos: [B, R, D]; bev: [B, S, D]; ref_xy: [B, R, 2] fractions of width and height; padded: [B, R] bool -> [B, R, D]"""
        x = self.norms[0](self.attentions[0](x, query_pos=pos, key_padding=padded))
        x = self.norms[1](self.attentions[1](x, bev, ref_xy[:, :, None], (bev_hw,), query_pos=pos))
        return self.norms[2](self.ffns[0](x))


class DetectionDecoder(nn.Module):
    """The decoder's layers. ``detect`` runs them together with the branches that read boxes off them."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        self.layers: ModuleListOf[DecoderLayer] = ModuleListOf([DecoderLayer(spec) for _ in range(spec.num_layers)])
        for layer in self.layers:
            attention, ffn = layer.attentions[0], layer.ffns[0]
            assert isinstance(attention, ResidualAttention)
            for linear in (ffn.first, ffn.second, attention.attn.out_proj):
                nn.init.xavier_uniform_(linear.weight)


class DetectionBranches(nn.Module):
    """Class, box and trajectory of every query after every layer."""

    def __init__(self, spec: DecoderSpec) -> None:
        super().__init__()
        dim, layers = spec.embed_dims, range(spec.num_layers)
        self.trajectory_steps, self.box_code = spec.past_steps + spec.fut_steps, spec.box_code
        self.cls_branches = nn.ModuleList([_class_branch(dim, spec.num_classes) for _ in layers])
        self.reg_branches: ModuleListOf[nn.Sequential] = ModuleListOf([_branch(dim, 10) for _ in layers])
        self.past_traj_reg_branches = nn.ModuleList([_branch(dim, self.trajectory_steps * 2) for _ in layers])

    def regress(self, layer: int, x: Tensor) -> Tensor:
        """x: [B, R, D] -> box10 [B, R, 10] in fp32: the last product decides centimetres."""
        branch = self.reg_branches[layer]
        x = branch[:-1](x)
        with full_precision(x):
            box = branch[-1](x.float())
        return box10_of_v2(box) if self.box_code == UNIAD_V2 else box

    def trajectory(self, layer: int, x: Tensor) -> Tensor:
        """x: [B, R, D] -> [B, R, P + F, 2] metres."""
        return self.past_traj_reg_branches[layer](x).float().unflatten(-1, (self.trajectory_steps, 2))


def detect(
    decoder: DetectionDecoder,
    branches: DetectionBranches,
    bev: Tensor,
    bev_hw: tuple[int, int],
    query: Tensor,
    ref_pts: Tensor,
    valid: Tensor,
    pc_range: Range6,
    all_layers: bool = True,
) -> DetOutput:
    """Run the decoder.

    bev: [B, S, D]; query: [B, R, 2D] position and feature half; ref_pts: [B, R, 3] inverse sigmoid; valid: [B, R] bool, the other
    rows are attended to by none and get class probability 0. With ``all_layers`` False only the last layer is read out
    (L = 1), which is all that a step needs; training supervises every layer.
    """
    padded = ~valid
    pos, x = query.chunk(2, dim=-1)
    ref = ref_pts.float().sigmoid()
    depth, centre = len(decoder.layers), ref
    cls, boxes, trajectories, features = [], [], [], []
    for i, layer in enumerate(decoder.layers):
        x = layer(x, pos, bev, bev_hw, ref[..., :2], padded)
        box = branches.regress(i, x)
        centre = (torch.stack([box[..., c] for c in CENTRE], dim=-1) + inverse_sigmoid(ref)).sigmoid()
        ref = centre.detach()  # each layer learns its own refinement
        if all_layers or i == depth - 1:
            cls.append(branches.cls_branches[i](x).float().masked_fill(padded[..., None], PADDED_LOGIT))
            boxes.append(_place(box, to_metres(centre, pc_range)))
            trajectories.append(branches.trajectory(i, x))
            features.append(x)
    return DetOutput(
        torch.stack(cls), torch.stack(boxes), torch.stack(trajectories), inverse_sigmoid(centre), torch.stack(features)
    )


def _place(box: Tensor, centre: Tensor) -> Tensor:
    """box10 [B, R, 10] with its centre replaced by ``centre`` [B, R, 3] in metres."""
    return torch.cat([centre[..., :2], box[..., 2:4], centre[..., 2:], box[..., 5:]], dim=-1)


def _branch(dim: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, out))


def _class_branch(dim: int, classes: int) -> nn.Sequential:
    branch = nn.Sequential(
        nn.Linear(dim, dim), nn.LayerNorm(dim), nn.ReLU(inplace=True),
        nn.Linear(dim, dim), nn.LayerNorm(dim), nn.ReLU(inplace=True),
        nn.Linear(dim, classes),
    )  # fmt: skip
    nn.init.constant_(linear_of(branch, -1).bias, BIAS_OF_PRIOR)
    return branch
