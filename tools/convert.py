#!/usr/bin/env python3
"""Turns a checkpoint, an info file or motion anchors of one of UniAD's generations into the other's, and says what it changed.

    tools/convert.py data/infos/nuscenes_infos_temporal_val.pkl --to uniad-v1 --out infos_v1/nuscenes_infos_temporal_val.pkl
    tools/convert.py ckpts/uniad_base_e2e.pth --to uniad-v1 --out ckpts/uniad_base_e2e_v1code.pth

What the file is follows from its content. Converting back gives the same content again. docs/weights.md says what differs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli
from uniad.files import atomic_path, try_place

GENERATIONS = ("uniad-v1", "uniad-v2")


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("file", type=Path, help="checkpoint (.pth), info file or motion anchors (.pkl)")
    p.add_argument("--to", required=True, help="uniad-v1 or uniad-v2: the convention of the file to write")
    p.add_argument("--from", dest="said", help="what the file is, where it does not show that itself")
    p.add_argument("--out", required=True, type=Path, help="file to write")
    p.add_argument("--report", type=Path, metavar="FILE", help="the report as JSON, too")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    for name, value in (("--to", args.to), ("--from", args.said)):
        if value not in (*GENERATIONS, *([None, "bench2drive"] if name == "--from" else [])):
            more = "; Bench2Drive has other classes and commands, which no conversion gives" if value == "bench2drive" else ""
            raise UserError(f"unknown {name} {value!r}: choose {' or '.join(GENERATIONS)}{more}")
    if not args.file.is_file():
        raise UserError(f"{args.file} is a folder: name a file in it" if args.file.is_dir() else f"{args.file} not found")
    if args.report is not None and args.report.resolve() == args.out.resolve():
        raise UserError(f"--report {args.report} would overwrite what is converted (--out): give another name")
    if (args.file.suffix == ".pkl") != (args.out.suffix == ".pkl"):
        raise UserError(f"--out {args.out}: {args.file.name} becomes a file of its own kind: give a name that ends alike")
    for place in (args.out, args.report):
        if place is not None and place.resolve() == args.file.resolve():
            raise UserError(f"{place} would overwrite its own input: give another name")
    try_place(args.out, args.file.stat().st_size)
    if args.report:
        try_place(args.report)
    if args.file.suffix == ".pkl":
        from uniad.data.convert import convert_pickle as convert
    else:
        from uniad.training.convert import convert_checkpoint as convert

    report = convert(args.file, args.out, args.to, args.said)
    if args.report:
        with atomic_path(args.report) as temporary:
            temporary.write_text(json.dumps(report.to_json(), indent=2) + "\n")
    print(report)


if __name__ == "__main__":
    run_cli(main)
