"""The batched trajectory smoother finds the optimum that upstream's solver finds, and leaves alone what that one does."""

from __future__ import annotations

import math
from pathlib import Path

import casadi
import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.recorded import Recorded
from uniad.losses import smoother
from uniad.losses.smoother import smooth_trajectories, solve
from uniad.losses.trajectory_problem import constraints, drive, jacobians, make_problem, residuals

# IPOPT stops at 1e-8 of its own scaling; on 400 random agents both solvers agreed to 3e-7 m.
CLOSE_M = 1e-5
STEPS = 12


@pytest.fixture(params=["golden", "extract"])
def recorded(request: pytest.FixtureRequest) -> dict[str, Tensor]:
    if request.param == "extract":
        source = Recorded.extract("motion")
        return {k.removeprefix("train/smoother/"): source[k] for k in source.arrays if k.startswith("train/smoother/")}
    folder: Path = request.getfixturevalue("golden")
    with np.load(folder / "tiny_stage2_train_outputs.npz") as data:
        return {k.removeprefix("smoother/"): torch.from_numpy(data[k]) for k in data.files if k.startswith("smoother/")}


def test_recorded_futures(recorded: dict[str, Tensor]) -> None:
    got = smooth_trajectories(
        recorded["in_gt_boxes"], recorded["in_gt_fut_traj"], recorded["in_mask"][..., 0], recorded["in_pred_boxes"]
    )
    plain = recorded["in_gt_fut_traj"] - recorded["in_gt_boxes"][:, None, :2]
    assert ((recorded["out_traj"] - plain).abs().amax((1, 2)) > 0.1).sum() == 2, "two of them were smoothed"
    torch.testing.assert_close(got, recorded["out_traj"], rtol=0, atol=1e-6)


