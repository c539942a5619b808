#!/usr/bin/env python3
"""Losses of the same training by the exact and by the fast path: one checkpoint, one seed, the same clips, side by side.

    benchmarks/train_curves.py projects/configs/stage1_track_map/nano_track_map.py --packs 11.pt --steps 200 --clips 8 \\
        --out curves.json --train-args --cfg-options load_from=weights/nano/nano_e2e.pth

exact is ``--no-fast`` (fp32, kernel by kernel), exact-bf16 the same in bf16, fast what a GPU picks, fast-plain that without a
compiler. Behind a compiler dropout draws other numbers: ``--train-args --no-regularisation`` leaves it out.
Clips are those of ``--packs``, or of a small world that is packed first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from _tools import write_rows

from train_many import packs_of, trained, training_options

MODES = {"exact": ["--no-fast"], "exact-bf16": ["--no-fast", "--precision", "bf16"], "fast": [], "fast-plain": ["--no-compile"]}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    training_options(p)
    p.add_argument("--modes", nargs="+", choices=MODES, default=["exact", "fast"], help="others are held against the first")
    p.add_argument("--steps", type=int, default=200)
    p.add_argument("--every", type=int, default=10, help="steps of a line, whose losses are means over them")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        packs = packs_of(args, Path(folder))
        runs = {m: trained(args, Path(folder) / m, args.steps, args.every, [*packs, *MODES[m]]) for m in args.modes}
    exact = runs[args.modes[0]]
    for mode, lines in runs.items():
        apart = [abs(line["loss"] - other["loss"]) / other["loss"] for line, other in zip(lines, exact)]
        first, last, ms = lines[0], lines[-1], statistics.median(line["time"] for line in lines[1:] or lines) * 1e3
        print(f"{mode:10s}: loss {first['loss']:.4f} at step {first['step']}, {last['loss']:.4f} at step {last['step']}; apart "
              f"from {args.modes[0]} {statistics.mean(apart):.2%} on average, {max(apart):.2%} at most; {ms:.1f} ms a step",
              flush=True)  # fmt: skip
    write_rows(args.out, runs)


if __name__ == "__main__":
    main()
