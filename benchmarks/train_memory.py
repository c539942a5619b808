#!/usr/bin/env python3
"""Measures the memory that a training iteration takes, for the table by which training decides whether to save any.

    benchmarks/train_memory.py --variants full tiny nano --out projects/configs/train_memory.json

Every row is one iteration as a CUDA graph in bf16 on random clips: plain, with encoder layers recomputed, and with one frame at a
time besides; each with and without a compiler. Rows that are in the file and were not measured now stay.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
from pathlib import Path

import _tools  # noqa: F401

import torch

from train_step import VARIANTS, measure
from uniad.config.read import load_spec
from uniad.config.spec import Spec, from_scratch
from uniad.config.variants import KINDS, config_files
from uniad.training.fast import TABLE

WAYS = ((False, None), (True, None), (True, 1))  # recomputed or not, frames at once
KEYS = ("config", "learns", "precision", "clips", "frames", "recompute", "at_once", "compile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--stages", type=int, nargs="+", choices=sorted(KINDS), default=sorted(KINDS))
    parser.add_argument("--learns", nargs="+", choices=("frozen", "all"), default=["frozen", "all"])
    parser.add_argument("--modes", nargs="+", choices=("graph", "fast"), default=["fast", "graph"], help="fast: compiled")
    parser.add_argument("--clips", type=int, help="clips of an iteration (default: the config's)")
    parser.add_argument("--out", type=Path, default=TABLE, help="table to add rows to")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "error: this benchmark needs a GPU and PyTorch sees none\n")
    rows = {key(row): row for row in (json.loads(args.out.read_text()) if args.out.exists() else [])}
    for variant in args.variants:
        for stage in args.stages:
            if variant not in config_files(stage):
                continue  # Bench2Drive's have no stage 0
            for learns in args.learns:
                spec = load_spec(config_files(stage)[variant])
                for row in measured(spec if learns == "frozen" else from_scratch(spec), learns, args.clips, args.modes):
                    rows[key(row)] = row
                    # after each: a later one may run out of memory, or of time
                    args.out.write_text("[\n" + ",\n".join("  " + json.dumps(r) for r in rows.values()) + "\n]\n")


def key(row: dict) -> tuple:
    return tuple(row.get(name, False) for name in KEYS)


def measured(spec: Spec, learns: str, clips: int | None, modes: list[str]) -> list[dict]:
    clips, frames, found = clips or spec.data.samples_per_gpu, spec.data.queue_length, []
    for mode, (recompute, at_once) in itertools.product(modes, WAYS):
        options = argparse.Namespace(
            precision="bf16", samples=clips, recompute=recompute, frames_at_once=at_once,
            shared_history=spec.train.shared_history, no_channels_last=False, repeats=2, profile=False,
        )  # fmt: skip
        try:
            gib = measure(spec, options, frames, mode)["reserved_gib"]
        except torch.OutOfMemoryError:
            print(f"{spec.name}: {clips} clip(s) of {frames} frame(s) do not fit: recompute={recompute}, at_once={at_once}")
            continue
        finally:
            gc.collect()
            torch.cuda.empty_cache()
        values = (spec.name, learns, "bf16", clips, frames, recompute, at_once, mode == "fast")
        found.append(dict(zip(KEYS, values)) | {"gib": round(gib, 1)})
    return found


if __name__ == "__main__":
    main()
