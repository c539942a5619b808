#!/usr/bin/env python3
"""A frame of two trees of this repository by turns, on the CPU: what a change of model or code costs where other work goes on.

Each tree has a process of its own with its own benchmarks/latency.py and initial weights; one frame of the first, one of the
second, and again, so that what else the machine does meets both. Clock and processor time of each, medians and their ratio.

    git worktree add /tmp/before a34ad6a
    benchmarks/by_turns.py /tmp/before . --frames 10 --threads 2 -- --variant nano --stage 2 --data-root data/demo/nuscenes/ \\
      --info-root data/demo/infos/ --cfg-options anchor_root=weights/nano/
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import _tools  # noqa: F401

from uniad.errors import UserError, run_cli

# In the tree's own code, whose names may be older than ours
WORKER = """
import json, os, sys, tempfile, time
tree, *words = sys.argv[1:]
sys.argv = ["latency.py", *words]
sys.path[:0] = [tree + "/benchmarks", tree + "/projects"]
here = os.getcwd()
os.chdir(tree)
import latency, torch
args = latency.parse_args()
latency.check(args)
torch.set_num_threads(args.threads)
spec = latency.the_spec(args)
contract = latency.contract_for(spec)
with tempfile.TemporaryDirectory() as made:
    path = latency.Path(made) / "frames.pt"
    latency.store_frames(spec, contract, args.frames, path)
    frames = latency.read_frames(spec, path, "cpu")
step = latency.make_step(spec, contract, "eager-fp32", args)
with torch.no_grad():
    for number in range(-1, args.frames):
        if number <= 0:
            step.reset()
        print("ready", flush=True)
        sys.stdin.readline()
        wall, cpu = time.perf_counter(), time.process_time()
        step.load(frames[max(number, 0) % len(frames)])
        step.run()
        print(json.dumps([1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - cpu)]), flush=True)
"""


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("trees", nargs=2, type=Path, metavar="TREE", help="two checkouts: before and after")
    p.add_argument("--frames", type=int, default=10, help="frames to time of each, after one to warm up")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("words", nargs="+", metavar="-- OPTION", help="options of benchmarks/latency.py, the same for both")
    return p.parse_args()


def whole(word: str) -> str:
    """An option's path as each tree finds it, whose process runs elsewhere."""
    key, equals, value = word.rpartition("=")
    return key + equals + (os.path.abspath(value) + "/" * value.endswith("/") if "/" in value else value)


def main() -> None:
    args = parse_args()
    if args.frames < 1 or args.threads < 1:
        raise UserError("--frames and --threads: give numbers from 1 on")
    if lost := [tree for tree in args.trees if not (tree / "benchmarks/latency.py").is_file()]:
        raise UserError(f"{lost[0]}: no checkout of this repository (git worktree add FOLDER COMMIT)")
    words = [*map(whole, args.words), "--device", "cpu", "--frames", str(args.frames), "--threads", str(args.threads)]
    env = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    env.pop("PYTHONPATH", None)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tree.resolve()), *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env,
        )
        for tree in args.trees
    ]  # fmt: skip
    took: list[list[list[float]]] = [[], []]
    try:
        for _ in range(args.frames + 1):
            for worker, rows in zip(workers, took):
                assert worker.stdin is not None and worker.stdout is not None
                while (line := worker.stdout.readline()) and line != "ready\n":
                    pass
                if not line:
                    raise UserError("a tree's process ended; it says why above")
                worker.stdin.write("go\n")
                worker.stdin.flush()
                rows.append(json.loads(worker.stdout.readline()))
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    for name, column in (("clock", 0), ("processor", 1)):
        before, after = (statistics.median(row[column] for row in rows[1:]) for rows in took)
        print(f"{name:9s}  {before:7.0f} ms  {after:7.0f} ms  ratio {after / before:.2f}")


if __name__ == "__main__":
    run_cli(main)
