"""Motion losses (UniAD section 3.2): the mode nearest to the true future is taught to be likely, and to predict it.

A sample's loss is a mean over its agents, the ego car among them, and a batch's is the mean over its samples, as averaging
over processes with one sample each gives it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from uniad.config.spec import UNIAD_V2, MotionSpec
from uniad.interface.types import Agents, MotionOutput, Targets
from uniad.losses.common import masked_sum
from uniad.losses.smoother import smooth_trajectories
from uniad.models.precision import full_precision

MISS_M = 2.0  # a mode misses when any of its places is farther off than this
PER_AGENT = 1e-5  # upstream's code adds it to the number of agents, and of steps
LOG_2PI = 1.8379  # four digits of it, as in upstream


def motion_losses(
    out: MotionOutput, agents: Agents, matched_gt: Tensor, targets: Targets, spec: MotionSpec
) -> dict[str, Tensor]:
    """Scalars ``motion.*`` of a batch under upstream's names; ``loss_traj`` is weighted, the others are for the log.

    agents, matched_gt [B, A]: from ``select_training_agents``. The last layer's names have no prefix.
    """
    with full_precision(out.traj):
        future, known, valid = matched_futures(agents, matched_gt, targets, spec)
        terms = trajectory_terms(out.traj.float(), out.score.float(), future, known, valid, spec)
        layers = out.traj.shape[0]
        losses = {}
        for layer in (layers - 1, *range(layers - 1)):
            prefix = "motion." if layer == layers - 1 else f"motion.d{layer}."
            losses |= {prefix + name: value[layer] for name, value in terms.items()}
        return losses


@torch.no_grad()
def matched_futures(
    agents: Agents, matched_gt: Tensor, targets: Targets, spec: MotionSpec
) -> tuple[Tensor, Tensor, Tensor]:
    """The true future of every agent: offsets [B, A, F, 2] in metres, lidar axes; which steps are known [B, A, F] bool; which
    agents count [B, A] bool. The last slot is the ego car, whose future is not smoothed."""
    truth = targets.stage2
    assert truth is not None
    traj, known = truth.fut_traj.float(), (truth.fut_traj_mask > 0).all(-1)
    gt_boxes = targets.boxes[:, -1].float()
    if traj.shape[1] == 0:  # no object slots at all: one empty one
        traj, known, gt_boxes = (torch.nn.functional.pad(x, pad) for x, pad in (
            (traj, (0, 0, 0, 0, 0, 1)), (known, (0, 0, 0, 1)), (gt_boxes, (0, 0, 0, 1))))  # fmt: skip
    others = matched_gt[:, :-1]
    valid = agents.valid[:, :-1] & (others >= 0)
    index = others.clamp(min=0)

    def take(x: Tensor) -> Tensor:
        return x.gather(1, index.reshape(*index.shape, *[1] * (x.dim() - 2)).expand(*index.shape, *x.shape[2:]))

    traj, known, gt_boxes = take(traj), take(known) & valid[..., None], take(gt_boxes)
    if spec.use_nonlinear_optimizer:
        boxes = agents.boxes[:, :-1].detach().float()
        flat = (x.flatten(0, 1) for x in (gt_boxes, traj, known.float(), boxes))
        traj = smooth_trajectories(*flat, wrapped=spec.smoother_start == UNIAD_V2).unflatten(0, index.shape)
    traj = torch.where(known[..., None], traj, torch.zeros_like(traj))
    ego_known = (truth.sdc_fut_traj_mask > 0).all(-1)
    return (
        torch.cat([traj, truth.sdc_fut_traj.float()], 1),
        torch.cat([known, ego_known], 1),
        torch.cat([valid, torch.ones_like(valid[:, :1]) & agents.valid[:, -1:]], 1),
    )


def trajectory_terms(
    traj: Tensor, score: Tensor, future: Tensor, known: Tensor, valid: Tensor, spec: MotionSpec
) -> dict[str, Tensor]:
    """Each term [L]: traj [L, B, A, K, F, 5], score [L, B, A, K], future [B, A, F, 2], known [B, A, F], valid [B, A].

    An agent whose future is not known at all counts in the mean, and teaches its first mode to be likely, as in upstream.
    """
    steps = known.sum(-1)  # [B, A]
    off = _distance(traj[..., :2], future[:, :, None])  # [L, B, A, K, F]
    known_K = known[:, :, None]
    ade, best = (masked_sum(off, known_K.expand_as(off), -1) / steps.clamp(min=1)[..., None]).min(-1)
    last = (steps - 1).clamp(min=0)[None, :, :, None, None].expand(*off.shape[:-1], 1)
    fde = off.gather(-1, last).squeeze(-1).amin(-1)
    worst = off.detach().masked_fill(~known_K, -math.inf).amax(-1).amin(-1)

    chosen = traj.gather(3, best[..., None, None, None].expand(*best.shape, 1, *traj.shape[4:])).squeeze(3)
    if spec.use_variance:
        nll = negative_log_likelihood(chosen, future)
        reg = masked_sum(nll, known.expand_as(nll), -1) / (steps + PER_AGENT)
    else:
        reg = ade
    cls = -score.gather(-1, best[..., None]).squeeze(-1)

    count = valid.sum(-1)  # [B]

    def mean(per_agent: Tensor, counted: Tensor, divisor: Tensor) -> Tensor:
        return (masked_sum(per_agent, counted.expand_as(per_agent), -1) / divisor).mean(-1)

    agents = count + PER_AGENT
    cls, reg, ade = (mean(x, valid, agents) for x in (cls, reg, ade))
    fde = mean(fde, valid & (steps > 0), agents)
    missed = mean((worst > MISS_M).float(), valid, count.clamp(min=1))
    total = cls * spec.weight_cls + reg * spec.weight_nll + ade * spec.weight_minade + fde * spec.weight_minfde
    return {"loss_traj": total, "l_class": cls, "l_reg": reg, "min_ade": ade, "min_fde": fde, "mr": missed}


def negative_log_likelihood(predicted: Tensor, place: Tensor) -> Tensor:
    """Of places [..., 2] under bivariate normals [..., 5] whose third and fourth numbers are *inverse* deviations -> [...].

    Where it is not finite (a saturated correlation) it counts as zero, and gives no gradient.
    """
    with torch.no_grad():
        finite = _nll(predicted, place).isfinite()
    harmless = torch.zeros_like(predicted) + _unit_normal(predicted)
    safe = torch.where(finite[..., None], predicted, harmless)
    return torch.where(finite, _nll(safe, place), torch.zeros_like(safe[..., 0]))


def _unit_normal(like: Tensor) -> Tensor:
    index = torch.arange(like.shape[-1], device=like.device)
    return ((index == 2) | (index == 3)).to(like.dtype)


def _nll(predicted: Tensor, place: Tensor) -> Tensor:
    mu_x, mu_y, inv_x, inv_y, rho = predicted.unbind(-1)
    free = 1.0 - rho.square()
    x, y = inv_x * (place[..., 0] - mu_x), inv_y * (place[..., 1] - mu_y)
    return 0.5 / free * (x.square() + y.square() - 2.0 * rho * x * y) - (inv_x * inv_y * free.rsqrt()).log() + LOG_2PI


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean, over the last axis; where it is zero its gradient is zero, too."""
    square = (a - b).square().sum(-1)
    positive = square > 0
    return torch.where(positive, torch.where(positive, square, torch.ones_like(square)).sqrt(), torch.zeros_like(square))
