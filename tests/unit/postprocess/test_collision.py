"""The collision optimiser, against upstream's and on paths whose answer is plain."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from helpers.recorded import Recorded
from helpers.specs import edit, full_spec, tiny_spec
from uniad.config.spec import CompatSpec
from uniad.errors import UserError
from uniad.postprocess import collision

TINY = tiny_spec(2).model.stage2.plan
SPECS = {"tiny": TINY, "base": full_spec(2, model__stage2__plan__bev_hw=(50, 50)).model.stage2.plan}
FIXED = CompatSpec(collision_pixels="fixed")
GRID = ((-12.5, 12.5, 0.5), (-12.5, 12.5, 0.5))
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


@pytest.mark.parametrize("case", range(4))
def test_recorded_optima(case: int, recorded: Recorded) -> None:
    at = f"metrics/colopt{case}/"
    obstacles = [recorded.arrays[f"{at}obs{t}"] for t in range(6)]
    found = collision.solve(recorded.arrays[at + "ref"], obstacles, TINY.col_sigma, TINY.col_alpha)
    np.testing.assert_allclose(found, recorded.arrays[at + "out"], atol=METRES)


@pytest.mark.parametrize(("name", "frame"), [("tiny", 0), ("tiny", 1), ("tiny", 2), ("base", 0), ("base", 1)])
def test_recorded_frames_from_occupancy_to_path(name: str, frame: int, recorded: Recorded) -> None:
    at = f"{name}/f{frame}/"
    before, after = (recorded.arrays[f"{at}{when}_collision_optim"][0] for when in ("before", "after"))
    found = collision.optimise_plan(before, recorded.arrays[at + "occ"], SPECS[name])
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
