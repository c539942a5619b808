#!/usr/bin/env python3
"""Replay one recorded sequence through two exports of a step and print how they differ. Exit 1 where one is over tolerance."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("first", type=Path, help="an exported graph; its sequence is replayed")
    p.add_argument("second", type=Path, help="another export of the same checkpoint, such as with --sampling gather")
    p.add_argument("--out", type=Path, help="JSON report")
    return p.parse_args()


def main() -> int:
    args = parse_args()
    from uniad.bisect.recorded import locate_command
    from uniad.files import try_place
    from uniad.verify.run import write_report
    from uniad.verify.sampling import compare_sampling, table

    if args.out:
        try_place(args.out)
    reports = compare_sampling(args.first, args.second)
    print(f"{reports[0].frames} frames, {reports[0].tracks} reported tracks; largest differences")
    print("\n".join(table(reports)))
    for path, report in zip((args.first, args.second), reports):
        for fault in report.faults[:3]:
            print(f"  {path.name}: {fault}", file=sys.stderr)
        if not report.ok:
            print(f"  to find the first tensor that departs: {locate_command(path, 'onnxruntime', 'fp32')}", file=sys.stderr)
    ok = all(report.ok for report in reports)
    if args.out and ok:
        write_report(args.out, reports)
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(run_cli(main))
