#!/usr/bin/env python3
"""What more GPUs would do, from what one and two did: a model of three terms, whose inputs are files of measurements.

    benchmarks/train_many.py CONFIG --gpus 1 2 --modes fast --out tiny1.json ...
    benchmarks/all_reduce.py CONFIG ... --gpus 2 --out reduce.json
    benchmarks/scaling.py tiny1.json --million 30.4 --reduce reduce.json --gpus 8 32 --network 50

An iteration of N processes is one process's, and averaging, and waiting for the slowest:

- averaging: latency + bytes / bandwidth, fitted to the rows of all_reduce.py; a ring sends 2(N-1)/N of the bytes over each link.
  Between machines each GPU sends its share of a machine's sum over its own network link (``--network`` GB/s).
- waiting: iterations of a process vary; with normal variation the slowest of N is m(N) standard deviations late, m(2) = 0.56,
  m(8) = 1.42, m(32) = 2.07. The deviation is what two processes lost beyond averaging.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import _tools  # noqa: F401

import numpy as np

from uniad.errors import UserError, run_cli


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("rows", nargs="+", type=Path, help="files of train_many.py: rows of one config, on one and on two GPUs")
    p.add_argument("--million", type=float, required=True, help="weights that learn, in millions (fp32 gradients travel)")
    p.add_argument("--reduce", type=Path, required=True, help="file of all_reduce.py, on two GPUs")
    p.add_argument("--gpus", type=int, nargs="+", default=[8, 32])
    p.add_argument("--machine", type=int, default=8, help="GPUs of a machine")
    p.add_argument("--network", type=float, default=50.0, help="GB/s of a GPU's network link, one way (50: 400 Gb/s)")
    args = p.parse_args()
    rows = [row for file in args.rows for row in json.loads(file.read_text())]
    latency, per_byte = fitted(json.loads(args.reduce.read_text()))
    size = args.million * 4e6
    for mode in sorted({row["mode"] for row in rows}):
        seconds = {row["gpus"]: row["seconds"] for row in rows if row["mode"] == mode}
        if not {1, 2} <= seconds.keys():
            raise UserError(f"mode {mode} needs rows of 1 and of 2 GPUs; there are rows of {sorted(seconds)}")
        lost = seconds[2] - seconds[1]
        deviation = max(0.0, lost - latency - per_byte * size) / slowest_of(2)
        times = f"{2 * seconds[1] / seconds[2]:.2f} times one"
        print(f"{mode}: {seconds[1] * 1e3:.1f} ms alone, {seconds[2] * 1e3:.1f} of two ({times}); "
              f"averaging {latency * 1e3:.2f} ms + {1e-9 / per_byte:.0f} GB/s; deviation {deviation * 1e3:.1f} ms")  # fmt: skip
        for count in args.gpus:
            averaging = latency + ring(min(count, args.machine)) * per_byte * size
            machines = math.ceil(count / args.machine)
            if machines > 1:
                averaging += latency + ring(machines) * size / args.machine / (args.network * 1e9)
            whole = seconds[1] + averaging + slowest_of(count) * deviation
            print(f"  {count} GPUs: {whole * 1e3:.1f} ms, {count * seconds[1] / whole:.1f} times one ({seconds[1] / whole:.0%}); "
                  f"averaging {averaging * 1e3:.1f}, waiting {slowest_of(count) * deviation * 1e3:.1f} ms")  # fmt: skip


def fitted(rows: list[dict]) -> tuple[float, float]:
    """Latency in s, and s a byte between two GPUs, by least squares."""
    size, seconds = np.array([row["mb"] * 1e6 for row in rows]), np.array([row["ms"] / 1e3 for row in rows])
    per_byte, latency = np.polyfit(size, seconds, 1)
    return max(0.0, float(latency)), max(1e-15, float(per_byte))


def ring(count: int) -> float:
    """Of the bytes, how many a link of a ring carries; one between two."""
    return 2 * (count - 1) / count


def slowest_of(count: int) -> float:
    """The mean of the largest of ``count`` standard normal numbers."""
    x = np.linspace(-10, 10, 20001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    below = np.cumsum(density) * (x[1] - x[0])
    return float(np.sum(x * count * below ** (count - 1) * density) * (x[1] - x[0]))


if __name__ == "__main__":
    run_cli(main)
