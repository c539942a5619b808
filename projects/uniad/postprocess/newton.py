"""The collision optimiser's cost, minimised by the steps that IPOPT takes on it, without IPOPT.

The cost has many local minima, and which of them a solver finds depends on its steps. Nothing bounds or constrains the path, so
of the method of IPOPT (Wächter and Biegler, Math. Prog. 106, 2006) this remains: Newton steps; a multiple of the identity added
to the Hessian until it is positive definite (section 3.1); steps halved until the cost falls (2.3); an objective scaled by its
first gradient (3.8). With the same constants the iterates are those of IPOPT but for rounding.

The Hessian is a 2x2 block for each position of the path: one position's cost does not depend on another's. They are coupled only
by what they share: the added multiple and the step length. A block follows from six weighted sums over its obstacles, which one
matrix product gives; the rest of a step is a few dozen numbers, for which Python's own are faster than arrays.

What is left to IPOPT: plans between two ways that are equally good, where its rounding decides, and whatever does not converge
within its plain steps. Of thousands of problems these were only the ones that were made to be.
"""

from __future__ import annotations

import math
import sys

import numpy as np
from numpy.typing import NDArray

ROOT_TWO_PI = 2.507  # as in upstream

TOLERANCE = 1e-8  # largest entry of the scaled gradient; IPOPT's tol
LARGEST_GRADIENT = 1.0  # and of the unscaled one; its dual_inf_tol
ACCEPTABLE = 1e-6  # IPOPT ends after 15 such iterations that do not get to TOLERANCE; here that is not solved
ACCEPTABLE_ITERATIONS = 15
FIRST_GRADIENT = 100.0  # a larger one scales the cost down
ARMIJO = 1e-8  # of the fall that the gradient promises, a step must bring at least this share
TINY = 10 * sys.float_info.epsilon  # what counts as rounding, relative to a cost, or to a coordinate and 1 m
LEAST_SCALE = 1e-8
SLIGHT, GROWN = 1e-5, 1e-9  # gradient along a direction of negative curvature, step along it (m): here rounding may decide
FIRST_SHIFT, LEAST_SHIFT, LARGEST_SHIFT = 1e-4, 1e-20, 1e20  # what is added to the Hessian's diagonal
MOST_HALVINGS = 50  # after these a step is below rounding
SHORTENED_STEPS = 10  # in a row; then IPOPT tries full ones that need not lower the cost (its watchdog)

Block = tuple[float, float, float]  # of a symmetric 2x2 matrix: xx, xy, yy
Point = list[tuple[float, float]]  # where each position is, from its place in the plan, m


class _Cost:
    """Cost, gradient and Hessian blocks of the positions that have obstacles; the others stay where they are."""

    def __init__(self, around: NDArray[np.float64], counts: NDArray[np.float64], sigma: float, alpha: float) -> None:
        """around: [F, n, 2] obstacles as seen from each position's place in the plan, m; counts: [F, n], 0 for none."""
        x, y = around[..., 0], around[..., 1]
        self._terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], 1)  # [F, 6, n]
        self._weighted = (self._terms * counts[:, None]).transpose(0, 2, 1)  # [F, n, 6]
        self._per_square = 1 / sigma**2
        self._bump = alpha / (ROOT_TWO_PI * sigma)

    def __call__(self, at: Point) -> tuple[float, Point, list[Block]]:
        half, one = -0.5 * self._per_square, self._per_square
        rows = np.array([[half * (x * x + y * y), one * x, one * y, half, 0.0, half] for x, y in at])
        exponents = rows[:, None] @ self._terms  # [F, 1, n]
        sums = (np.exp(exponents) @ self._weighted)[:, 0].tolist()  # F times six
        cost, gradient, blocks = 0.0, [], []
        first, second = self._bump * one, self._bump * one * one
        for (x, y), (total, sx, sy, sxx, sxy, syy) in zip(at, sums):
            cost += x * x + y * y + self._bump * total
            gradient.append((2 * x - first * (x * total - sx), 2 * y - first * (y * total - sy)))
            bend = 2 - first * total
            blocks.append((
                bend + second * (x * (x * total - 2 * sx) + sxx),
                second * (x * (y * total - sy) - y * sx + sxy),
                bend + second * (y * (y * total - 2 * sy) + syy),
            ))  # fmt: skip
        return cost, gradient, blocks


def minimise(
    plan: NDArray[np.float64],
    obstacles: NDArray[np.float64],
    counts: NDArray[np.float64],
    sigma: float,
    alpha: float,
    max_iterations: int,
) -> NDArray[np.float64] | None:
    """The path [F, 2] (m) to which IPOPT gets from ``plan`` [F, 2]; None where a step of it would need what is not here.

    obstacles: [F, n, 2] m; counts: [F, n], how many lie there, 0 for none. sigma (m), alpha: of an obstacle's Gaussian.
    """
    near = np.flatnonzero(counts.any(1))
    found = plan.copy()
    if len(near):
        with np.errstate(all="ignore"):  # what is not finite is given up
            cost = _Cost(obstacles[near] - plan[near, None], counts[near], sigma, alpha)
            moved = _descend(cost, plan[near].tolist(), max_iterations)
        if moved is None:
            return None
        found[near] += moved
    return found


