#!/usr/bin/env python3
"""Make info files from nuScenes tables: nuscenes_infos_temporal_{train,val}.pkl.

    tools/create_data.py nuscenes --root-path ./data/nuscenes --out-dir ./data/infos \\
        --extra-tag nuscenes --version v1.0 --canbus ./data/nuscenes
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

import _environment  # noqa: F401

from uniad.data.infos import MAX_SWEEPS, create_infos
from uniad.data.splits import OWN
from uniad.errors import UserError, run_cli
from uniad.files import try_place
from uniad.formats.conventions import CONVENTIONS
from uniad.formats.layout import VERSIONS
from uniad.formats.published import UNIAD_V1

ACCEPTED = ("v1.0", *VERSIONS)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make info files from nuScenes tables.")
    parser.add_argument("dataset", help="name of the dataset: nuscenes")
    parser.add_argument("--root-path", default="./data/nuscenes", help="folder that holds samples/, maps/, v1.0-*/")
    parser.add_argument("--canbus", default=None, help="folder that holds can_bus/ (default: --root-path)")
    parser.add_argument("--without-canbus", action="store_true", help="scenes may lack CAN bus messages: zeros stand there")
    parser.add_argument(
        "--version", default="v1.0", help="v1.0 (trainval, and test where its tables are), v1.0-trainval, v1.0-mini, v1.0-test"
    )
    parser.add_argument("--max-sweeps", type=int, default=MAX_SWEEPS, help="lidar sweeps to list per frame")
    parser.add_argument("--every", type=int, default=1, help="each N-th keyframe, for recordings denser than 2 Hz")
    parser.add_argument("--out-dir", default="./data/infos", help="where the info files go")
    parser.add_argument("--extra-tag", default="nuscenes", help="first part of the files' names")
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1), help="processes")
    parser.add_argument(
        "--convention", default=UNIAD_V1, help="of the boxes: uniad-v1 (w, l, h, -yaw - pi/2) or uniad-v2 (l, w, h, yaw)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.dataset != "nuscenes":
        raise UserError(f"unknown dataset {args.dataset!r}: this tool knows nuscenes")
    if args.version not in ACCEPTED:
        raise UserError(f"unknown --version {args.version!r}: choose from {', '.join(ACCEPTED)}")
    if args.convention not in CONVENTIONS:
        raise UserError(f"unknown --convention {args.convention!r}: choose {' or '.join(CONVENTIONS)}")
    if args.workers < 1:
        raise UserError(f"--workers {args.workers}: at least 1 process is needed")
    if args.max_sweeps < 0:
        raise UserError(f"--max-sweeps {args.max_sweeps}: give 0 (none) or more")
    if not re.fullmatch(r"\w[\w.-]*", args.extra_tag):
        raise UserError(f"--extra-tag {args.extra_tag!r}: the first part of a file's name needs letters, and no slashes")
    try_place(Path(args.out_dir) / f"{args.extra_tag}_infos_temporal_train.pkl")
    if args.every < 1:
        raise UserError(f"--every {args.every}: give 1 (all keyframes) or more")
    versions = [args.version]
    if args.version == "v1.0":
        has_test = (Path(args.root_path) / "v1.0-test").is_dir()
        versions = ["v1.0-trainval"] + (["v1.0-test"] if has_test else [])
    for version in versions:
        result = create_infos(
            args.root_path, args.out_dir, args.extra_tag, version, args.canbus, args.workers, args.max_sweeps,
            progress=not args.quiet and sys.stderr.isatty(), every=args.every,
            may_lack_can_bus=args.without_canbus, convention=args.convention,
        )  # fmt: skip
        for (path, frames), scenes in zip(result.files.items(), result.scenes.values()):
            print(f"{path}: {frames} frames of {scenes} scenes")
            if not frames:
                print(f"{path} is empty: no scene of this split is here; {OWN} can name some, see docs/data.md")
        if result.absent_scenes:
            print(f"left out {result.absent_scenes} scenes of {version} whose files are not under {args.root_path}/samples")
        if result.unlisted_scenes:
            names = ", ".join(result.unlisted_scenes[:3]) + ", ..." * (len(result.unlisted_scenes) > 3)
            print(f"left out {len(result.unlisted_scenes)} scenes of {version} that are in none of its splits ({names}); {OWN} "
                  "beside the tables can name them, see docs/data.md")  # fmt: skip
        if result.frames_without_can_bus:
            print(f"{result.frames_without_can_bus} frames have no CAN bus messages: zeros stand there")


if __name__ == "__main__":
    run_cli(main)
