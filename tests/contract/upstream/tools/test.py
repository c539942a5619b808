"""Stands for upstream's tools/test.py at 02fa68c5, with our patch: arguments, files that it reads, files that it leaves."""

import argparse
import os
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("config")
parser.add_argument("checkpoint")
parser.add_argument("--out", default="output/results.pkl")
parser.add_argument("--eval", nargs="+")
parser.add_argument("--show-dir")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--deterministic", action="store_true")
parser.add_argument("--cfg-options", nargs="+")
parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
parser.add_argument("--local_rank", type=int, default=0)
args = parser.parse_args()
open(args.config).close()
open("data/infos/nuscenes_infos_temporal_val.pkl").close()
print(f"evaluates {Path(args.checkpoint).read_text()} on {os.environ.get('CUDA_VISIBLE_DEVICES', 'the CPU')}: {args.eval}")
Path(args.out).parent.mkdir(exist_ok=True)
Path(args.out).write_text("results")