def _descend(cost: _Cost, plan: list[list[float]], max_iterations: int) -> Point | None:
    """From the plan to a minimum: how far each position moved."""
    at: Point = [(0.0, 0.0)] * len(plan)
    value, gradient, blocks = cost(at)
    steepest = _largest(gradient)
    scale = max(FIRST_GRADIENT / steepest, LEAST_SCALE) if steepest > FIRST_GRADIENT else 1.0
    shift, shortened, acceptable = 0.0, 0, 0  # steps in a row, iterations in a row
    for _ in range(max_iterations):
        error = scale * steepest
        if not math.isfinite(error):
            return None
        if error <= TOLERANCE and steepest <= LARGEST_GRADIENT:
            return at
        acceptable = acceptable + 1 if error <= ACCEPTABLE else 0
        solved = _newton_step(gradient, blocks, scale, shift)
        if solved is None or acceptable == ACCEPTABLE_ITERATIONS or shortened == SHORTENED_STEPS:
            return None
        step, slope, shift = solved
        if _is_tiny(step, at, plan):
            return None  # as far as rounding allows, and not at the tolerance
        halvings, length = 0, 1.0
        while True:
            trial = _along(at, length, step)
            found = cost(trial)
            # Far enough, and rounding is forgiven; False where it is no number
            if scale * (found[0] - value) - ARMIJO * length * slope <= TINY * abs(scale * value):
                break
            halvings, length = halvings + 1, length / 2
            if halvings > MOST_HALVINGS:
                return None
        at, (value, gradient, blocks) = trial, found
        steepest = _largest(gradient)
        shortened = shortened + 1 if halvings else 0
    return None


def _largest(gradient: Point) -> float:
    """Of all entries' sizes; not finite where one is not."""
    largest = total = 0.0
    for x, y in gradient:
        x, y = abs(x), abs(y)
        total += x + y
        largest = max(largest, x, y)
    return largest if math.isfinite(total) else math.inf


def _newton_step(gradient: Point, blocks: list[Block], scale: float, last: float) -> tuple[Point, float, float] | None:
    """The step; how fast the scaled cost changes along it; and the shift that the next one begins from, which is what was added
    to the diagonal here or, where nothing was, ``last``."""
    shift = 0.0
    while True:
        step, slope = [], 0.0
        for (gx, gy), (xx, xy, yy) in zip(gradient, blocks):
            xx, xy, yy = scale * xx + shift, scale * xy, scale * yy + shift
            determinant = xx * yy - xy * xy
            if not (xx > 0 and determinant > 0):
                break
            dx, dy = scale * (xy * gy - yy * gx) / determinant, scale * (xy * gx - xx * gy) / determinant
            step.append((dx, dy))
            slope += gx * dx + gy * dy
        else:
            if shift and any(map(_is_undecided, gradient, blocks, step)):
                return None
            return step, scale * slope, shift or last
        if shift == 0:
            shift = FIRST_SHIFT if last == 0 else max(LEAST_SHIFT, last / 3)
        else:
            shift *= 100 if last == 0 or 1e5 * last < shift else 8
        if shift > LARGEST_SHIFT:
            return None


def _is_undecided(gradient: tuple[float, float], block: Block, step: tuple[float, float]) -> bool:
    """Whether the cost falls to both sides alike and rounding, grown from step to step, is about to decide between them: a plan
    along the middle of a symmetric scene. IPOPT's own rounding is part of its answer there."""
    (gx, gy), (xx, xy, yy), (dx, dy) = gradient, block, step
    lowest = (xx + yy) / 2 - math.hypot((xx - yy) / 2, xy)
    if lowest >= 0:
        return False
    vx, vy = (xy, lowest - xx) if xx > yy else (lowest - yy, xy)  # its eigenvector
    size = math.hypot(vx, vy)
    return abs(gx * vx + gy * vy) <= SLIGHT * size and abs(dx * vx + dy * vy) >= GROWN * size


def _is_tiny(step: Point, at: Point, plan: list[list[float]]) -> bool:
    """Whether it changes no coordinate by more than rounding does."""
    for (dx, dy), (x, y), (px, py) in zip(step, at, plan):
        if abs(dx) > TINY * (1 + abs(px + x)) or abs(dy) > TINY * (1 + abs(py + y)):
            return False
    return True


def _along(at: Point, length: float, step: Point) -> Point:
    return [(x + length * dx, y + length * dy) for (x, y), (dx, dy) in zip(at, step)]
