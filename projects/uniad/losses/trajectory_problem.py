"""The smoothing problem of ``smoother`` in numbers: what a control sequence costs, what it breaks, and how both change.

Controls are the acceleration and the curvature of each step; the car's states follow from them in closed form, so the problem
has 2 F unknowns and no equation to keep. Axes: N problem, F step of ``DT_S``, U = 2 F unknowns (accelerations, then
curvatures), R residual, C constraint. States are x, y (metres), heading (radians, counter-clockwise from x) and speed (m/s).
Limits and weights are upstream's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

DT_S = 0.5
MAX_CURVATURE = 0.2  # 1/m
MAX_ACCEL = 4.0  # m/s^2
MAX_SPEED = 35.0  # m/s; never backwards
MAX_YAW_RATE = 1.75  # rad/s
MAX_LATERAL = 4.0  # m/s^2
W_PLACE, W_HEADING, W_RATE, W_CONTROL, W_LATERAL = 1.0, 0.1, 0.08, 0.08, 0.06
W_LAST_PLACE, W_LAST_HEADING = 1.0, 40.0  # times a quarter of the number of steps


class Problem(NamedTuple):
    """N smoothing problems. Steps beyond ``length`` have no weight."""

    start: Tensor  # [N, 4] x, y, heading, speed
    target: Tensor  # [N, F, 3] x, y, heading after each step
    weight: Tensor  # [N, 4 * F] square roots of the weights of ``residuals``
    live: Tensor  # [N, F] 1 where the step exists
    effort: Tensor  # [N, U, U] cost of the controls and of their change, a quadratic form
    slopes: Tensor  # [4, F, U] derivatives of a step's accelerations, curvatures, and speeds at its start and halfway


class Motion(NamedTuple):
    """States along the steps. ``speed`` and ``heading`` have the start of each step, ``place`` its end. [..., F] each."""

    curvature: Tensor
    speed: Tensor
    middle: Tensor  # speed halfway
    last: Tensor  # speed at the end
    heading: Tensor
    turn: Tensor  # heading gained in the step
    rate_x: Tensor  # [..., 4, F] what each stage of the integration adds to x
    rate_y: Tensor
    cos: Tensor  # [..., 4, F] of the heading of each stage
    sin: Tensor
    place: Tensor  # [..., 2, F]


def make_problem(start: Tensor, target: Tensor, length: Tensor) -> Problem:
    """start [N, 4]; target [N, F, 3]; length [N] how many steps count."""
    steps = target.shape[1]
    index = torch.arange(steps, device=target.device)
    live = (index < length[:, None]).to(target.dtype)
    last = (index + 1 == length[:, None]).to(target.dtype) * (length[:, None] / 4.0)
    place, heading = live * W_PLACE + last * W_LAST_PLACE, live * W_HEADING + last * W_LAST_HEADING
    eye = torch.eye(steps, dtype=target.dtype, device=target.device)
    none = torch.zeros_like(eye)
    accel, curvature = torch.cat([eye, none], -1), torch.cat([none, eye], -1)
    speed = torch.cat([DT_S * torch.ones_like(eye).tril(-1), none], -1)
    both = live[:, 1:] * live[:, :-1] * (W_RATE / DT_S**2)
    change = torch.stack([accel.diff(dim=0), curvature.diff(dim=0)])  # [2, F-1, U]
    # Steps that do not exist keep the cost of the controls: it holds them at zero.
    effort = W_CONTROL * torch.eye(2 * steps, dtype=target.dtype, device=target.device)
    effort = effort + (change.mT[:, None] @ (both[..., None] * change[:, None])).sum(0)
    return Problem(
        start=start,
        target=target,
        weight=torch.cat([place, place, heading, live * W_LATERAL], -1).sqrt(),
        live=live,
        effort=effort,
        slopes=torch.stack([accel, curvature, speed, speed + DT_S / 2 * accel]),
    )


def drive(problem: Problem, controls: Tensor) -> Motion:
    """The car under controls [N, ..., U]; extra axes are alternatives of the same problem.

    Upstream's integration, Runge-Kutta of fourth order, with its four stages side by side.
    """
    start = problem.start[(slice(None),) + (None,) * (controls.dim() - 2)]
    accel, curvature = controls.chunk(2, -1)
    gained = DT_S * accel
    last = start[..., 3:] + gained.cumsum(-1)
    speed, middle = last - gained, last - 0.5 * gained
    turn = DT_S * curvature * middle
    heading = start[..., 2:3] + turn.cumsum(-1) - turn
    angle = torch.stack([heading, heading + (DT_S / 2) * curvature * speed, heading + 0.5 * turn, heading + turn], -2)
    rate = (DT_S / 6) * torch.stack([speed, 2 * middle, 2 * middle, last], -2)
    cos, sin = angle.cos(), angle.sin()
    rate_x, rate_y = rate * cos, rate * sin
    place = start[..., :2, None] + torch.stack([rate_x.sum(-2), rate_y.sum(-2)], -2).cumsum(-1)
    return Motion(curvature, speed, middle, last, heading, turn, rate_x, rate_y, cos, sin, place)


def residuals(problem: Problem, motion: Motion) -> Tensor:
    """[N, ..., R]: x, y, heading, lateral acceleration. Half upstream's cost is, up to a constant, half their sum of squares
    and half of ``effort``."""
    extra = (slice(None),) + (None,) * (motion.turn.dim() - 2)
    target = problem.target[extra]
    off = [motion.place[..., 0, :] - target[..., 0], motion.place[..., 1, :] - target[..., 1]]
    off += [motion.heading + motion.turn - target[..., 2], motion.speed.square() * motion.curvature]
    return problem.weight[extra] * torch.cat(off, -1)


def constraints(problem: Problem, motion: Motion, controls: Tensor) -> Tensor:
    """[N, ..., C], each to stay within -1..1: the controls, then speed, yaw rate and lateral acceleration of each step.
    Those of steps that do not exist are zero."""
    live = problem.live[(slice(None),) + (None,) * (motion.turn.dim() - 2)]
    accel, curvature = controls.chunk(2, -1)
    return torch.cat(
        [
            accel * (1 / MAX_ACCEL), curvature * (1 / MAX_CURVATURE),
            live * (motion.last * (2 / MAX_SPEED) - 1.0),
            live * motion.turn * (1 / (DT_S * MAX_YAW_RATE)),
            live * motion.speed.square() * motion.curvature * (1 / MAX_LATERAL),
        ],
        -1,
    )  # fmt: skip


def jacobians(problem: Problem, motion: Motion) -> tuple[Tensor, Tensor]:
    """Derivatives [N, R, U] of ``residuals`` and [N, C - U, U] of ``constraints`` but the controls' own. motion: without extra
    axes."""
    accel, curvature, speed, middle = problem.slopes  # [F, U] each
    k, v, m = motion.curvature[..., None], motion.speed[..., None], motion.middle[..., None]
    turn = DT_S * (k * middle + m * curvature)  # [N, F, U], as all of these
    heading = turn.cumsum(1) - turn
    ahead = (DT_S / 2) * (k * speed + v * curvature)
    angle = torch.stack([heading, heading + ahead, heading + 0.5 * turn, heading + turn], 1)
    rate = (DT_S / 6) * torch.stack([speed, 2 * middle, 2 * middle, speed + DT_S * accel])
    x = (motion.cos[..., None] * rate - motion.rate_y[..., None] * angle).sum(1).cumsum(1)
    y = (motion.sin[..., None] * rate + motion.rate_x[..., None] * angle).sum(1).cumsum(1)
    lateral = (2 * v * k) * speed + v.square() * curvature
    live = problem.live[..., None]
    fastest = live * (speed + DT_S * accel) * (2 / MAX_SPEED)
    return (
        problem.weight[..., None] * torch.cat([x, y, heading + turn, lateral], 1),
        torch.cat([fastest, live * turn * (1 / (DT_S * MAX_YAW_RATE)), live * lateral * (1 / MAX_LATERAL)], 1),
    )
