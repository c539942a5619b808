#!/usr/bin/env python3
"""Draws every part of the losses of one or more runs from their train.jsonl, small multiples in one PNG.

    tools/plot_training.py WORK_DIR [WORK_DIR ...] --out curve.png

Total, learning rate, gradient norm, then a panel for each part of the loss of both stages, with a line for each decoder layer.
Several runs stand one after the other, like phases; --overlay compares them. Dots are fixed clips (tools/held_loss.py).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import run_cli


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work_dirs", nargs="+", type=Path, metavar="WORK_DIR", help="of a run, or of a recipe's phases")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write")
    parser.add_argument("--overlay", action="store_true", help="all runs from step 0 on, a colour each")
    args = parser.parse_args()
    from uniad.files import atomic_path, try_place
    from uniad.viz.curves import draw, read_runs

    try_place(args.out)
    runs = read_runs(args.work_dirs)
    figure = draw(runs, args.overlay)
    with atomic_path(args.out) as temporary:
        figure.savefig(temporary, format="png")
    print(f"{args.out}: {', '.join(run.name for run in runs)}")


if __name__ == "__main__":
    run_cli(main)
