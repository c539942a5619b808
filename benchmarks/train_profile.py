#!/usr/bin/env python3
"""Where an iteration of a training goes, on one GPU or on several: kernels, averaging gradients, copies, nothing; and the host.

    benchmarks/train_profile.py projects/configs/stage1_track_map/tiny_imgx0.25_track_map.py --gpus 1 2 --clips 8 \\
        --out profile.json --train-args --from-scratch --cfg-options data_root=data/synthetic/nuscenes/ info_root=data/infos/

Each row is a training by tools/train.py, from the dataset or from the packs that are named, whose last ``--steps`` iterations
are recorded by PyTorch's profiler, on every process.
"NCCL alone" is the time in which a GPU runs nothing but a collective: averaging, with waiting for a slower process.
"host on data" runs beside the GPU; where "host waits for the GPU" is more than nothing, the loader is not what limits.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from _tools import write_rows

from train_many import INTERVAL, training_options, training_words

ROOT = Path(__file__).resolve().parents[1]
INSIDE = "UNIAD_PROFILE"  # where a profiled process writes, and what it records
Spans = list[tuple[int, int]]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    training_options(p)
    p.add_argument("--gpus", type=int, nargs="+", default=[1])
    p.add_argument("--warm", type=int, default=20, help="iterations before those that are recorded")
    p.add_argument("--steps", type=int, default=10, help="iterations that are recorded")
    args = p.parse_args()
    rows = [row for gpus in args.gpus for row in measure(args, gpus)]
    for row in rows:
        parts = ", ".join(f"{name} {row[name]:.1f}" for name in row if name not in ("gpus", "rank"))
        print(f"{row['gpus']} GPU(s), rank {row['rank']}, ms an iteration: {parts}")
    write_rows(args.out, rows)


def measure(args: argparse.Namespace, gpus: int) -> list[dict[str, Any]]:
    """The rows of one training, in rank order."""
    with tempfile.TemporaryDirectory() as folder:
        packs = ["--packs", *args.packs] if args.packs else []
        words = [args.config, *training_words(args, Path(folder) / "run", args.warm + args.steps, INTERVAL, packs)]
        launcher = ["-m", "uniad.training.launch", str(gpus)] if gpus > 1 else []
        inside = json.dumps({"folder": folder, "warm": args.warm, "steps": args.steps})
        env = {**os.environ, INSIDE: inside, "PYTHONPATH": f"{ROOT / 'projects'}:{os.environ.get('PYTHONPATH', '')}"}
        command = [sys.executable, *launcher, __file__, *words, *(["--launcher", "pytorch"] if gpus > 1 else [])]
        if subprocess.run(command, cwd=ROOT, env=env).returncode:
            sys.exit(f"error: {' '.join(command)} failed")
        return [{"gpus": gpus, **json.loads(file.read_text())} for file in sorted(Path(folder).glob("rank*.json"))]


def profiled(folder: str, warm: int, steps: int) -> None:
    """tools/train.py in this process, with its iterations counted and the last ``steps`` recorded."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from uniad.training.telemetry import Telemetry
    from uniad.training.trainer import Trainer

    iterate, pop, times = Trainer._iterate, Telemetry.pop, {"iteration": [], "host on data": [], "host waits for the GPU": []}
    activity = ProfilerActivity.CUDA if torch.cuda.is_available() else ProfilerActivity.CPU
    recorder = profile(activities=[activity])

    def counted(self: Trainer, clips: Any) -> None:
        if self.iteration == warm:
            recorder.start()
        data, began = self.data_s, time.perf_counter()
        iterate(self, clips)
        if self.iteration > warm:
            times["iteration"].append(time.perf_counter() - began)
            times["host on data"].append(self.data_s - data)
        if self.iteration == warm + steps:
            recorder.stop()
            write(self.world.rank)

    def waited(self: Telemetry) -> Any:
        began = time.perf_counter()
        result = pop(self)
        times["host waits for the GPU"].append(time.perf_counter() - began)
        return result

    def write(rank: int) -> None:
        row: dict[str, Any] = {"rank": rank}
        row |= {name: statistics.median(values[-steps:]) * 1e3 for name, values in times.items()}
        row |= {name: spent / 1e6 / steps for name, spent in on_gpu(recorder).items()}
        Path(folder, f"rank{rank}.json").write_text(json.dumps(row))

    Trainer._iterate, Telemetry.pop = counted, waited
    sys.argv[0] = str(ROOT / "tools/train.py")
    runpy.run_path(sys.argv[0], run_name="__main__")


def on_gpu(recorder: Any) -> dict[str, int]:
    """ns in which the GPU computed, ran a collective alone, copied alone, and did nothing, of what was recorded."""
    import torch

    kinds: dict[str, Spans] = {"kernels": [], "NCCL": [], "copies": []}
    for event in recorder.profiler.kineto_results.events():
        if event.device_type() != torch.autograd.DeviceType.CUDA or event.duration_ns() == 0:
            continue
        name = event.name()
        kind = "NCCL" if "nccl" in name.lower() else "copies" if name.startswith(("Memcpy", "Memset")) else "kernels"
        kinds[kind].append((event.start_ns(), event.start_ns() + event.duration_ns()))
    if not any(kinds.values()):
        return {}
    computing, reducing = length(kinds["kernels"]), length(kinds["kernels"] + kinds["NCCL"])
    everything = sum(kinds.values(), [])
    whole = max(end for _, end in everything) - min(start for start, _ in everything)
    busy = length(everything)
    return {"kernels": computing, "NCCL alone": reducing - computing, "copies alone": busy - reducing, "idle": whole - busy}


def length(spans: Spans) -> int:
    """How long at least one of the spans lasts."""
    total, until = 0, 0
    for start, end in sorted(spans):
        total += max(0, end - max(start, until))
        until = max(until, end)
    return total


if __name__ == "__main__":
    if os.environ.get(INSIDE):
        profiled(**json.loads(os.environ[INSIDE]))
    else:
        main()
