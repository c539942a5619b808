#!/usr/bin/env python3
"""Try micro-graphs that some releases of TensorRT are known to compute wrong, before anything large is built.

On this machine's back end, on a Jetson over ssh, or as a bundle to carry there. Exit 1 where one is wrong; with --onnx only those
count that concern this graph.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli

PICTURE = "canaries.png"


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--backend", default="tensorrt_rtx", help="onnxruntime, tensorrt, tensorrt_rtx or trtexec, of this machine")
    p.add_argument("--where", default="", help="user@host[:port], or bundle; empty: here")
    p.add_argument("--onnx", type=Path, help="graph to be built: canaries that it does not hold are said, and do not count")
    p.add_argument("--only", default="", help="comma list of canaries (default: all)")
    p.add_argument("--out", required=True, type=Path, help="folder of the report; with --where bundle the .tar")
    p.add_argument("--cache", type=Path, help="folder where builds look for what was found")
    p.add_argument("--folder", default="uniad-engines", help="folder on the device, from the login's home or absolute")
    p.add_argument("--ssh-flags", default="", help="further words for ssh, such as '-i key'")
    return p.parse_args()


def main() -> int:
    args = parse_args()
    from uniad.canary.catalog import concerned
    from uniad.canary.judge import WRONG, cache_file, keep
    from uniad.canary.report import report_of, short
    from uniad.canary.sets import facts_of, write_set
    from uniad.files import alone_in, try_place
    from uniad.formats.report import JSON_FILE, keep_report, plain
    from uniad.viz.canary import draw_table

    if args.where != "bundle":
        try_place(args.out / JSON_FILE)  # told before a device works for minutes
    only = [name.strip() for name in args.only.split(",") if name.strip()]
    touched = concerned(facts_of(args.onnx)) if args.onnx else None
    if args.where == "bundle":
        from uniad.jetson.build import canary_bundle

        try_place(args.out)
        canary_bundle(args.out, touched, only)
        return 0
    with tempfile.TemporaryDirectory(prefix="canaries-") as made, alone_in(args.out):
        canaries = write_set(made, only)
        if args.where:
            from uniad.jetson.build import canaries_there, device_folder
            from uniad.jetson.ssh import Remote

            with Remote(args.where, tuple(shlex.split(args.ssh_flags))) as remote:
                result = canaries_there(remote, touched, device_folder(args.folder), only)
            if result.digest != canaries.digest:
                raise UserError(f"{args.where}: what came back is of other canaries than these; run the same again")
        else:
            from uniad.canary.benches import open_bench
            from uniad.canary.gate import run_here

            result = run_here(open_bench(args.backend), canaries, each=lambda name: print(f"  {name}", flush=True))
    if args.cache and not args.where:
        keep(cache_file(args.cache, result.digest, result.backend, result.version, result.device), result)
    report = report_of(canaries, result, touched, str(args.onnx or ""), {PICTURE: "what each canary gave"})
    page = keep_report(report, args.out, lambda place: draw_table({result.where: result.outcomes}, place / PICTURE))
    print(plain(short(result)))
    for finding in report.findings:
        print(finding)
    print(page)
    counted = list(canaries.rows) if touched is None else touched
    return 1 if any(name in counted for name in result.of(*WRONG)) else 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
