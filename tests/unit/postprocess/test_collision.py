"""The collision optimiser, against upstream's and on paths whose answer is plain."""

from __future__ import annotations

import math
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from helpers.recorded import Recorded
from helpers.specs import edit, full_spec, tiny_spec
from uniad.config.read import load_spec
from uniad.config.spec import CompatSpec
from uniad.errors import UserError
from uniad.postprocess import collision, newton
from uniad.training.identity import HARMLESS_SPEC_KEYS

TINY = tiny_spec(2).model.stage2.plan
SPECS = {"tiny": TINY, "base": full_spec(2, model__stage2__plan__bev_hw=(50, 50)).model.stage2.plan}
FIXED = CompatSpec(collision_pixels="fixed")
GRID = ((-12.5, 12.5, 0.5), (-12.5, 12.5, 0.5))
SOLVERS = ("newton", "ipopt")
SAME = 1e-9  # m between the solvers' optima, whose own tolerance is 1e-8: measured 6e-14 in 3000 of ``problems``
METRES = 1e-5  # the same steps of the same solver: measured 0; rounding alone stays below its own tolerance of 1e-8


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded.extract("planning")


def ahead(step: float = 2.0) -> np.ndarray:
    return np.stack([np.zeros(6), np.arange(1, 7) * step], -1).astype(np.float32)


def occupied(*cells: tuple[int, int, int]) -> np.ndarray:
    """[5, 50, 50], with (frame, row, column) taken."""
    occ = np.zeros((5, 50, 50), np.int32)
    for cell in cells:
        occ[cell] = 1
    return occ


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("case", range(4))
def test_recorded_optima(case: int, solver: str, recorded: Recorded) -> None:
    at = f"metrics/colopt{case}/"
    obstacles = [recorded.arrays[f"{at}obs{t}"] for t in range(6)]
    found = collision.solve(recorded.arrays[at + "ref"], obstacles, TINY.col_sigma, TINY.col_alpha, solver)
    np.testing.assert_allclose(found, recorded.arrays[at + "out"], atol=METRES)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(("name", "frame"), [("tiny", 0), ("tiny", 1), ("tiny", 2), ("base", 0), ("base", 1)])
def test_recorded_frames_from_occupancy_to_path(name: str, frame: int, solver: str, recorded: Recorded) -> None:
    at = f"{name}/f{frame}/"
    before, after = (recorded.arrays[f"{at}{when}_collision_optim"][0] for when in ("before", "after"))
    found = collision.optimise_plan(before, recorded.arrays[at + "occ"], edit(SPECS[name], col_solver=solver))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, after, atol=METRES)


def test_cells_are_truncated_to_whole_metres_as_in_upstream() -> None:
    # columns 20..29 lie at x = -2.25, -1.75, .. 2.25; row 29 at y = 2.25
    occ = occupied(*((1, 29, c) for c in range(20, 30)))
    found = collision.near_obstacles(ahead(), occ != 0, TINY)
    assert found[0][:, 0].tolist() == [-2, -1, -1, 0, 0, 0, 0, 1, 1, 2]
    assert set(found[0][:, 1]) == {2.0}
    exact = collision.near_obstacles(ahead(), occ != 0, TINY, FIXED, GRID)
    np.testing.assert_allclose(exact[0][:, 0], np.arange(-2.25, 2.5, 0.5))
    assert set(exact[0][:, 1]) == {2.25}


@pytest.mark.parametrize(("compat", "grid"), [(None, None), (FIXED, GRID), (FIXED, ((-20.0, 30.0, 1.0), (-40.0, 10.0, 1.0)))])
def test_obstacles_are_all_cells_within_the_range_and_in_order(compat: CompatSpec | None, grid: object) -> None:
    rng = np.random.default_rng(3)
    for share in (0.02, 0.3):
        plan = np.cumsum(rng.normal(scale=3, size=(6, 2)), 0).astype(np.float32)
        occ = (rng.random((5, 50, 50)) < share).astype(np.int64)
        for t, found in enumerate(collision.near_obstacles(plan, occ, TINY, compat, grid)):
            cells = np.argwhere(occ[min(t + 1, 4)])[:, ::-1]
            if compat is None:
                centre = np.trunc((cells - 25) * 0.5 + 0.25)
            else:
                low, step = np.array([[b[0], b[2]] for b in grid]).T
                centre = low + (cells + 0.5) * step
            near = ((plan[t] - centre.astype(np.float32)) ** 2).sum(1) < TINY.col_filter_range**2
            assert found.dtype == np.float64 and np.array_equal(found, centre[near])


