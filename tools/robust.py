#!/usr/bin/env python3
"""Score a model under broken sensors: RoboBEV's corruptions and faults of a car, at three severities, relative to clean.

Writes report.json, report.md and heatmap.png. Ctrl-C ends it; what is done is kept, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import sys

import _environment  # noqa: F401

from uniad.assess.options import add_options, check_least
from uniad.errors import run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    add_options(p, least_frames=1)
    p.add_argument("--faults", nargs="+", default=["all"], metavar="NAME", help="all, or some: Fog CameraLost ... (default all)")
    p.add_argument("--severities", nargs="+", type=int, default=[3], metavar="N", help="1, 2, 3 (default 3, the hardest)")
    p.add_argument("--routes", type=int, default=0, help="drive so many routes under each fault, too (default 0; docs/drive.md)")
    p.add_argument("--seed", type=int, default=0, help="of what is drawn")
    return p.parse_args()


def main() -> int:
    args = parse_args()
    check_least(args, frames=1, jobs=1, seed=0, routes=0)
    from tqdm import tqdm

    from uniad.assess.conditions import Opening
    from uniad.assess.faults import find_faults
    from uniad.assess.robust_report import PICTURE, run
    from uniad.deploy.plausible import Limits
    from uniad.files import alone_in
    from uniad.formats.report import PAGE_FILE, plain

    # All are told before the model is loaded, which takes longer.
    Limits.parse(args.limits)
    faults = find_faults(args.faults)
    opening = Opening(
        str(args.model), args.config, tuple(args.cfg_options), args.backend, args.device, tuple(args.limits)
    )
    count = 1 + len(faults) * len(set(args.severities) - {0})
    with tqdm(total=count, unit="condition", desc="robust", disable=None) as bar, alone_in(args.out):
        report = run(
            opening, args.out, faults, args.severities, args.scene, args.frames, args.seed, args.routes, args.jobs,
            lambda _: bar.update(),
        )  # fmt: skip
    print(plain(report.tables[0]))
    print("\n".join(["", *report.findings, "", str(args.out / PAGE_FILE), str(args.out / PICTURE)]))
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main, "finished conditions are kept, the same command goes on"))
