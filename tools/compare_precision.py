#!/usr/bin/env python3
"""Score graphs of one model on the validation split with the evaluation's own metrics, and show what the others lose."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("reference", type=Path, help="graph (ONNX or engine) that the others are held against, such as the fp32 one")
    p.add_argument("others", type=Path, nargs="+", metavar="other", help="graph of the same model in another precision")
    p.add_argument("--out", type=Path, help="JSON report of a single other (default: OTHER.metrics.json)")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--threads", type=int, default=0, help="onnxruntime's threads (default: its own choice)")
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE", help="config values on top, such as data_root")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    from uniad.evaluation.compare_metrics import compare_graphs, comparison_table
    from uniad.files import atomic_path, try_place, write_results

    def progress(name: str, done: int, frames: int) -> None:
        if done % 20 == 0 or done == frames:
            print(f"  {name}: frame {done} of {frames}", flush=True)

    if args.out and len(args.others) > 1:
        raise UserError(f"--out {args.out}: is the report of one graph; without it each of the {len(args.others)} gets its own")
    places = [args.out or Path(f"{other}.metrics.json") for other in args.others]
    for place in places:
        try_place(place)
    try:
        reports = compare_graphs(args.reference, args.others, args.device, args.threads, args.cfg_options, progress)
        for out, report in zip(places, reports):
            said = comparison_table(report)
            print(said, end="\n\n", flush=True)

            def write(folder: Path, out: Path = out, report: dict = report) -> None:
                with atomic_path(folder / out.name) as temporary:
                    temporary.write_text(json.dumps(report, indent=2) + "\n")

            write_results(out.parent, write, lambda report=report: json.dumps(report))
            print(out, flush=True)
    except FileNotFoundError as error:
        raise UserError(f"{error.filename}: no such file; `make data` prepares the dataset") from None


if __name__ == "__main__":
    run_cli(main)
