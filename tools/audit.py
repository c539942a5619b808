#!/usr/bin/env python3
"""What a model's plan rests on: images, ego status, command; beside planners that see nothing, by manoeuvre and speed.

Writes report.md, report.json and audit.png, one page. Ctrl-C ends it; what is done is kept, and the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("model", type=Path, help="checkpoint with --config, ONNX or TensorRT engine; of the end-to-end model")
    p.add_argument("--out", required=True, type=Path, help="folder for the report")
    p.add_argument("--config", help="config of a checkpoint; of an ONNX or engine its card names it")
    p.add_argument("--backend", default="auto", help="auto, torch, compiled, onnxruntime, tensorrt, tensorrt_rtx or trtexec")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--scene", action="append", default=[], help="scene of the split by number, name or token (default: all)")
    p.add_argument("--frames", type=int, help="first frames of each scene only")
    p.add_argument("--seed", type=int, default=0, help="of the planner that is trained on ego status alone")
    p.add_argument("--jobs", type=int, default=1, help="processes; the numbers are the same for any")
    p.add_argument("--limits", nargs="*", default=[], metavar="NAME=VALUE", help="what a frame may hold; docs/inference.md")
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE", help="config values on top")
    return p.parse_args()


def main() -> int:
    args = parse_args()
    for name, least in (("frames", 2), ("jobs", 1), ("seed", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: give a number from {least} on")
    from tqdm import tqdm

    from uniad.assess.audit import CONDITIONS
    from uniad.assess.audit_report import PICTURE, run
    from uniad.assess.conditions import Opening
    from uniad.deploy.plausible import Limits
    from uniad.formats.report import PAGE_FILE, plain

    Limits.parse(args.limits)  # told before the model is loaded, which takes longer
    opening = Opening(
        str(args.model), args.config, tuple(args.cfg_options), args.backend, args.device, tuple(args.limits)
    )
    with tqdm(total=len(CONDITIONS), unit="condition", desc="audit", disable=None) as bar:
        report = run(opening, args.out, args.scene, args.frames, args.seed, args.jobs, lambda _: bar.update())
    print("\n".join([*report.findings, "", plain(report.tables[0]), ""]))
    print(f"{'passed' if report.passed else 'not passed'}: {args.out / PAGE_FILE}, {args.out / PICTURE}")
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
