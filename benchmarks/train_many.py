#!/usr/bin/env python3
"""Clips a second of whole trainings, on one GPU and on several, recorded as a CUDA graph and kernel by kernel, in one run.

    benchmarks/train_many.py projects/configs/stage1_track_map/tiny_imgx0.25_track_map.py --gpus 1 2 --clips 8 \\
        --train-args --from-scratch --no-regularisation \\
        --cfg-options queue_length=3 model.queue_length=3 data.train.queue_length=3

Every row is a training by tools/train.py from the packs that are named, from the dataset (``--data disk``), or from a small
synthetic world that is made and packed first. Seconds of an iteration are the median of the log's, without its first lines; the
host's share for data is the log's too, and runs beside the GPU: it is the most that waiting can be. No checkpoint is written
before the end: an epoch of a small world is a few steps.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from _tools import write_rows

ROOT = Path(__file__).resolve().parents[1]
MODES = {
    "fast": [], "graph": ["--no-compile"], "eager": ["--no-fast", "--precision", "bf16"], "exact": ["--no-fast"],
    "graph-bf16": ["--no-compile", "--reduce-bf16"],
}  # fmt: skip
INTERVAL = 10  # iterations of a line of the log


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    training_options(p)
    p.add_argument("--gpus", type=int, nargs="+", default=[1, 2])
    p.add_argument("--modes", nargs="+", choices=MODES, default=["graph", "eager"],
                   help="fast: as picked; graph: without a compiler; eager: bf16, kernel by kernel; exact: upstream's fp32 path; "
                   "graph-bf16: gradients travel in bf16")
    p.add_argument("--iterations", type=int, default=60)
    p.add_argument("--data", choices=("packs", "disk"), default="packs")
    args = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = packs_of(args, Path(folder)) if args.data == "packs" else []
        rows = [measure(args, gpus, mode, data, Path(folder)) for gpus in args.gpus for mode in args.modes]
    first = {row["mode"]: row["clips_per_s"] for row in rows if row["gpus"] == min(args.gpus)}
    for row in rows:
        row["of_linear"] = round(row["clips_per_s"] / first[row["mode"]] / row["gpus"] * min(args.gpus), 3)
        print(f"{row['gpus']} GPU(s), {row['mode']:10s}: {row['seconds'] * 1e3:8.1f} ms, {row['clips_per_s']:8.2f} clips/s "
              f"({row['of_linear']:.0%} of linear), {row['waiting']:.0%} of it the host on data, {row['memory_gb']:.1f} GB, "
              f"loss {row['loss']:.3f}")  # fmt: skip
    write_rows(args.out, rows)


def training_options(p: argparse.ArgumentParser) -> None:
    """What every benchmark takes that runs whole trainings."""
    p.add_argument("config")
    p.add_argument("--clips", type=int, default=8, help="of a step, on each GPU")
    p.add_argument("--packs", nargs="+", default=[], help="packs to train on (default: see above)")
    p.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    p.add_argument("--out", type=Path, help="also write what was measured here, as JSON")
    p.add_argument("--train-args", nargs=argparse.REMAINDER, default=[], help="options of tools/train.py, to the end of the line")


def packs_of(args: argparse.Namespace, folder: Path) -> list[str]:
    """The option that names them; a small world is packed first where there are none."""
    if not args.packs:
        size = ["--scenes", "4", "--frames", "20"]
        run([sys.executable, "tools/make_packs.py", args.config, "--seeds", "11", "--out", str(folder), *size])
    return ["--packs", *(args.packs or [str(folder / "11.pt")])]


def measure(args: argparse.Namespace, gpus: int, mode: str, data: list[str], folder: Path) -> dict:
    """One training, from its log."""
    lines = trained(args, folder / f"{gpus}.{mode}", args.iterations, INTERVAL, [*data, *MODES[mode]], gpus)
    steady = lines[2:] or lines[-1:]
    seconds = statistics.median(line["time"] for line in steady)
    waiting = statistics.median(line["data_time"] for line in steady)
    return {
        "gpus": gpus, "mode": mode, "seconds": seconds, "clips_per_s": gpus * args.clips / seconds, "waiting": waiting / seconds,
        "memory_gb": lines[-1]["memory"] / 1e3, "loss": lines[-1]["loss"],
    }  # fmt: skip


def training_words(args: argparse.Namespace, work: Path, steps: int, interval: int, words: list[str]) -> list[str]:
    """Options of tools/train.py for a training of ``steps`` from its beginning, without a checkpoint before its end."""
    return [
        "--work-dir", str(work), "--resume", "none", "--save-every", "0", "--no-tensorboard", "--device", args.device,
        "--max-iters", str(steps), "--samples-per-gpu", str(args.clips), *words, *args.train_args,
        "--cfg-options", f"log_config.interval={interval}", f"checkpoint_config.interval={steps}",
    ]  # fmt: skip


def trained(args: argparse.Namespace, work: Path, steps: int, interval: int, words: list[str], gpus: int = 1) -> list[dict]:
    """The lines of a training's log, one every ``interval`` steps."""
    tool = [sys.executable, "tools/train.py", args.config] if gpus == 1 else ["tools/uniad_dist_train.sh", args.config, str(gpus)]
    run([*tool, *training_words(args, work, steps, interval, words)])
    return [json.loads(line) for line in (work / "train.jsonl").read_text().splitlines()]


def run(words: list[str]) -> None:
    done = subprocess.run(words, cwd=ROOT, env={**os.environ, "PYTHON": sys.executable})
    if done.returncode:
        sys.exit(f"error: {' '.join(words)} ended with status {done.returncode}")


if __name__ == "__main__":
    main()
