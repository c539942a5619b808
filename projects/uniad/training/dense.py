"""Dense supervision of BEV features, for short trainings: which object's centre lies in which cell.

Queries that are matched one to one give each image a handful of examples, and weights that start from noise need many more of
them than a training of minutes has (BEVFormer v2, Yang et al. 2022, makes that point with a head on the images). Here every BEV
cell tells the classes of objects centred in or near it, as a heat map (CenterPoint, Yin et al. 2021), and the cell of each centre
its box. The head is auxiliary: it trains with the model and serves nothing else. Evaluation, export and the upstream stack never
see it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from uniad.config.spec import ModelSpec
from uniad.geometry.boxes import encode_boxes
from uniad.interface.types import Targets
from uniad.losses.common import masked_sum
from uniad.models.layers import BIAS_OF_PRIOR
from uniad.models.precision import full_precision
from uniad.models.track import to_unit
from uniad.training.checkpoint import DENSE_BEV

SPREAD = 0.8  # standard deviation of a centre's heat, in cells
WEIGHT_HEAT, WEIGHT_BOX = 1.0, 0.25


class DenseBev(nn.Module):
    """A heat map for each class and a box10 for each BEV cell, with their losses."""

    code_weights: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.bev, self.classes, self.pc_range = spec.bev, spec.decoder.num_classes, spec.decoder.pc_range
        dim = spec.bev.embed_dims
        self.trunk = nn.Conv2d(dim, dim, 3, padding=1)
        self.heat = nn.Conv2d(dim, self.classes, 1)
        self.box = nn.Conv2d(dim, 10, 1)
        assert self.heat.bias is not None
        nn.init.constant_(self.heat.bias, BIAS_OF_PRIOR)
        self.register_buffer("code_weights", torch.tensor(spec.track_loss.code_weights), persistent=False)

    def forward(self, bev: Tensor, targets: Targets, reduce_mean: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """bev: [B, T, S, D] of a clip. Returns ``dense.loss_heat`` and ``dense.loss_box``, weighted."""
        height, width = self.bev.height, self.bev.width
        grid = bev.flatten(0, 1).transpose(1, 2).unflatten(-1, (height, width))
        x = self.trunk(grid).relu()
        boxes, labels, valid = (v.flatten(0, 1) for v in (targets.boxes, targets.labels, targets.valid))
        with full_precision(x):
            heat, box = self.heat(x.float()), self.box(x.float())
            return self.losses(heat, box, boxes.float(), labels, valid, reduce_mean)

    def losses(
        self, heat: Tensor, box: Tensor, boxes: Tensor, labels: Tensor, valid: Tensor, reduce_mean: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """heat: [N, C, H, W] logits; box: [N, 10, H, W], x and y in cells from the cell's middle; boxes: [N, G, 9] in metres;
        labels, valid: [N, G]. Objects outside the grid do not count."""
        height, width = heat.shape[-2:]
        boxes = torch.where(valid[..., None], boxes, torch.ones_like(boxes))
        x, y, _ = to_unit(boxes[..., :3], self.pc_range).unbind(-1)
        place = torch.stack([x * width, y * height], -1)
        cell = place.floor()
        column, row = cell.unbind(-1)
        inside = valid & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        count = reduce_mean(inside.sum().float() / len(heat)).clamp(min=1) * len(heat)

        wanted = heat_map(column, row, labels, inside, heat.shape)
        probability = heat.sigmoid().clamp(1e-5, 1 - 1e-5)
        missed = (1 - probability).square() * probability.log()
        invented = (1 - wanted).pow(4) * probability.square() * (1 - probability).log()
        loss_heat = -torch.where(wanted == 1, missed, invented).sum() / count

        index = (row.clamp(0, height - 1) * width + column.clamp(0, width - 1)).long()
        predicted = box.flatten(2).transpose(1, 2).gather(1, index[..., None].expand(-1, -1, box.shape[1]))
        truth = torch.cat([place - cell - 0.5, encode_boxes(boxes)[..., 2:]], -1)
        error = (predicted - truth).abs() * self.code_weights
        loss_box = masked_sum(error, inside[..., None], (0, 1, 2)) / count
        return {"dense.loss_heat": WEIGHT_HEAT * loss_heat, "dense.loss_box": WEIGHT_BOX * loss_box}


def heat_map(column: Tensor, row: Tensor, labels: Tensor, inside: Tensor, shape: tuple[int, ...]) -> Tensor:
    """[N, C, H, W]: 1 in the cells (column, row) [N, G] of objects, falling off around them, the larger where two meet."""
    device, (_, _, height, width) = column.device, shape
    dx = torch.arange(width, device=device) - column[..., None]
    dy = torch.arange(height, device=device) - row[..., None]
    square = dx.square()[..., None, :] + dy.square()[..., :, None]
    each = torch.where(inside[..., None, None], torch.exp(-square / (2 * SPREAD**2)), 0.0)
    slot = labels.clamp(0, shape[1] - 1)[..., None, None].expand_as(each)
    return torch.zeros(shape, device=device).scatter_reduce(1, slot, each, "amax")


def add_dense_bev(model: nn.Module, spec: ModelSpec) -> None:
    """Gives ``model`` the head, as its last part, so that no other parameter changes its number."""
    model.add_module(DENSE_BEV, DenseBev(spec))