def test_steps_see_the_next_frame_and_at_last_the_last_one() -> None:
    occ = np.stack([np.eye(50, dtype=bool) & False] * 5)
    for frame in range(5):
        occ[frame, 25 + frame, 25] = True  # at y = frame / 2 + 0.25, truncated
    standing = np.zeros((6, 2), np.float32)
    found = [o.tolist() for o in collision.near_obstacles(standing, occ, TINY, FIXED, GRID)]
    assert found == [[[0.25, y]] for y in (0.75, 1.25, 1.75, 2.25, 2.25, 2.25)]


def test_far_cells_leave_the_plan_alone_to_the_bit() -> None:
    plan = ahead(0.5)
    for occ in (occupied(), occupied((1, 48, 2)), occupied((0, 26, 25))):  # none, 14 m away, in the present only
        assert np.array_equal(collision.optimise_plan(plan, occ, TINY), plan)


def test_a_cell_beside_the_path_pushes_it_to_the_other_side() -> None:
    plan = ahead()
    moved = collision.optimise_plan(plan, occupied((1, 29, 27)), TINY, FIXED, GRID)  # at x = 1.25, y = 2.25, first step
    assert moved[0, 0] < -0.2
    np.testing.assert_allclose(moved[1:], plan[1:], atol=1e-4)  # the other steps are free


def problems(count: int, seed: int) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
    """Plans and obstacles of many kinds: scattered, whole metres, in one place near or on the plan, everywhere, one side full."""
    rng = np.random.default_rng(seed)
    axes = [(np.arange(-16, 16, cell) + cell / 2, np.arange(-8, 48, cell) + cell / 2) for cell in (0.5, 1)]
    lattices = [np.stack(np.meshgrid(*sides), -1).reshape(-1, 2) for sides in axes]
    for number in range(count):
        ahead = rng.uniform(0, 6) * np.arange(1, 7)
        plan = np.stack([rng.normal(scale=0.005) * ahead**2, ahead], -1).astype(np.float32).astype(np.float64)
        obstacles = []
        for at in plan:
            if number % 6 == 0:
                found = at + rng.uniform(-5, 5, (rng.integers(0, 40), 2))
            elif number % 6 == 1:
                found = np.trunc(at + rng.uniform(-5, 5, (rng.integers(0, 300), 2)))
            elif number % 6 in (2, 3):
                found = np.repeat(at[None] + (number % 6 == 2) * rng.normal(scale=0.5, size=2), rng.integers(0, 60), 0)
            else:
                lattice = lattices[number % 6 - 4]
                near = ((lattice - at) ** 2).sum(1) < 25
                found = lattice[near if number % 6 == 4 else near & ((lattice - at) @ rng.normal(size=2) > rng.normal())]
            obstacles.append(found)
        yield plan, obstacles


def test_the_quick_solver_ends_where_ipopt_does(monkeypatch: pytest.MonkeyPatch) -> None:
    handed_over, moved = [], 0
    ipopt = collision._ipopt
    monkeypatch.setattr(collision, "_ipopt", lambda *given: handed_over.append(given))
    for plan, obstacles in problems(180, seed=0):
        found = collision.solve(plan, obstacles, TINY.col_sigma, TINY.col_alpha)
        expected = ipopt(plan, obstacles, TINY.col_sigma, TINY.col_alpha)
        np.testing.assert_allclose(found, expected, rtol=0, atol=SAME)
        moved += np.abs(expected - plan).max() > 0.1
    assert moved > 100 and not handed_over


def test_what_the_quick_solver_gives_up_is_ipopts(monkeypatch: pytest.MonkeyPatch) -> None:
    # Along the middle of a grid that is full: both sides are alike, and IPOPT's rounding decides after 165 iterations
    plan, dense = ahead(1.0), np.ones((5, 50, 50), np.int32)
    obstacles = collision.near_obstacles(plan, dense, TINY)
    places, counts = collision._padded(obstacles, [np.ones(len(o)) for o in obstacles], max(map(len, obstacles)))
    assert collision.minimise(plan.astype(float), places, counts, TINY.col_sigma, TINY.col_alpha, 500) is None
    paths = [collision.optimise_plan(plan, dense, edit(TINY, col_solver=solver)) for solver in SOLVERS]
    assert np.array_equal(*paths) and np.abs(paths[0] - plan).max() > 1
    # As does one that does not converge
    beside = occupied((1, 29, 27))
    expected = collision.optimise_plan(plan, beside, edit(TINY, col_solver="ipopt"))
    monkeypatch.setattr(collision, "minimise", lambda *_: None)
    assert np.array_equal(collision.optimise_plan(plan, beside, TINY), expected) and not np.array_equal(expected, plan)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_the_quick_solver_ends_whatever_it_is_given(bad: float) -> None:
    places, counts = np.full((6, 8, 2), bad), np.ones((6, 8))
    found = newton.minimise(ahead().astype(float), places, counts, TINY.col_sigma, TINY.col_alpha, 500)
    assert found is None or np.isfinite(found).all()