def drives(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cars that turn and brake, known for a while, and seen half a metre and a few degrees off."""
    rng = np.random.default_rng(seed)
    speed, accel, rate = rng.uniform(3, 15, count), rng.normal(0, 0.8, count), rng.normal(0, 0.15, count)
    heading, start = rng.uniform(-np.pi, np.pi, count), rng.uniform(-45, 45, (count, 2))
    time = np.arange(1, STEPS * 20 + 1) / 40
    speeds = np.maximum(speed[:, None] + accel[:, None] * time, 0)
    angle = heading[:, None] + rate[:, None] * time
    path = start[:, None] + np.cumsum(np.stack([np.cos(angle), np.sin(angle)], -1) * speeds[..., None] / 40, 1)
    length = rng.integers(4, STEPS + 1, count)
    mask = np.arange(STEPS) < length[:, None]
    traj = (path[:, 19::20] + rng.normal(0, 0.05, (count, STEPS, 2))) * mask[..., None]

    def box(xy: np.ndarray, facing: np.ndarray, velocity: np.ndarray) -> Tensor:
        out = np.zeros((count, 9))
        out[:, :2], out[:, 6] = xy, (-np.pi / 2 - facing + np.pi) % (2 * np.pi) - np.pi
        out[:, 7], out[:, 8] = velocity * np.cos(facing), velocity * np.sin(facing)
        return torch.from_numpy(out)

    off, turned, faster = rng.normal(0, 0.4, (count, 2)), rng.normal(0, 0.1, count), rng.normal(0, 1.5, count)
    seen = box(start + off, heading + turned, np.abs(speed + faster))
    return box(start, heading, speed), torch.from_numpy(traj), torch.from_numpy(mask).double(), seen


def by_ipopt(gt: np.ndarray, traj: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Places after each of n steps. traj [n, 2] absolute; the car is integrated step by step, controls are the unknowns."""
    n, dt = len(traj), 0.5
    way = np.diff(np.concatenate([np.zeros((1, 2)), traj]), axis=0)
    aim = np.concatenate([traj, np.arctan2(way[:, 1], way[:, 0])[:, None]], 1)
    u = casadi.MX.sym("u", 2 * n)
    accel, bend = u[:n], u[n:]
    state = casadi.MX(casadi.DM([*seen[:2], -math.pi / 2 - seen[6], math.hypot(*seen[7:9])]))

    def flow(s, a, k):
        return casadi.vertcat(s[3] * casadi.cos(s[2]), s[3] * casadi.sin(s[2]), s[3] * k, a)

    cost, limits, places = 0, [], []
    for i in range(n):
        a, k = accel[i], bend[i]
        cost += 0.08 * (a**2 + k**2) + 0.06 * (state[3] ** 2 * k) ** 2
        limits += [a / 4, k * 5, state[3] ** 2 * k / 4]
        one = flow(state, a, k)
        two = flow(state + dt / 2 * one, a, k)
        three = flow(state + dt / 2 * two, a, k)
        four = flow(state + dt * three, a, k)
        after = state + dt / 6 * (one + 2 * two + 2 * three + four)
        limits += [(after[2] - state[2]) / dt / 1.75, after[3] / 17.5 - 1]
        state = after
        more = n / 4 if i == n - 1 else 0
        cost += (1 + more) * casadi.sumsqr(state[:2] - aim[i, :2]) + (0.1 + 40 * more) * (state[2] - aim[i, 2]) ** 2
        places.append(state[:2])
    for control in (accel, bend):
        cost += 0.08 * casadi.sumsqr((control[1:] - control[:-1]) / dt)
    problem = {"x": u, "f": cost, "g": casadi.vertcat(*limits)}
    quiet = {"ipopt.print_level": 0, "print_time": 0, "ipopt.sb": "yes"}
    solver = casadi.nlpsol("smoother", "ipopt", problem, quiet)
    best = solver(x0=0, lbg=-1, ubg=1)["x"]
    assert solver.stats()["success"]
    return np.array(casadi.Function("places", [u], [casadi.horzcat(*places).T])(best))


def test_random_drives_against_casadi() -> None:
    gt, traj, mask, seen = drives(16, seed=3)
    got = smooth_trajectories(gt, traj, mask, seen)
    plain = traj - gt[:, None, :2]
    smoothed = 0
    for i in range(len(gt)):
        n = int(mask[i].sum())
        want = by_ipopt(gt[i].numpy(), traj[i, :n].numpy(), seen[i].numpy())
        gap = np.concatenate([[(seen[i, :2] - gt[i, :2]).numpy()], want - traj[i, :n].numpy()])
        if torch.equal(got[i], plain[i]):
            turned = math.cos(seen[i, 6] - gt[i, 6]) < math.cos(math.pi / 6)
            assert np.linalg.norm(gap, axis=-1).mean() >= 1.5 or turned or np.linalg.norm(plain[i, n - 1]) <= 2
            continue
        np.testing.assert_allclose(got[i, :n].numpy(), want - seen[i, :2].numpy(), rtol=0, atol=CLOSE_M)
        assert (got[i, n:] == 0).all()
        smoothed += 1
    assert smoothed >= 8


@pytest.mark.parametrize("speed", [0.0, 0.05, 34.99, 35.0])
def test_a_start_at_a_speed_limit(speed: float) -> None:
    heading = torch.tensor([0.3], dtype=torch.float64)
    along = torch.stack([heading.cos(), heading.sin()], -1)
    traj = (along * max(speed, 1.0) * 0.5 * torch.arange(1, 13)[:, None])[None]
    target = torch.cat([traj, heading.expand(1, 12, 1)], -1)
    start = torch.tensor([[0.0, 0.0, 0.3, speed]], dtype=torch.float64)
    problem = make_problem(start, target, torch.tensor([12.0], dtype=torch.float64))
    place = solve(problem)
    assert place.isfinite().all()
    # From rest the car cannot be there at once: it lags behind and catches up.
    assert (place - traj).norm(dim=-1).amax() < (0.6 if speed < 1 else 0.05)


def test_derivatives_are_those_of_the_functions() -> None:
    g = torch.Generator().manual_seed(0)
    start = torch.tensor([[1.0, 2.0, 0.3, 5.0]], dtype=torch.float64)
    problem = make_problem(start, torch.randn(1, 12, 3, generator=g).double(), torch.tensor([9.0]).double())
    u = torch.randn(1, 24, generator=g).double() * 0.1
    of_residuals, of_constraints = jacobians(problem, drive(problem, u))
    want = torch.func.jacrev(lambda x: residuals(problem, drive(problem, x)))(u)[0, :, 0]
    torch.testing.assert_close(of_residuals[0], want, rtol=1e-12, atol=1e-12)
    want = torch.func.jacrev(lambda x: constraints(problem, drive(problem, x), x))(u)[0, :, 0]
    torch.testing.assert_close(of_constraints[0], want[24:], rtol=1e-12, atol=1e-12)


def test_parked_lost_turned_and_unknown_agents_keep_their_true_offsets() -> None:
    gt, traj, mask, seen = drives(6, seed=5)
    traj[0] = gt[0, :2] + 0.1  # parked
    seen[1, 0] += 3.0  # found three metres off
    seen[2, 6] += 0.6  # turned by 34 degrees
    mask[3] = 0.0  # no future
    mask[4, 1:] = 0.0  # one step
    seen[5, 7] = 36.0  # too fast for any solution
    got = smooth_trajectories(gt, traj, mask, seen)
    assert torch.equal(got, traj - gt[:, None, :2])


def test_an_agent_is_smoothed_alike_in_any_company_and_precision_in_is_precision_out() -> None:
    gt, traj, mask, seen = drives(5, seed=7)
    together = smooth_trajectories(gt, traj, mask, seen)
    for i in range(5):
        alone = smooth_trajectories(gt[i : i + 1], traj[i : i + 1], mask[i : i + 1], seen[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-7)
    assert smooth_trajectories(gt.float(), traj.float(), mask.float(), seen.float()).dtype == torch.float32
    assert smooth_trajectories(gt[:0], traj[:0], mask[:0], seen[:0]).shape == (0, 12, 2)


@pytest.mark.slow
def test_the_compiled_search_finds_the_same_ways(monkeypatch):
    """What a GPU runs; here the compiler's code for a CPU."""
    generator = torch.Generator().manual_seed(3)
    start = torch.rand(6, 4, generator=generator, dtype=torch.float64) * torch.tensor([2.0, 2.0, 1.0, 10.0])
    steps = torch.arange(1, 13, dtype=torch.float64)
    target = torch.stack([steps * 2.0, steps * 0.3, torch.full_like(steps, 0.2)], -1).expand(6, -1, -1).contiguous()
    problem = make_problem(start, target, torch.tensor([12.0, 12, 8, 5, 2, 1], dtype=torch.float64))
    plain = solve(problem)
    monkeypatch.setattr(smoother, "_advance_on", lambda _: torch.compile(smoother._advance, fullgraph=True, dynamic=False))
    # Single iterations may part where two step lengths are equally good; where they lead is the same.
    torch.testing.assert_close(solve(problem), plain, rtol=0, atol=1e-6)
