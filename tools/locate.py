#!/usr/bin/env python3
"""Find the first tensor of an exported graph at which a back end, or a version of lower precision, departs from the reference.

The reference is onnxruntime in fp32, without its graph optimisations.

Replays the recorded sequence and, from the frame that fails first, halves the graph until one operator is left. Exit 1 when it
finds one.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("onnx", type=Path, help="the exported graph, its card and recorded sequence beside it")
    p.add_argument("--backend", default="onnxruntime", help="onnxruntime, tensorrt_rtx, tensorrt or trtexec")
    p.add_argument("--candidate", type=Path, help="the same graph in lower precision, to be run instead of ONNX by the back end")
    p.add_argument(
        "--precision", choices=("fp32", "fp16", "int8"), help="row of the tolerance table (default: the card's, else fp32)"
    )
    p.add_argument("--workspace-gib", type=float, default=4.0, help="memory that a build may take")
    p.add_argument("--timing-cache", default="", help="file that builds read and add to (tensorrt, trtexec): makes them shorter")
    p.add_argument("--memory-mib", type=int, default=1024, help="memory for the tensors exposed at a time")
    p.add_argument("--out", type=Path, help="JSON of what was found (default: ONNX.locate.json)")
    return p.parse_args()


def main() -> int:
    args = parse_args()
    from uniad.bisect.recorded import locate_fault, precision_of
    from uniad.engines.base import BACKENDS, BuildOptions
    from uniad.files import atomic_path, try_place

    if args.backend not in ("onnxruntime", *BACKENDS):
        raise UserError(f"--backend {args.backend}: choose one of onnxruntime, {', '.join(BACKENDS)}")
    if args.memory_mib < 1:
        raise UserError(f"--memory-mib {args.memory_mib}: should be at least 1")
    out = args.out or Path(f"{args.onnx}.locate.json")
    try_place(out)
    options = BuildOptions(
        backend=args.backend,
        precision=args.precision or precision_of(args.onnx),
        workspace_gib=args.workspace_gib,
        timing_cache=args.timing_cache,
    )
    finding = locate_fault(
        args.onnx, options, candidate=args.candidate, memory_mib=args.memory_mib, say=lambda line: print(line, flush=True)
    )
    print("\n".join(finding.lines()))
    print(f"{finding.probes} probes of {finding.backend}, {finding.seconds:.0f} s")
    with atomic_path(out) as temporary:
        temporary.write_text(json.dumps(finding.to_json(), indent=2) + "\n")
    return 0 if finding.verdict == "agrees" else 1


if __name__ == "__main__":
    sys.exit(run_cli(main))
