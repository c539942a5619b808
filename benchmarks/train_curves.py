#!/usr/bin/env python3
"""Losses of the same training by the exact and by the fast path: one checkpoint, one seed, the same clips, side by side.

    benchmarks/train_curves.py projects/configs/stage1_track_map/nano_track_map.py --packs 11.pt --steps 200 --clips 8 \\
        --out curves.json --train-args --cfg-options load_from=weights/nano/nano_e2e.pth

exact is ``--no-fast`` (fp32, kernel by kernel), exact-bf16 the same in bf16, fast what a GPU picks, fast-plain that without a
compiler. Behind a compiler dropout draws other numbers: ``--train-args --no-regularisation`` leaves it out.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import _tools  # noqa: F401

from train_many import run, small_pack

MODES = {"exact": ["--no-fast"], "exact-bf16": ["--no-fast", "--precision", "bf16"], "fast": [], "fast-plain": ["--no-compile"]}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config")
    p.add_argument("--modes", nargs="+", choices=MODES, default=["exact", "fast"], help="others are held against the first")
    p.add_argument("--steps", type=int, default=200)
    p.add_argument("--every", type=int, default=10, help="steps of a line, whose losses are means over them")
    p.add_argument("--clips", type=int, default=8, help="of a step")
    p.add_argument("--packs", nargs="+", default=[], help="packs to train on (default: a small world is made)")
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    p.add_argument("--out", type=Path, help="also write all of it here, as JSON")
    p.add_argument("--train-args", nargs=argparse.REMAINDER, default=[], help="options of tools/train.py, to the end of the line")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        packs = args.packs or [small_pack(args, Path(folder))]
        runs = {mode: trained(args, mode, packs, Path(folder)) for mode in args.modes}
    exact = runs[args.modes[0]]
    for mode, lines in runs.items():
        apart = [abs(line["loss"] - other["loss"]) / other["loss"] for line, other in zip(lines, exact)]
        first, last, ms = lines[0], lines[-1], statistics.median(line["time"] for line in lines[1:] or lines) * 1e3
        print(f"{mode:10s}: loss {first['loss']:.4f} at step {first['step']}, {last['loss']:.4f} at step {last['step']}; apart "
              f"from {args.modes[0]} {statistics.mean(apart):.2%} on average, {max(apart):.2%} at most; {ms:.1f} ms a step",
              flush=True)  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps(runs, indent=1) + "\n")


def trained(args: argparse.Namespace, mode: str, packs: list[str], folder: Path) -> list[dict]:
    """The lines of a training's log."""
    work = folder / mode
    options, values = args.train_args, []
    if "--cfg-options" in options:
        at = options.index("--cfg-options")
        options, values = options[:at], options[at + 1 :]
    run([
        sys.executable, "tools/train.py", args.config, "--work-dir", str(work), "--resume", "none", "--save-every", "0",
        "--no-tensorboard", "--device", args.device, "--max-iters", str(args.steps), "--samples-per-gpu", str(args.clips),
        "--packs", *packs, *MODES[mode], *options, "--cfg-options", f"log_config.interval={args.every}", *values,
    ])  # fmt: skip
    return [json.loads(line) for line in (work / "train.jsonl").read_text().splitlines()]


if __name__ == "__main__":
    main()
