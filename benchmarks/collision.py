#!/usr/bin/env python3
"""What the collision optimiser adds to a frame, on the host: IPOPT made when a frame needs it, made before the first, and the
solver of its own that takes IPOPT's steps.

Plans among boxes of occupied cells, from a seed; the same for all, each in a process of its own. With ``--outputs FILE.npz``
(plan_traj [n, 6, 2] and occ_seg [n, 5, h, w]; ``latency.py --out`` keeps such files) those frames instead. The paths of the
first two must be the same to the bit; of the third, the table says how far they are from these.

    benchmarks/collision.py --frames 1000
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import _tools  # noqa: F401

import numpy as np

from uniad.config.read import load_spec
from uniad.errors import UserError, run_cli

CONFIG = "projects/configs/stage2_e2e/tiny_imgx0.25_e2e.py"
SAME_M = 1e-6  # plans are float32: 4e-6 m at 60 m


def frames(count: int, seed: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """plan_traj [n, P, 2] and occ_seg [n, 5, 50, 50]: a car that drives on at up to 12 m/s among up to six boxes near its way."""
    rng = np.random.default_rng(seed)
    plans, occupied = np.zeros((count, steps, 2), np.float32), np.zeros((count, 5, 50, 50), np.int32)
    for plan, occ in zip(plans, occupied):
        speed, turn = rng.uniform(0, 12), rng.normal(scale=0.05)
        ahead = speed * 0.5 * np.arange(1, steps + 1)
        plan[:, 0], plan[:, 1] = turn * ahead**2 / 10, ahead
        for _ in range(rng.integers(0, 7)):
            row, column, length, width = rng.integers(22, 50), rng.integers(10, 40), rng.integers(4, 14), rng.integers(3, 6)
            for t in range(5):
                start = row + t * rng.integers(0, 2)
                occ[t, start : start + length, column : column + width] = 1
    return plans, occupied


def timed(queue: Any, config: str, solver: str, warm: bool, fixed: bool, plans: np.ndarray, occupied: np.ndarray) -> None:
    from uniad.postprocess.collision import optimise_plan, prepare

    stage2, compat = load_spec(config).model.stage2, load_spec(config).model.compat
    assert stage2 is not None
    plan, grid = replace(stage2.plan, use_col_optim=True, col_solver=solver), (stage2.occ.xbound, stage2.occ.ybound)
    compat = replace(compat, collision_pixels="fixed") if fixed else compat
    begun = time.perf_counter()
    if warm:
        prepare(plan, compat, grid)
    ready, took, paths = time.perf_counter() - begun, [], []
    for traj, occ in zip(plans, occupied):
        begun = time.thread_time()  # of this thread's processor: other jobs of the machine do not count
        paths.append(optimise_plan(traj, occ, plan, compat, grid))
        took.append(1e3 * (time.thread_time() - begun))
    queue.put((ready, np.array(took), np.stack(paths)))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--config", default=CONFIG)
    p.add_argument("--frames", type=int, default=1000)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--fixed", action="store_true", help="collision_pixels=fixed, whose cells lie four times as dense")
    p.add_argument("--outputs", type=Path, help="frames that a model gave")
    args = p.parse_args()
    if args.frames < 1:
        raise UserError(f"--frames {args.frames}: should be above 0")
    stage2 = load_spec(args.config).model.stage2
    if stage2 is None:
        raise UserError(f"{args.config}: has no plan; name a config of stage 2")
    if args.outputs is None:
        plans, occupied = frames(args.frames, args.seed, stage2.plan.steps)
    else:
        with np.load(args.outputs) as kept:
            plans, occupied = kept["plan_traj"][: args.frames], kept["occ_seg"][: args.frames]
    print(f"{len(plans)} frames, {args.config}")
    print("| solver | ready s | median ms | p99 ms | largest ms | moved | apart m |\n|---|---|---|---|---|---|---|")
    found, times = [], []
    for label, solver, warm in (
        ("IPOPT, made by the frame that needs it", "ipopt", False),
        ("IPOPT, made before the first frame", "ipopt", True),
        ("IPOPT's steps without IPOPT", "newton", True),
    ):
        queue: Any = multiprocessing.get_context("spawn").Queue()
        worker = multiprocessing.get_context("spawn").Process(
            target=timed, args=(queue, args.config, solver, warm, args.fixed, plans, occupied)
        )
        worker.start()
        ready, took, paths = queue.get()
        worker.join()
        found.append(paths)
        p50, p99 = np.percentile(took, (50, 99))
        times.append((p50, p99))
        moved, apart = int((paths != plans).any((1, 2)).sum()), float(np.abs(paths - found[0]).max())
        print(f"| {label} | {ready:.2f} | {p50:.2f} | {p99:.2f} | {took.max():.2f} | {moved} | {apart:.1e} |", flush=True)
    print("IPOPT takes {:.1f} times as long in the median, {:.1f} times in p99".format(*np.divide(times[1], times[2])))
    if not np.array_equal(found[0], found[1]):
        raise UserError("the two ways with IPOPT give different paths")
    if apart > SAME_M:
        raise UserError(f"without IPOPT a path is {apart:.1e} m from IPOPT's, more than {SAME_M:g}")


if __name__ == "__main__":
    run_cli(main)
