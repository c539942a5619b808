"""Collision optimiser: moves a planned path away from cells predicted to be occupied (UniAD section 3.4).

A post-processing step on the host, outside the exported graph. It minimises the squared distance to the plan plus a Gaussian
bump for each occupied cell near a step. That cost has many local minima, so which of them is found depends on the solver's
steps: IPOPT, started from the plan, is part of upstream's numbers.

There are two solvers. ``newton.py`` takes IPOPT's steps without IPOPT, in a tenth of its time: on thousands of problems it ended
where IPOPT ends, to 1e-12 m. ``native.collision_solver='ipopt'`` is upstream's own, which also takes what ``newton.py`` gives up.

IPOPT through CasADi is made for a number of obstacles, in milliseconds that no frame should wait for. So there are few of these
solvers, in powers of two up to what the filter's range can hold, and ``prepare`` makes them all before the first frame.
"""

from __future__ import annotations

import math
import threading
import warnings
from functools import lru_cache

import casadi
import numpy as np
from numpy.typing import ArrayLike, NDArray

from uniad.config.spec import UPSTREAM, CompatSpec, PlanSpec
from uniad.errors import UserError
from uniad.postprocess.newton import ROOT_TWO_PI, minimise

CELL_M = 0.5  # of upstream's grid, whatever the config's grid is
UNSOLVED = "the collision optimiser found no solution"
LEAST_ROOM = 8  # obstacles of a step that the smallest solver takes
# Of IPOPT, whose own limit upstream leaves at 3000. 5700 plans among random obstacles took 8 in the median, 32 at most; one along
# the middle of a grid that is occupied everywhere, 165. A plan that has no answer by then stays as the network made it.
MAX_ITERATIONS = 500
OPTIONS = {"ipopt.print_level": 0, "ipopt.sb": "yes", "print_time": 0, "ipopt.max_iter": MAX_ITERATIONS}
_LOCK = threading.Lock()  # solvers are shared by all runtimes of a process, and say of the last call whether it succeeded

Bound = tuple[float, float, float]


def optimise_plan(
    traj: ArrayLike,
    occ_seg: ArrayLike,
    spec: PlanSpec,
    compat: CompatSpec | None = None,
    grid: tuple[Bound, Bound] | None = None,
) -> NDArray[np.float32]:
    """The path that a car should follow: ``traj`` itself where nothing is near, or where the config asks for no optimiser.

    traj: [F, 2] metres, lidar frame, 0.5 s steps; occ_seg: [F', h, w], now and the future, non-zero where occupied;
    grid: (xbound, ybound) of occ_seg as (from, to, step) in metres, read with ``collision_pixels=fixed`` only.
    """
    plan = np.asarray(traj, np.float32)
    occ = np.asarray(occ_seg)
    if plan.shape != (spec.steps, 2) or occ.ndim != 3:
        raise UserError(
            f"the collision optimiser takes one path [{spec.steps}, 2] and its occupancy [F', h, w], "
            f"not {list(plan.shape)} and {list(occ.shape)}; call it once for each sample"
        )
    if not spec.use_col_optim:
        return plan
    obstacles = near_obstacles(plan, occ, spec, compat, grid)
    if not any(len(found) for found in obstacles):
        return plan
    moved = solve(plan, obstacles, spec.col_sigma, spec.col_alpha, spec.col_solver)
    if moved is None:
        warnings.warn(f"{UNSOLVED}; the plan stays as the network made it", stacklevel=2)
        return plan
    return moved.astype(np.float32)


