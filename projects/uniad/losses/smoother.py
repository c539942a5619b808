"""Futures of moving agents bent to start where the model saw the agent, as a car could drive them.

The upstream stack solves one nonlinear program an agent on the CPU (CasADi with IPOPT, direct multiple shooting). Here all
agents are solved at once where they are, by a primal-dual interior-point method with Gauss-Newton steps: a fixed number of
iterations on tensors of fixed shape in float64, nothing read back. Its optimum is upstream's.
"""

from __future__ import annotations

import functools
import importlib.util
import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from uniad.geometry.boxes import limit_period
from uniad.losses.trajectory_problem import (
    DT_S,
    MAX_ACCEL,
    MAX_CURVATURE,
    MAX_SPEED,
    Problem,
    constraints,
    drive,
    jacobians,
    make_problem,
    residuals,
)
from uniad.models.precision import full_precision
from uniad.ops.spd import solve_spd

ITERATIONS = 60  # 50 leave one agent in three hundred off by a millimetre
BARRIER, BARRIER_DECAY, BARRIER_LAST = 0.1, 0.6, 1e-9  # weight of the logarithmic barrier, first, per iteration, and least
TRIALS = 5  # step lengths that an iteration chooses from
TO_BORDER = 0.005  # share of a slack that one step must leave
MIN_MOVE_M, MAX_START_OFF_M, MAX_START_TURN, MAX_MEAN_OFF_M = 2.0, 2.0, math.pi / 6, 1.5  # when smoothing is worth it


@torch.no_grad()
def smooth_trajectories(
    gt_boxes: Tensor, traj: Tensor, mask: Tensor, boxes: Tensor, wrapped: bool = False
) -> Tensor:
    """Future offsets [N, F, 2] of agents, metres from where each trajectory starts, lidar axes.

    gt_boxes, boxes [N, 9]: the object and the prediction that answers for it; traj [N, F, 2] absolute lidar positions of the
    object's future; mask [N, F] 1 where known, all known steps first. An agent that hardly moves, or was seen far from its
    object, keeps its true offsets; for the others the smoothed way replaces them, from the predicted place.

    wrapped: start from the predicted heading within +-pi, as UniAD v2 does. v1 starts from -pi/2 - yaw as it is, so that an agent
    which heads for more than pi/2 starts a whole turn away from the headings of its way, which lie within +-pi.
    """
    with full_precision(traj):
        dtype = traj.dtype
        gt_boxes, traj, boxes = gt_boxes.double(), traj.double(), boxes.double()
        length = mask.double().sum(-1)
        offsets = traj - gt_boxes[:, None, :2]
        heading = limit_period(_heading(boxes), 0.5, 2 * math.pi) if wrapped else _heading(boxes)
        start = torch.stack([boxes[:, 0], boxes[:, 1], heading, boxes[:, 7:9].norm(dim=-1)], -1)
        # Upstream's code takes the first step from the origin of the lidar frame instead of from the object. Kept: it is
        # part of what published weights were trained with, and weighs little.
        step = torch.cat([traj[:, :1], traj[:, 1:] - traj[:, :-1]], 1)
        target = torch.cat([traj, torch.atan2(step[..., 1], step[..., 0])[..., None]], -1)
        wanted = _worth_it(gt_boxes, offsets, start, length)
        # Problems that nobody wants are solved too; plain ones, so that no number overflows.
        plain = torch.zeros_like(start)
        plain[:, 3].fill_(1.0)  # an assignment would copy the number from the host
        start = torch.where(wanted[:, None], start, plain)
        target = torch.where(wanted[:, None, None], target, torch.zeros_like(target))
        length = torch.where(wanted, length, torch.ones_like(length))
        place = solve(make_problem(start, target, length))

        live = torch.arange(traj.shape[1], device=traj.device) < length[:, None]
        off = (place - traj).norm(dim=-1).masked_fill(~live, 0.0).sum(-1) + (start[:, :2] - gt_boxes[:, :2]).norm(dim=-1)
        used = wanted & (off / (length + 1) < MAX_MEAN_OFF_M) & place.isfinite().flatten(1).all(1)
        smooth = (place - start[:, None, :2]).masked_fill(~live[..., None], 0.0)
        return torch.where(used[:, None, None], smooth, offsets).to(dtype)


def _heading(boxes: Tensor) -> Tensor:
    return -math.pi / 2 - boxes[:, 6]


def _worth_it(gt_boxes: Tensor, offsets: Tensor, start: Tensor, length: Tensor) -> Tensor:
    last = (length.long() - 1).clamp(min=0)
    end = offsets.gather(1, last[:, None, None].expand(-1, 1, 2))[:, 0]
    turned = (start[:, 2] - _heading(gt_boxes)).cos()
    return (
        (length > 1)
        & (end.norm(dim=-1) > MIN_MOVE_M)
        & ((start[:, :2] - gt_boxes[:, :2]).norm(dim=-1) <= MAX_START_OFF_M)
        & (turned >= math.cos(MAX_START_TURN))
        & (start[:, 3] <= MAX_SPEED)  # faster starts have no solution; upstream's solver stops the training there
    )


