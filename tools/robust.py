#!/usr/bin/env python3
"""Score a model under broken sensors: RoboBEV's corruptions and faults of a car, at three severities, relative to clean.

Writes report.json, report.md and heatmap.png. Ctrl-C ends it; what is done is kept, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("model", type=Path, help="checkpoint with --config, ONNX or TensorRT engine")
    p.add_argument("--out", required=True, type=Path, help="folder for the report")
    p.add_argument("--config", help="config of a checkpoint; of an ONNX or engine its card names it")
    p.add_argument("--backend", default="auto", help="auto, torch, compiled, onnxruntime, tensorrt, tensorrt_rtx or trtexec")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--faults", nargs="+", default=["all"], metavar="NAME", help="all, or some: Fog CameraLost ... (default all)")
    p.add_argument("--severities", nargs="+", type=int, default=[3], metavar="N", help="1, 2, 3 (default 3, the hardest)")
    p.add_argument("--scene", action="append", default=[], help="scene of the split by number, name or token (default: all)")
    p.add_argument("--frames", type=int, help="first frames of each scene only")
    p.add_argument("--routes", type=int, default=0, help="drive so many routes under each fault, too (default 0; docs/drive.md)")
    p.add_argument("--seed", type=int, default=0, help="of what is drawn")
    p.add_argument("--jobs", type=int, default=1, help="processes; the numbers are the same for any")
    p.add_argument("--limits", nargs="*", default=[], metavar="NAME=VALUE", help="what a frame may hold; docs/inference.md")
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE", help="config values on top")
    return p.parse_args()


def main() -> int:
    args = parse_args()
    for name, least in (("frames", 1), ("jobs", 1), ("seed", 0), ("routes", 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: give a number from {least} on")
    from tqdm import tqdm

    from uniad.assess.conditions import Opening
    from uniad.assess.faults import find_faults
    from uniad.assess.robust_report import PICTURE, run
    from uniad.deploy.plausible import Limits
    from uniad.formats.report import PAGE_FILE, plain

    # All are told before the model is loaded, which takes longer.
    Limits.parse(args.limits)
    faults = find_faults(args.faults)
    opening = Opening(
        str(args.model), args.config, tuple(args.cfg_options), args.backend, args.device, tuple(args.limits)
    )
    count = 1 + len(faults) * len(set(args.severities) - {0})
    with tqdm(total=count, unit="condition", desc="robust", disable=None) as bar:
        report = run(
            opening, args.out, faults, args.severities, args.scene, args.frames, args.seed, args.routes, args.jobs,
            lambda _: bar.update(),
        )  # fmt: skip
    print(plain(report.tables[0]))
    print("\n".join(["", *report.findings, "", str(args.out / PAGE_FILE), str(args.out / PICTURE)]))
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
