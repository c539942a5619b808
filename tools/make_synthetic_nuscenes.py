#!/usr/bin/env python3
"""Makes a small synthetic world in the genuine nuScenes format (docs/synthetic-world.md)."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import _environment  # noqa: F401

from tqdm import tqdm

from uniad.data.synthetic import WorldParams, generate
from uniad.data.synthetic.params import VERSIONS
from uniad.data.synthetic.scene import MakeScene, Scene
from uniad.errors import UserError, run_cli
from uniad.processes import cores_here


def parse() -> argparse.Namespace:
    d = WorldParams()
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--out", type=Path, default=Path("data/nuscenes"), help="folder of the data set")
    p.add_argument("--version", default=d.version, choices=VERSIONS)
    p.add_argument("--train-scenes", type=int, default=d.train_scenes, metavar="N")
    p.add_argument("--val-scenes", type=int, default=d.val_scenes, metavar="N")
    p.add_argument("--frames", type=int, default=d.frames, metavar="N", help="keyframes a scene, at 2 Hz")
    p.add_argument("--seed", type=int, default=d.seed)
    p.add_argument("--sweeps", default=d.sweeps, choices=("none", "lidar", "all"),
                   help="what to record between keyframes: nothing, lidar at 20 Hz, or cameras at 12 Hz too")  # fmt: skip
    p.add_argument("--jpeg-quality", type=int, default=d.jpeg_quality, metavar="Q")
    p.add_argument("--lidar-columns", type=int, default=d.lidar_columns, metavar="N", help="azimuth steps of the lidar")
    p.add_argument("--driven", action="store_true", help="scenes for learning to drive (docs/synthetic-world.md)")
    p.add_argument("--learner", metavar="MODEL", help="with --driven: this model has the wheel, an ONNX or a checkpoint")
    p.add_argument("--config", metavar="FILE", help="config of a learner that is a checkpoint")
    p.add_argument("--cfg-options", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="changes to that config")
    p.add_argument("--workers", type=int, default=cores_here(), metavar="N")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    return p.parse_args()


def scenes_of(args: argparse.Namespace) -> tuple[MakeScene, str]:
    """What builds the scenes, and the learner's digest: of its weights, and of what its config says of the model."""
    if not args.driven:
        if args.learner or args.config or args.cfg_options:
            raise UserError("--learner, --config and --cfg-options are for --driven scenes")
        return Scene, ""
    # Upstream's container has Python 3.8 and trains on recorded worlds.
    if sys.version_info < (3, 10):  # noqa: UP036
        raise UserError("--driven needs Python 3.10 or newer")
    else:
        from uniad.simulation.driven import DrivenScene, LearnerScenes
        from uniad.simulation.run import Driver

        if not args.learner:
            if args.config or args.cfg_options:
                raise UserError("--config and --cfg-options are of a --learner")
            return DrivenScene, ""
        driver = Driver(args.learner, args.config, device="cpu", options=tuple(args.cfg_options))
        driver.open().close()  # what cannot be opened is told here, not by a worker
        return LearnerScenes(driver), driver.digest()


def main() -> None:
    args = parse()
    make, learner = scenes_of(args)
    params = WorldParams(
        version=args.version, train_scenes=args.train_scenes, val_scenes=args.val_scenes, frames=args.frames, seed=args.seed,
        sweeps=args.sweeps, jpeg_quality=args.jpeg_quality, lidar_columns=args.lidar_columns, driven=args.driven, learner=learner,
    )  # fmt: skip
    with tqdm(unit="frame", desc="synthetic world", disable=args.quiet or None, leave=True) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        fresh = generate(params, args.out, args.workers, progress, make)
    kind = "driven scenes" if params.driven else "scenes"
    scenes = f"{params.train_scenes} train and {params.val_scenes} val {kind} of {params.frames} frames"
    print(f"{args.out}: {scenes}, seed {params.seed}" if fresh else f"{args.out} is up to date: {scenes}, seed {params.seed}")


if __name__ == "__main__":
    run_cli(main)