class Iterate(NamedTuple):
    """Where the search stands."""

    controls: Tensor  # [N, U] strictly inside all limits
    price: Tensor  # [2, N, C] multipliers of the limits, positive
    barrier: Tensor  # [] weight of the logarithmic barrier


def solve(problem: Problem, iterations: int = ITERATIONS) -> Tensor:
    """Places [N, F, 2] along the best way, metres. float64 in and out."""
    controls = _inside(problem)
    barrier = torch.full((), BARRIER, dtype=controls.dtype, device=controls.device)
    price = barrier / _slack(constraints(problem, drive(problem, controls), controls))
    state, advance = Iterate(controls, price, barrier), _advance_on(controls.device.type)
    for _ in range(iterations):
        state = advance(problem, state)
    return drive(problem, state.controls).place.mT


@functools.cache
def _advance_on(device: str) -> Callable[[Problem, Iterate], Iterate]:
    """``_advance`` as this kind of device runs it best: an iteration is 250 kernels that a GPU finishes faster than they are
    queued, so there they are fused, at the price of some seconds once."""
    if device != "cuda":
        return _advance
    if importlib.util.find_spec("triton") is None:
        warnings.warn("triton is not installed: the trajectory smoother runs kernel by kernel", stacklevel=3)
        return _advance
    return torch.compile(_advance, fullgraph=True, dynamic=False)


def _advance(problem: Problem, state: Iterate) -> Iterate:
    """One step of the search."""
    controls, price, barrier = state
    shrink = torch.pow(0.3, torch.arange(TRIALS, dtype=controls.dtype, device=controls.device))
    count = controls.shape[1]
    limit = torch.cat([controls.new_full((count // 2,), 1 / most) for most in (MAX_ACCEL, MAX_CURVATURE)])
    motion = drive(problem, controls)
    res, con = residuals(problem, motion), constraints(problem, motion, controls)
    jac, slope = jacobians(problem, motion)
    slack = _slack(con)
    pull = barrier / slack
    force, stiffness = pull[1] - pull[0], price / slack
    weight = stiffness.sum(0)
    effort = _times(problem.effort, controls)
    gradient = effort + _times(jac.mT, res) + _times(slope.mT, force[:, count:]) + limit * force[:, :count]
    hessian = problem.effort + jac.mT @ jac + slope.mT @ (weight[:, count:, None] * slope)
    hessian = hessian + torch.diag_embed(limit.square() * weight[:, :count])
    move = solve_spd(hessian, -gradient)

    dcon = torch.cat([limit * move, _times(slope, move)], -1)
    dslack = torch.stack([dcon, -dcon])
    dprice = pull - price - stiffness * dslack
    # Try a row of step lengths at once and take the best; those that leave the inside cost infinitely much.
    length = _room(slack, dslack)[:, None] * shrink
    merit = _merit(problem, controls[:, None] + length[..., None] * move[:, None], slack, barrier)
    best = merit.argmin(1, keepdim=True)
    now = 0.5 * (res.square().sum(-1) + (controls * effort).sum(-1)) - barrier * slack.log().sum((0, 2))
    better = merit.gather(1, best) <= now[:, None] + 1e-12
    return Iterate(
        controls=controls + length.gather(1, best) * better * move,
        price=price + _room(price, dprice)[:, None] * dprice,
        barrier=(barrier * BARRIER_DECAY).clamp(min=BARRIER_LAST),
    )


def _slack(con: Tensor) -> Tensor:
    """How far constraints [N, C], all within -1..1, are from both borders: [2, N, C]."""
    return torch.stack([1.0 + con, 1.0 - con])


def _room(value: Tensor, change: Tensor) -> Tensor:
    """Share of the change [2, N, C] that keeps all values of a problem above zero, at most 1. -> [N]"""
    room = torch.where(change < 0, -value / change, torch.full_like(value, math.inf)).amin((0, 2))
    return ((1.0 - TO_BORDER) * room).clamp(max=1.0)


def _inside(problem: Problem) -> Tensor:
    """Controls that break nothing: straight on, out of the first step at a speed away from both limits."""
    steps = problem.live.shape[1]
    speed = problem.start[:, 3]
    first = ((speed.clamp(0.5, MAX_SPEED - 0.5) - speed) / DT_S).clamp(-0.9 * MAX_ACCEL, 0.9 * MAX_ACCEL)
    return torch.nn.functional.pad(first[:, None], (0, 2 * steps - 1))


def _merit(problem: Problem, trial: Tensor, slack_before: Tensor, barrier: Tensor) -> Tensor:
    """What each of the controls [N, T, U] costs with the barrier [N, T]."""
    motion = drive(problem, trial)
    con = constraints(problem, motion, trial)
    slack = _slack(con)
    outside = (slack < TO_BORDER * slack_before[:, :, None]).flatten(3).any(-1).any(0)
    log = slack.clamp(min=1e-300).log().sum((0, 3))
    cost = residuals(problem, motion).square().sum(-1) + (trial * (trial @ problem.effort)).sum(-1)
    return (0.5 * cost - barrier * log).masked_fill(outside, math.inf)


def _times(matrix: Tensor, x: Tensor) -> Tensor:
    return (matrix @ x[..., None])[..., 0]
