"""Planning losses (UniAD section 3.4): distance to what the driver did, and overlap with what else was on the road."""

from __future__ import annotations

import torch
from torch import Tensor

from uniad.config.spec import UNIAD_V2, CompatSpec, PlanSpec
from uniad.geometry.nuscenes import EGO_LENGTH, EGO_WIDTH
from uniad.interface.types import PlanOutput, Stage2Targets
from uniad.losses.common import masked_sum

STANDS_M = 0.5  # in a second or, at the plan's end, half of one


def plan_losses(
    plan: PlanOutput, targets: Stage2Targets, spec: PlanSpec, compat: CompatSpec | None = None
) -> dict[str, Tensor]:
    """Losses by upstream name, weighted. targets: ``sdc_planning``, its mask, ``future_boxes`` and their validity.

    ``planning.loss_ade`` is the mean over all valid steps of the batch, 0 where there is none;
    ``planning.loss_collision_<i>`` the area (m2) that the ego car, widened by the i-th margin, shares with other boxes,
    summed over steps and boxes and averaged over the batch.
    """
    compat = compat or CompatSpec()
    traj = plan.traj.float()
    planned = targets.sdc_planning[:, 0, : spec.steps].to(traj.dtype)
    valid = (targets.sdc_planning_mask[:, 0, : spec.steps] > 0).any(-1)
    losses = collision_losses(traj, planned[..., 2], targets, spec, compat)
    losses["planning.loss_ade"] = displacement_loss(traj, planned[..., :2], valid, spec.across_weight)
    return losses


def displacement_loss(traj: Tensor, planned: Tensor, valid: Tensor, across_weight: float | None = None) -> Tensor:
    """Mean distance in metres between traj and planned [B, F, 2] over the steps that are valid [B, F].

    The gradient of a distance points along the error, so beside metres ahead the decimetres aside that tell one lane from another
    hardly count. across_weight: the error along the driver's way and so many times that across it, each by itself, in place of
    the distance.
    """
    # Cleaned before the root: a masked step may hold anything, and a root's slope at 0 is infinite.
    apart = torch.where(valid[..., None], traj - planned, traj.new_zeros(()))
    if across_weight is None:
        length = torch.linalg.vector_norm(apart, dim=-1)
    else:
        x, y = headings(torch.where(valid[..., None], planned, planned.new_zeros(()))).unbind(-1)
        along = apart[..., 0] * x + apart[..., 1] * y
        across = apart[..., 0] * y - apart[..., 1] * x
        length = along.abs() + across_weight * across.abs()
    return length.sum() / (valid.sum() + 1e-5)


def headings(way: Tensor) -> Tensor:
    """Unit vectors [B, F, 2] of where a way [B, F, 2] leads at each of its points, from the car at the origin on.

    Between the neighbours of a point; who stands looks ahead, along y of the lidar frame.
    """
    points = torch.cat([torch.zeros_like(way[:, :1]), way, way[:, -1:]], 1)
    hop = points[:, 2:] - points[:, :-2]
    length = torch.linalg.vector_norm(hop, dim=-1, keepdim=True)
    x, y = (hop / length.clamp(min=STANDS_M)).unbind(-1)  # no constant vector: a CUDA graph takes none from the host
    moves = length[..., 0] > STANDS_M
    return torch.stack([torch.where(moves, x, torch.zeros_like(x)), torch.where(moves, y, torch.ones_like(y))], -1)


def collision_losses(
    traj: Tensor, yaw: Tensor, targets: Stage2Targets, spec: PlanSpec, compat: CompatSpec
) -> dict[str, Tensor]:
    """Overlap of the ego car on traj [B, F, 2], turned as it really was (yaw [B, F]), with the boxes of each step.

    Upstream: boxes stand for the axis-aligned rectangles around them, and no gradient reaches the trajectory (the ego box was
    made of bare numbers), so these losses only watch. ``collision_loss=fixed`` lets them teach. UniAD v2 did not adapt this loss
    to its new yaw: its ego box lies across the way that it drives.
    """
    if compat.collision_loss != "fixed":
        traj = traj.detach()
    boxes = targets.future_boxes[:, 1 : spec.steps + 1].to(traj.dtype)
    valid = targets.future_boxes_valid[:, 1 : spec.steps + 1]
    other = aligned(boxes[..., :2], boxes[..., 3], boxes[..., 4], boxes[..., 6])
    yaw = yaw[:, : boxes.shape[1]]
    length, width = (EGO_WIDTH, EGO_LENGTH) if compat.collision_loss == UNIAD_V2 else (EGO_LENGTH, EGO_WIDTH)
    losses = {}
    for i, (delta, weight) in enumerate(spec.collision):
        ego = aligned(traj[:, : boxes.shape[1]], width + delta, length + delta, yaw)
        shared = overlap(ego[:, :, None], other)
        losses[f"planning.loss_collision_{i}"] = masked_sum(shared, valid, (1, 2)).mean() * weight
    return losses


def aligned(centre: Tensor, width: Tensor | float, length: Tensor | float, yaw: Tensor) -> Tensor:
    """Rectangle (x0, y0, x1, y1) [..., 4] around a box that is ``width`` along x and ``length`` along y before it turns."""
    cos, sin = yaw.cos().abs(), yaw.sin().abs()
    half = torch.stack([width * cos + length * sin, width * sin + length * cos], -1) / 2
    return torch.cat([centre - half, centre + half], -1)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Area [...] that rectangles [..., 4] share."""
    side = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    return side[..., 0] * side[..., 1]  # prod's backward pass would read back whether there is a zero
