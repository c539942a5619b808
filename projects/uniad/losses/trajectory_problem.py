"""The smoothing problem of ``smoother`` in numbers: what a control sequence costs, what it breaks, and how both change.

Controls are the acceleration and the curvature of each step; the car's states follow from them in closed form, so the problem
has 2 F unknowns and no equation to keep. Axes: N problem, F step of ``DT_S``, U = 2 F unknowns (accelerations, then
curvatures), R residual, C constraint. States are x, y (metres), heading (radians, counter-clockwise from x) and speed (m/s).
Limits and weights are the documented ones.
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
# Runge-Kutta of fourth order: weight of each stage, and how far into the step its heading is taken
STAGES = ((1.0, 0.0), (2.0, 0.5), (2.0, 0.5), (1.0, 1.0))


class Problem(NamedTuple):
    """N smoothing problems. Steps beyond ``length`` have no weight."""

    start: Tensor  # [N, 4] x, y, heading, speed
    target: Tensor  # [N, F, 3] x, y, heading after each step
    place_weight: Tensor  # [N, F] square roots of weights, as all of these
    heading_weight: Tensor  # [N, F]
    live: Tensor  # [N, F] 1 where the step exists


class Motion(NamedTuple):
    """States along the steps. ``speed`` and ``heading`` have the start of each step, ``place`` its end."""

    accel: Tensor  # [..., F]
    curvature: Tensor
    speed: Tensor
    middle: Tensor  # speed halfway
    heading: Tensor
    turn: Tensor  # heading gained in the step
    place: Tensor  # [..., F, 2]


def make_problem(start: Tensor, target: Tensor, length: Tensor) -> Problem:
    """start [N, 4]; target [N, F, 3]; length [N] how many steps count."""
    steps = target.shape[1]
    index = torch.arange(steps, device=target.device)
    live = (index < length[:, None]).to(target.dtype)
    last = (index + 1 == length[:, None]).to(target.dtype) * (length[:, None] / 4.0)
    return Problem(
        start=start,
        target=target,
        place_weight=(live * W_PLACE + last * W_LAST_PLACE).sqrt(),
        heading_weight=(live * W_HEADING + last * W_LAST_HEADING).sqrt(),
        live=live,
    )


def drive(problem: Problem, controls: Tensor) -> Motion:
    """The car under controls [N, ..., U]; extra axes are alternatives of the same problem."""
    extra = (slice(None),) + (None,) * (controls.dim() - 2)
    start = problem.start[extra]
    accel, curvature = controls.chunk(2, -1)
    speed = start[..., 3:] + DT_S * _sum_before(accel)
    middle = speed + DT_S / 2 * accel
    turn = DT_S * curvature * middle
    heading = start[..., 2:3] + _sum_before(turn)
    x = y = 0.0
    for (weight, _), rate, angle in zip(STAGES, *_stages(accel, curvature, speed, middle, heading)):
        x, y = x + weight * rate * angle.cos(), y + weight * rate * angle.sin()
    step = torch.stack([x, y], -1) * (DT_S / 6)
    place = start[..., None, :2] + step.cumsum(-2)
    return Motion(accel, curvature, speed, middle, heading, turn, place)


def _stages(accel: Tensor, curvature: Tensor, speed: Tensor, middle: Tensor, heading: Tensor) -> tuple[list, list]:
    """Speed and heading at the four stages of a step. The middle ones differ in the yaw rate that led there."""
    rates = [speed, middle, middle, speed + DT_S * accel]
    led = [speed, speed, middle, middle]
    return rates, [heading + DT_S * at * curvature * q for (_, at), q in zip(STAGES, led)]


def _sum_before(x: Tensor) -> Tensor:
    return x.cumsum(-1) - x


def residuals(problem: Problem, motion: Motion) -> Tensor:
    """[N, ..., R]; half the documented cost, up to a constant, is half their sum of squares."""
    extra = (slice(None),) + (None,) * (motion.accel.dim() - 2)
    live = problem.live[extra]
    both = live[..., 1:] * live[..., :-1]
    place = (motion.place - problem.target[extra][..., :2]) * problem.place_weight[extra][..., None]
    end = motion.heading + motion.turn
    heading = (end - problem.target[extra][..., 2]) * problem.heading_weight[extra]
    lateral = W_LATERAL**0.5 * live * motion.speed.square() * motion.curvature
    rate = W_RATE**0.5 / DT_S
    return torch.cat(
        [
            place[..., 0], place[..., 1], heading, lateral,
            both * rate * motion.accel.diff(dim=-1), both * rate * motion.curvature.diff(dim=-1),
            # Steps that do not exist keep this one: it holds their controls at zero.
            W_CONTROL**0.5 * motion.accel, W_CONTROL**0.5 * motion.curvature,
        ],
        -1,
    )  # fmt: skip


def constraints(problem: Problem, motion: Motion) -> Tensor:
    """[N, ..., C], each to stay within -1..1. Those of steps that do not exist are zero."""
    extra = (slice(None),) + (None,) * (motion.accel.dim() - 2)
    live = problem.live[extra]
    end_speed = motion.speed + DT_S * motion.accel
    return torch.cat(
        [
            motion.accel / MAX_ACCEL,
            motion.curvature / MAX_CURVATURE,
            live * (end_speed / (MAX_SPEED / 2) - 1.0),
            live * motion.turn / (DT_S * MAX_YAW_RATE),
            live * motion.speed.square() * motion.curvature / MAX_LATERAL,
        ],
        -1,
    )


def jacobians(problem: Problem, motion: Motion) -> tuple[Tensor, Tensor]:
    """Derivatives [N, R, U] of ``residuals`` and [N, C, U] of ``constraints``. motion: without extra axes."""
    n, steps = motion.accel.shape
    eye = torch.eye(steps, dtype=motion.accel.dtype, device=motion.accel.device)
    none = torch.zeros_like(eye)
    live = problem.live[..., None]
    before = torch.ones_like(eye).tril(-1)  # 1 where the column's step comes before the row's
    accel = torch.cat([eye, none], -1)  # [F, U], the derivative of the quantity of that name, as all of these
    curvature = torch.cat([none, eye], -1)
    speed = torch.cat([DT_S * before, none], -1)
    middle, last = speed + DT_S / 2 * accel, speed + DT_S * accel
    k, v, m = motion.curvature[..., None], motion.speed[..., None], motion.middle[..., None]
    turn = DT_S * (k * middle + m * curvature)  # [N, F, U]
    heading = turn.cumsum(1) - turn

    step_x = step_y = 0.0
    stages = _stages(motion.accel, motion.curvature, motion.speed, motion.middle, motion.heading)
    led = ((v, speed), (v, speed), (m, middle), (m, middle))
    for (weight, at), rate, angle, (q, dq), drate in zip(STAGES, *stages, led, (speed, middle, middle, last)):
        dangle = heading + DT_S * at * (k * dq + q * curvature)
        cos, sin, rate = angle.cos()[..., None], angle.sin()[..., None], rate[..., None]
        step_x = step_x + weight * (cos * drate - rate * sin * dangle)
        step_y = step_y + weight * (sin * drate + rate * cos * dangle)
    place_weight = problem.place_weight[..., None] * (DT_S / 6)
    lateral = 2 * v * k * speed + v.square() * curvature
    both = live[:, 1:] * live[:, :-1] * (W_RATE**0.5 / DT_S)
    of_residuals = torch.cat(
        [
            place_weight * step_x.cumsum(1), place_weight * step_y.cumsum(1),
            problem.heading_weight[..., None] * (heading + turn), W_LATERAL**0.5 * live * lateral,
            both * accel.diff(dim=0), both * curvature.diff(dim=0),
            (W_CONTROL**0.5 * accel).expand(n, -1, -1), (W_CONTROL**0.5 * curvature).expand(n, -1, -1),
        ],
        1,
    )  # fmt: skip
    of_constraints = torch.cat(
        [
            (accel / MAX_ACCEL).expand(n, -1, -1), (curvature / MAX_CURVATURE).expand(n, -1, -1),
            live * last / (MAX_SPEED / 2), live * turn / (DT_S * MAX_YAW_RATE), live * lateral / MAX_LATERAL,
        ],
        1,
    )  # fmt: skip
    return of_residuals, of_constraints
