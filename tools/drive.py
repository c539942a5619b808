#!/usr/bin/env python3
"""Drive a model through the synthetic world, in closed loop, beside the expert and the baselines; score all of them.

Each route and policy gives one JSON; the table of scores stands in report.json and report.md beside them. A run that is
interrupted goes on where it was when it is started again. docs/drive.md says how the loop works and what the scores mean.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import _environment  # noqa: F401

from uniad.backends.options import add_options
from uniad.errors import UserError, run_cli

if TYPE_CHECKING:
    from uniad.simulation.run import Job

TRAINED_ON = range(11, 100)  # seeds of worlds that the shipped models were trained on, or may be


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("model", nargs="?", help="ONNX, engine, or a checkpoint with --config; none: the baselines alone")
    p.add_argument("--out", required=True, type=Path, help="folder for the drives and the report")
    add_options(p)
    p.add_argument("--routes", type=int, default=20, help="how many routes (default 20); each seed's world has four")
    p.add_argument("--seed", type=int, default=100, help="of the first world (default 100)")
    p.add_argument("--traffic", default="reactive", choices=("replay", "reactive"), help="whether others see the car")
    # What make passes on cannot be quoted, so that a dash stands for a blank.
    p.add_argument("--policies", nargs="*", type=lambda name: name.replace("-", " "),
                   help="which ones, with dashes for blanks (default: all; without a model those that need none)")
    p.add_argument("--videos", type=int, default=0, metavar="N", help="MP4s of the first N routes, as the model drove them")
    p.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes, each with one thread (default: all cores)")
    return p.parse_args()


def main() -> int:
    args = parse_args()
    from uniad.files import alone_in, try_place
    from uniad.formats.report import JSON_FILE
    from uniad.simulation.policies import BASELINES
    from uniad.simulation.run import POLICIES, Driver, Job

    if args.videos < 0:
        raise UserError(f"--videos {args.videos}: give 0 or more")
    policies = args.policies or (POLICIES if args.model else BASELINES)
    if "expert" not in policies:
        policies = (*policies, "expert")  # the others are measured by its progress
    driver = None
    if args.model:
        if not Path(args.model).is_file():
            raise UserError(f"{args.model} does not exist; name an ONNX, an engine, or a checkpoint with --config")
        driver = Driver(args.model, args.config, args.backend, args.device, tuple(args.cfg_options))
    job = Job(args.seed, args.routes, args.traffic, tuple(policies), driver)
    try_place(args.out / JSON_FILE)
    known = sorted({seed for _, seed, _ in job.drives()} & set(TRAINED_ON))
    if known and driver:
        print(f"note: the shipped nano was trained on worlds of seeds 11 to 42, and 43 to 99 are kept for training: seed "
              f"{known[0]} may be one that the model has seen", file=sys.stderr)  # fmt: skip
    if driver:
        driver.open().close()  # what cannot be opened is told here, not by a worker
    with alone_in(args.out):
        drive_all(args, job)
    return 0


def drive_all(args: argparse.Namespace, job: Job) -> None:
    """Makes the drives that are missing, scores all of them, and writes the report."""
    from tqdm import tqdm

    from uniad.formats.report import Report, keep_report, plain
    from uniad.simulation.run import MODEL, read_all, run, speed
    from uniad.simulation.score import score_all
    from uniad.simulation.table import findings, routes_table, summary, tables

    with tqdm(total=len(job.drives()), unit="drive", desc="drive", disable=None) as bar:

        def progress(done: int, total: int) -> None:
            bar.update(done - bar.n)

        took = run(job, args.out, args.jobs, progress)
    logs = read_all(job, args.out)
    scores = score_all(logs)
    judged = MODEL if MODEL in job.policies else job.policies[0]
    measured = {name: speed(took, name) for name in job.policies}
    report = Report(
        kind="drive",
        title=f"{args.routes} routes from seed {args.seed}, driven in closed loop",
        subject={"model": args.model or "none", "backend": args.backend, "device": args.device},
        setting={"seed": args.seed, "routes": args.routes, "traffic": args.traffic},
        tables=[*tables(scores), routes_table(scores)],
        findings=findings(scores, judged),
        details={"scores": summary(scores), "speed": measured},
    )
    page = keep_report(report, args.out)
    if args.videos:
        from uniad.viz.drive_video import write_videos

        for video in write_videos(judged, logs, scores, args.videos, args.out):
            print(video)
    for table in report.tables[:3]:
        print(plain(table), end="\n\n")
    print("\n".join(report.findings))
    if measured.get(judged):
        m = measured[judged]
        print(f"{m['frames']:.0f} frames of {judged}: {m['frames_per_s']:.2f} a second in each process, rendering included; "
              f"{m['cpu_s']:.2f} s of processor time a frame; its step {m['step_ms_p50']:.0f} ms (p50), "
              f"{m['step_ms_p99']:.0f} ms (p99)")  # fmt: skip
    print(page)


if __name__ == "__main__":
    sys.exit(run_cli(main, "finished drives are kept, the same command goes on"))
