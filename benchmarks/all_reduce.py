#!/usr/bin/env python3
"""Seconds that averaging a variant's gradients takes, in flat buckets, between the GPUs of this machine.

    benchmarks/all_reduce.py projects/configs/stage1_track_map/full_track_map.py projects/configs/stage2_e2e/nano_e2e.py --gpus 2

The buckets are those of training (``training/reduce.py``), made for the weights of a config that learn; nothing else runs.
``--device cpu`` measures gloo between processes. Median and slowest of the repetitions, as the slowest process saw them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from _tools import write_rows

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from train_step import random_model
from uniad.config.read import load_spec
from uniad.config.spec import Spec
from uniad.errors import UserError, run_cli
from uniad.training.distributed import World, gather_objects
from uniad.training.reduce import GradientReducer


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("configs", nargs="+", help="config files")
    p.add_argument("--gpus", type=int, default=2, help="processes, a GPU each (default: 2)")
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    p.add_argument("--repeats", type=int, default=50)
    p.add_argument("--out", type=Path, help="also write the rows here, as JSON")
    args = p.parse_args()
    if args.gpus < 1 or args.repeats < 1:
        raise UserError(f"--gpus {args.gpus}, --repeats {args.repeats}: give 1 or more of each")
    there = torch.cuda.device_count()
    if args.device == "cuda" and there < args.gpus:
        raise UserError(f"--gpus {args.gpus}: PyTorch sees {there} GPUs here; fewer, or --device cpu, which measures gloo")
    specs = [load_spec(config) for config in args.configs]
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.json"
        mp.spawn(measure, (args, specs, f"file://{folder}/store", rows), args.gpus)
        found = json.loads(rows.read_text())
    for row in found:
        print(f"{row['config']}: {row['million']:.1f} M weights learn; {row['gpus']} processes, {row['dtype']}, "
              f"{row['mb']:.0f} MB: {row['ms']:.2f} ms (slowest {row['slowest_ms']:.2f}), "
              f"{row['gb_per_s']:.0f} GB/s on each link")  # fmt: skip
    write_rows(args.out, found)


def measure(rank: int, args: argparse.Namespace, specs: list[Spec], store: str, rows: Path) -> None:
    """One process. The first writes what all of them measured."""
    device = torch.device("cuda", rank) if args.device == "cuda" else torch.device("cpu")
    if args.device == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if args.device == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=store, rank=rank, world_size=args.gpus, timeout=timedelta(minutes=5))
    world = World(rank, args.gpus, rank, device)
    found = []
    for config, spec in zip(args.configs, specs):
        model = random_model(spec)
        learns = [torch.nn.Parameter(torch.zeros_like(p, device=device)) for p in model.parameters() if p.requires_grad]
        for dtype in (torch.float32, torch.bfloat16):
            for parameter in learns:
                parameter.grad = torch.zeros_like(parameter)
            reducer = GradientReducer(learns, world, dtype)
            reducer.gather()
            seconds = [max(gather_objects(world, took(reducer, device))) for _ in range(args.repeats + 5)][5:]
            size = sum(bucket.nbytes for bucket in reducer.buckets)
            median = statistics.median(seconds)
            found.append({
                "config": Path(config).stem, "gpus": args.gpus, "dtype": str(dtype).removeprefix("torch."),
                "million": sum(p.numel() for p in learns) / 1e6, "mb": size / 1e6, "ms": median * 1e3,
                "slowest_ms": max(seconds) * 1e3, "gb_per_s": 2 * (args.gpus - 1) / args.gpus * size / median / 1e9,
            })  # fmt: skip
    if world.is_main:
        rows.write_text(json.dumps(found))
    dist.destroy_process_group()


def took(reducer: GradientReducer, device: torch.device) -> float:
    """Seconds of one reduction, begun together."""
    dist.barrier()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    began = time.perf_counter()
    reducer.reduce()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


if __name__ == "__main__":
    run_cli(main)
