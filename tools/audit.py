#!/usr/bin/env python3
"""What a model's plan rests on: images, ego status, command; beside planners that see nothing, by manoeuvre and speed.

Writes report.md, report.json and audit.png, one page. Ctrl-C ends it; what is done is kept, and the same command goes on.
"""

from __future__ import annotations

import argparse
import sys

import _environment  # noqa: F401

from uniad.assess.options import add_options, check_least
from uniad.errors import run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    add_options(p, least_frames=2)
    p.add_argument("--seed", type=int, default=0, help="of the planner that is trained on ego status alone")
    return p.parse_args()


def main() -> int:
    args = parse_args()
    check_least(args, frames=2, jobs=1, seed=0)
    from tqdm import tqdm

    from uniad.assess.audit import CONDITIONS
    from uniad.assess.audit_report import PICTURE, run
    from uniad.assess.conditions import Opening
    from uniad.deploy.plausible import Limits
    from uniad.files import alone_in
    from uniad.formats.report import PAGE_FILE, plain

    Limits.parse(args.limits)  # told before the model is loaded, which takes longer
    opening = Opening(
        str(args.model), args.config, tuple(args.cfg_options), args.backend, args.device, tuple(args.limits)
    )
    with tqdm(total=len(CONDITIONS), unit="condition", desc="audit", disable=None) as bar, alone_in(args.out):
        report = run(opening, args.out, args.scene, args.frames, args.seed, args.jobs, lambda _: bar.update())
    print("\n".join([*report.findings, "", plain(report.tables[0]), ""]))
    print(f"{'passed' if report.passed else 'not passed'}: {args.out / PAGE_FILE}, {args.out / PICTURE}")
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main, "finished conditions are kept, the same command goes on"))