def near_obstacles(
    plan: NDArray[np.float32],
    occ: NDArray,
    spec: PlanSpec,
    compat: CompatSpec | None = None,
    grid: tuple[Bound, Bound] | None = None,
) -> list[NDArray[np.float64]]:
    """Occupied cells within ``col_filter_range`` of each step, [n, 2] metres (x, y). Arguments as for ``optimise_plan``.

    Upstream: the cell's centre is truncated to whole metres, towards zero, because it was kept in an integer tensor; cells are
    0.5 m and the car stands at cell ``bev_hw // 2``. ``collision_pixels=fixed`` reads the true grid. Steps later than the last
    predicted frame see that frame.
    """
    whole_metres = (compat or CompatSpec()).collision_pixels == UPSTREAM
    if grid is None and not whole_metres:
        raise UserError("collision_pixels=fixed needs the bounds of the occupancy grid; pass grid=(xbound, ybound)")
    columns, rows = np.arange(occ.shape[2]), np.arange(occ.shape[1])
    if grid is None or whole_metres:
        x, y = (np.trunc((cells - side // 2) * CELL_M + CELL_M / 2) for cells, side in zip((columns, rows), spec.bev_hw))
    else:
        x, y = (bound[0] + (cells + 0.5) * bound[2] for cells, bound in zip((columns, rows), grid))
    reach = spec.col_filter_range**2
    from_x, from_y = ((plan[:, axis : axis + 1] - at.astype(np.float32)) ** 2 for axis, at in enumerate((x, y)))  # [F, cells]
    # Of each step, the first column and row that are within the range by themselves, and how many follow: the others are not
    spans = [((apart < reach).argmax(1).tolist(), (apart < reach).sum(1).tolist()) for apart in (from_x, from_y)]
    found = []
    for t, (left, width, low, height) in enumerate(zip(*spans[0], *spans[1])):
        across, along = slice(left, left + width), slice(low, low + height)
        taken = occ[min(t + 1, len(occ) - 1), along, across] != 0
        row, column = (taken & (from_x[t, across] + from_y[t, along, None] < reach)).nonzero()
        places = np.empty((len(row), 2))
        places[:, 0], places[:, 1] = x[across][column], y[along][row]
        found.append(places)
    return found


def solve(
    plan: ArrayLike, obstacles: list[NDArray[np.float64]], sigma: float, alpha: float, solver: str = "newton"
) -> NDArray[np.float64] | None:
    """Minimise the cost from ``plan`` [F, 2] on; obstacles [n, 2] for each step. None where the solver gives up.

    solver: ``newton``, which hands to IPOPT what it gives up, or ``ipopt``.
    """
    plan = np.asarray(plan, np.float64)
    if solver == "newton":
        places, counts = _padded(obstacles, [np.ones(len(o)) for o in obstacles], max(map(len, obstacles)))
        found = minimise(plan, places, counts, sigma, alpha, MAX_ITERATIONS)
        if found is not None:
            return found
    return _ipopt(plan, obstacles, sigma, alpha)


def _ipopt(plan: NDArray[np.float64], obstacles: list[NDArray[np.float64]], sigma: float, alpha: float) -> NDArray | None:
    """As ``solve``. Obstacles at the same place are counted instead of listed: truncated cells coincide four at a time, and
    solvers for a few sizes can be kept and used again.
    """
    counted = [np.unique(o, axis=0, return_counts=True) if len(o) else (np.zeros((0, 2)), np.zeros(0)) for o in obstacles]
    room = _room(max(len(places) for places, _ in counted))
    places, counts = _padded([p for p, _ in counted], [c for _, c in counted], room)
    solver = _solver(len(plan), room, float(sigma), float(alpha))
    given = np.concatenate([plan.ravel(), places[..., 0].ravel(), places[..., 1].ravel(), counts.ravel()])
    with _LOCK:
        best, solved = solver(x0=plan.ravel(), p=given)["x"], solver.stats()["success"]
    return np.asarray(best, np.float64).reshape(plan.shape) if solved else None


def _padded(obstacles: list[NDArray], counts: list[NDArray], room: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[F, room, 2] and [F, room], with a count of 0 for none."""
    places, weights = np.zeros((len(obstacles), room, 2)), np.zeros((len(obstacles), room))
    for t, (place, count) in enumerate(zip(obstacles, counts)):
        places[t, : len(place)], weights[t, : len(place)] = place, count
    return places, weights


def prepare(spec: PlanSpec, compat: CompatSpec | None = None, grid: tuple[Bound, Bound] | None = None) -> int:
    """Make IPOPT's solver of every size that ``optimise_plan`` can ask for with these arguments, and run each once.

    Returns how many there are; 0 where the config asks for no optimiser. What is made already is kept, for the process.
    """
    if not spec.use_col_optim:
        return 0
    cell = 1.0 if grid is None or (compat or CompatSpec()).collision_pixels == UPSTREAM else min(b[2] for b in grid)
    # A disc of radius r has fewer lattice points than one larger by half a cell's diagonal has cells.
    most = _room(math.ceil(math.pi * (spec.col_filter_range / cell + math.sqrt(0.5)) ** 2))
    rooms = [LEAST_ROOM << i for i in range((most // LEAST_ROOM).bit_length())]
    still = np.zeros((spec.steps, 2))
    for room in rooms:
        places = np.stack([np.arange(room) / room + 1.0, np.ones(room)], -1)
        _ipopt(still, [places] * spec.steps, spec.col_sigma, spec.col_alpha)
    return len(rooms)


def _room(obstacles: int) -> int:
    """Of the smallest solver that takes so many."""
    return max(LEAST_ROOM, 1 << max(obstacles - 1, 0).bit_length())


@lru_cache(maxsize=32)
def _solver(steps: int, room: int, sigma: float, alpha: float) -> casadi.Function:
    """IPOPT on the cost of ``steps`` positions (x0, y0, x1, ...). Parameters: the plan, then x, y and count of ``room``
    obstacles for each step; count 0 for none."""
    position, plan = casadi.SX.sym("position", 2 * steps), casadi.SX.sym("plan", 2 * steps)
    x, y, count = (casadi.SX.sym(name, room * steps) for name in ("x", "y", "count"))
    cost = casadi.sumsqr(plan - position)
    for t in range(steps):
        here = slice(t * room, (t + 1) * room)
        square = (position[2 * t] - x[here]) ** 2 + (position[2 * t + 1] - y[here]) ** 2
        cost += alpha / (ROOT_TWO_PI * sigma) * casadi.dot(count[here], casadi.exp(-square / 2 / sigma**2))
    problem = {"x": position, "p": casadi.vertcat(plan, x, y, count), "f": cost}
    return casadi.nlpsol("collision", "ipopt", problem, OPTIONS)
