#!/usr/bin/env python3
"""Write a scene of a dataset as a rosbag2 bag, as a car would have recorded it.

Cameras with their calibration, lidar, odometry, IMU, TF and command, for `make infer BAG=`; docs/car-logs.md has the topics.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("config", help="a config that names the dataset's folder and infos")
    p.add_argument("--out", required=True, type=Path, help="NAME.mcap or NAME.db3: one file; another name: a folder")
    p.add_argument("--scene", default="0", help="scene by number, name or token (default 0)")
    p.add_argument("--split", default="val", choices=("train", "val"))
    p.add_argument("--frames", type=int, help="first keyframes only")
    p.add_argument("--sweeps", action="store_true", help="what was recorded between keyframes, too")
    p.add_argument(
        "--encoding", default="jpeg", choices=("jpeg", "rgb8", "bgr8"), help="of images (default jpeg, the file's bytes)"
    )
    p.add_argument("--lose", type=float, default=0.0, metavar="SHARE", help="leave out this share of the images (default 0)")
    p.add_argument("--storage", default="mcap", choices=("mcap", "sqlite3"), help="of a folder (default mcap)")
    p.add_argument("--compress", action="store_true", help="by zstd")
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE", help="config values on top")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    if args.frames is not None and args.frames < 1:
        raise UserError(f"--frames {args.frames}: give a number from 1 on")
    if not 0 <= args.lose < 1:
        raise UserError(f"--lose {args.lose:g}: give a share from 0 to below 1")
    from tqdm import tqdm

    from uniad.config.read import load_spec
    from uniad.ros.record import record_scene
    from uniad.ros.write import BagWriter

    spec = load_spec(args.config, args.cfg_options)
    with tqdm(unit="frame", desc="bag", disable=None) as bar, BagWriter(args.out, args.storage, args.compress) as writer:
        count = record_scene(
            spec.data, args.split, args.scene, writer, args.encoding, args.sweeps, args.frames, args.lose, bar.update
        )
    print(f"{args.out}: {count} messages")


if __name__ == "__main__":
    run_cli(main)
