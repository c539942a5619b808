#!/usr/bin/env python3
"""Makes a small synthetic world in the format of Bench2Drive (docs/bench2drive.md)."""

from __future__ import annotations

import argparse
from pathlib import Path

import _environment  # noqa: F401

from tqdm import tqdm

from uniad.data.synthetic import WorldParams
from uniad.data.synthetic.bench2drive import generate_routes
from uniad.errors import UserError, run_cli
from uniad.processes import cores_here


def parse() -> argparse.Namespace:
    d = WorldParams()
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--out", type=Path, default=Path("data/bench2drive"), help="folder of the data set")
    p.add_argument("--infos", type=Path, default=Path("data/infos"), help="folder of b2d_infos_*.pkl and b2d_map_infos.pkl")
    p.add_argument("--train-scenes", type=int, default=d.train_scenes, metavar="N")
    p.add_argument("--val-scenes", type=int, default=d.val_scenes, metavar="N")
    p.add_argument("--frames", type=int, default=100, metavar="N", help="frames a route, at 10 Hz")
    p.add_argument("--seed", type=int, default=d.seed)
    p.add_argument("--jpeg-quality", type=int, default=d.jpeg_quality, metavar="Q")
    p.add_argument("--workers", type=int, default=cores_here(), metavar="N")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    return p.parse_args()


def main() -> None:
    args = parse()
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: ask for at least 1")
    params = WorldParams(
        train_scenes=args.train_scenes, val_scenes=args.val_scenes, frames=args.frames, seed=args.seed,
        jpeg_quality=args.jpeg_quality,
    )  # fmt: skip
    with tqdm(unit="frame", desc="synthetic Bench2Drive", disable=args.quiet or None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        fresh = generate_routes(params, args.out, args.infos, args.workers, progress)
    routes = f"{params.train_scenes} train and {params.val_scenes} val routes of {params.frames} frames"
    print(f"{args.out}: {routes}, seed {params.seed}" if fresh else f"{args.out} is up to date: {routes}, seed {params.seed}")


if __name__ == "__main__":
    run_cli(main)
