#!/usr/bin/env python3
"""Convert an exported graph to mixed fp16, keeping in fp32 what measurement over its recorded sequence says. docs/export.md."""

from __future__ import annotations

import argparse
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("onnx", type=Path, help="fp32 graph that `make export` wrote")
    p.add_argument("--out", type=Path, help="graph to write (default: <name>_fp16.onnx beside it)")
    p.add_argument("--threads", type=int, default=0, help="of onnxruntime (default: all cores)")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    if args.threads < 0:
        raise UserError(f"--threads {args.threads}: should not be below 0")
    from uniad.files import try_place
    from uniad.precision.write import converted_name, write_converted

    out = args.out or converted_name(args.onnx)
    try_place(out)
    if out.resolve() == args.onnx.resolve():
        raise UserError(f"--out {out}: is the graph to convert; name another file")
    card = write_converted(args.onnx, out, lambda line: print(line, flush=True), args.threads)
    account = card["lowering"]
    kept = ", ".join(account["kept_for_accuracy"]) or "none"
    print(f"{out}: {out.stat().st_size / 2**20:.0f} MiB; layer groups kept in fp32 for accuracy: {kept}")
    reasons = ", ".join(f"{count} {reason}" for reason, count in account["kept"].items())
    print(f"  nodes in fp32: {reasons}, of {account['nodes']}; {account['effect']}")


if __name__ == "__main__":
    run_cli(main)