def test_steps_that_stay_short_are_left_to_ipopt() -> None:
    """IPOPT has a watchdog for these; an answer found without it need not be IPOPT's."""

    def cost(at: newton.Point) -> tuple[float, newton.Point, list[newton.Block]]:
        """A steep valley on a slope: every full step leaves it by the other side."""
        x, y = at[0]
        return 1e3 * abs(x) - y, [(1e3 * math.copysign(1, x), -1.0)], [(1.0, 0.0, 1.0)]

    assert newton._descend(cost, [[0.5, 0.0]], 40) is None


def test_the_solver_is_a_config_value_that_trainings_do_not_depend_on() -> None:
    config = "projects/configs/stage2_e2e/tiny_imgx0.25_e2e.py"
    assert load_spec(config).model.stage2.plan.col_solver == "newton"
    assert load_spec(config, ["native.collision_solver=ipopt"]).model.stage2.plan.col_solver == "ipopt"
    with pytest.raises(UserError, match="native supports 'newton', 'ipopt'"):
        load_spec(config, ["native.collision_solver=ipopts"])
    assert "model.plan.col_solver" in HARMLESS_SPEC_KEYS


def test_a_config_without_optimiser_and_other_shapes() -> None:
    occ = occupied((1, 29, 27))
    assert np.array_equal(collision.optimise_plan(ahead(), occ, edit(TINY, use_col_optim=False)), ahead())
    with pytest.raises(UserError, match="once for each sample"):
        collision.optimise_plan(ahead()[None], occ[None], TINY)
    with pytest.raises(UserError, match="pass grid"):
        collision.optimise_plan(ahead(), occ, TINY, FIXED)


def test_a_solver_that_gives_up_keeps_the_plan_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collision, "solve", lambda *_: None)
    with pytest.warns(UserWarning, match="found no solution"):
        assert np.array_equal(collision.optimise_plan(ahead(), occupied((1, 29, 27)), TINY), ahead())


@pytest.mark.parametrize(("compat", "sizes"), [(None, 5), (FIXED, 7)])
@pytest.mark.filterwarnings("error")  # all have an answer, that of all cells after 165 iterations
def test_no_frame_waits_for_a_solver_to_be_made(compat: CompatSpec | None, sizes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert collision.prepare(TINY, compat, GRID) == sizes
    monkeypatch.setattr(collision.casadi, "nlpsol", lambda *_: pytest.fail("a solver is made in a frame"))
    rng = np.random.default_rng(0)
    dense = np.ones((5, 50, 50), np.int32)  # every cell in reach of every step
    for occ in (dense, *(rng.random((5, 50, 50)) < share for share in (0.01, 0.1, 0.3))):
        for start in (0.0, 0.26, 0.49):
            collision.optimise_plan(ahead(1.0) + np.float32(start), occ, TINY, compat, GRID)
    assert collision.prepare(edit(TINY, use_col_optim=False), compat, GRID) == 0


def test_the_solver_ends_whatever_it_is_given() -> None:
    solver = collision._solver(6, 8, TINY.col_sigma, TINY.col_alpha)
    with_nan = np.concatenate([ahead().ravel(), np.full(6 * 8 * 3, np.nan)])
    solver(x0=ahead().ravel(), p=with_nan)
    assert not solver.stats()["success"] and solver.stats()["iter_count"] <= collision.MAX_ITERATIONS
    rng = np.random.default_rng(1)
    for _ in range(20):  # far from the bound where there is an answer
        places = [np.trunc(rng.uniform(-5, 5, (40, 2))) + step for step in ahead()]
        assert collision.solve(ahead(), places, TINY.col_sigma, TINY.col_alpha) is not None


def test_a_runtime_makes_them_before_its_first_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    from uniad.deploy.runtime import Runtime

    made = []
    monkeypatch.setattr(collision, "prepare", lambda plan, compat, grid: made.append((plan, grid)))
    spec = tiny_spec(2)
    Runtime(SimpleNamespace(name="", image_device="", __enter__=lambda: made.append("opened")), spec)
    assert made == [(spec.model.stage2.plan, (spec.model.stage2.occ.xbound, spec.model.stage2.occ.ybound)), "opened"]
