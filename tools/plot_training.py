#!/usr/bin/env python3
"""Draws the losses of one or more runs from their train.jsonl, one after the other, as a PNG.

    tools/plot_training.py WORK_DIR [WORK_DIR ...] --out curve.png
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import _environment  # noqa: F401
from uniad.errors import UserError, run_cli

# What a person wants to see first: last decoder layer and last map layer, in the first frame of a clip
SHOWN = {
    r"track\.frame_0_loss_cls_5": "class",
    r"track\.frame_0_loss_bbox_5": "box",
    r"map\.loss_mask_things": "map mask",
    r"motion\.loss_traj": "motion",
    r"occ\.loss_mask": "occupancy mask",
    r"planning\.loss_ade": "plan, m",
}


def read(work_dir: Path) -> list[dict]:
    path = work_dir / "train.jsonl" if work_dir.is_dir() else work_dir
    if not path.is_file():
        raise UserError(f"{path} not found: give the work directory of a training run")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    entries = [line for line in lines if line.get("mode") == "train"]
    if not entries:
        raise UserError(f"{path} holds no training step yet")
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dirs", nargs="+", type=Path, metavar="WORK_DIR")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    args = parser.parse_args()
    runs = [read(work_dir) for work_dir in args.work_dirs]

    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from uniad.files import atomic_path

    figure, axes = plt.subplots(figsize=(8, 3.6), dpi=110, layout="constrained")
    names = {key for run in runs for entry in run for key in entry}
    start = 0
    for number, run in enumerate(runs):
        steps = [start + entry["step"] for entry in run]
        if number:
            axes.axvline(start, color="0.7", linewidth=1)
        for colour, (pattern, label) in enumerate(SHOWN.items()):
            key = next((name for name in sorted(names) if re.fullmatch(pattern, name)), None)
            points = [(step, entry[key]) for step, entry in zip(steps, run) if key in entry]
            if points:
                axes.plot(*zip(*points), color=f"C{colour}", linewidth=1, label=label if number == 0 else None)
        start = steps[-1]
    axes.set(xlabel="iteration", ylabel="loss", ylim=(0, 2.5), xlim=(0, start))
    axes.grid(alpha=0.3)
    axes.legend(ncols=3, frameon=False)
    with atomic_path(args.out) as temporary:
        figure.savefig(temporary, format="png")
    print(args.out)


if __name__ == "__main__":
    run_cli(main)
