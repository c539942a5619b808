#!/usr/bin/env python3
"""Replay a recorded sequence through one or more backends with fed-back state. Exit 1 when any of them is over tolerance."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import run_cli

AT_ONCE_S = 60.0  # of a replay: a search for a fault is more than ten of them


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("onnx", type=Path)
    p.add_argument("--backend", default="torch,onnxruntime",
                   help="comma list of torch, compiled, onnxruntime, tensorrt, tensorrt_rtx")  # fmt: skip
    p.add_argument("--engine", type=Path, help="engine file, for the TensorRT backends")
    p.add_argument("--precision", default="fp32", choices=("fp32", "fp16", "int8"), help="row of the tolerance table")
    p.add_argument("--checkpoint", type=Path, help="checkpoint for the torch backend (default: the card's)")
    p.add_argument(
        "--locate",
        default="auto",
        choices=("auto", "always", "never"),
        help="on a failure find the first tensor that departs; auto: in onnxruntime, where the replay took less than a minute",
    )
    p.add_argument("--out", type=Path, help="JSON report (default: ONNX.verify.json)")
    return p.parse_args()


def main() -> int:
    args = parse_args()
    from uniad.files import try_place
    from uniad.processes import keep_freed_memory
    from uniad.verify.run import verify_engine, write_report
    from uniad.verify.tolerances import TOLERANCES

    out = args.out or Path(f"{args.onnx}.verify.json")
    try_place(out)
    keep_freed_memory()
    reports = []
    for backend in args.backend.split(","):
        began = time.monotonic()
        report = verify_engine(args.onnx, args.engine, backend.strip(), args.precision, args.checkpoint)
        took_s = time.monotonic() - began
        reports.append(report)
        limit = TOLERANCES[args.precision]
        w = report.worst
        print(
            f"{backend:12s} {'ok  ' if report.ok else 'FAIL'} {report.frames} frames, {report.tracks} reported tracks: "
            f"boxes {w['boxes_m']:.2e} (<= {limit.boxes_m:g} m), ids that differ {w['ids']:.0f}, "
            f"scores {w['score']:.2e}, map elements {w['map_mask']:.2e}, map cells flipped {w['map_cells']:.2e}, "
            f"BEV {w['bev_rel']:.2e}"
        )
        if "plan_m" in w:
            print(
                f"{'':17s} plan {w['plan_m']:.2e} (<= {limit.plan_m:g} m), trajectories {w['traj_m']:.2e} m, "
                f"occupancy cells that differ {w['occ_cells']:.2e} (plans are those before the collision optimiser)"
            )
        if not report.tracks:
            print("  no track was reported in this sequence, so boxes and ids were not put to the test: train longer")
        for fault in report.faults[:5]:
            print(f"  {fault}", file=sys.stderr)
        if not report.ok and backend.strip() not in ("torch", "compiled"):  # they run no graph, so there is none to take apart
            locate(args, backend.strip(), took_s)
    write_report(out, reports)
    return 0 if all(r.ok for r in reports) else 1


def locate(args: argparse.Namespace, backend: str, took_s: float) -> None:
    """Find what is wrong, or say how to."""
    from uniad.bisect.recorded import locate_command, locate_fault
    from uniad.engines.base import BuildOptions

    command = locate_command(args.onnx, backend, args.precision)
    if args.locate == "never" or (args.locate == "auto" and (backend != "onnxruntime" or took_s > AT_ONCE_S)):
        print(f"  to find the first tensor that departs: {command}", file=sys.stderr)
        return
    options = BuildOptions(backend=backend, precision=args.precision)
    finding = locate_fault(args.onnx, options, say=lambda line: print(f"  {line}", flush=True))
    for line in finding.lines():
        print(f"  {line}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(run_cli(main))
