#!/usr/bin/env python3
"""Make motion anchors by k-means from the training infos, where the published file is absent.

    tools/make_motion_anchors.py projects/configs/stage2_e2e/base_e2e.py --out data/others/motion_anchor_infos_mode6.pkl
"""

from __future__ import annotations

import argparse

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli
from uniad.files import try_place


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Make motion anchors by k-means from the training infos.")
    parser.add_argument("config", help="a stage-2 config: its classes, groups, modes, steps and infos are used")
    parser.add_argument("--out", default=None, help="file to write (default: the config's anchor_info_path)")
    parser.add_argument("--seed", type=int, default=0, help="the same seed and infos give the same file")
    parser.add_argument("--cfg-options", nargs="+", default=[], metavar="KEY=VALUE", help="config values to override")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    # After the arguments, so that --help answers at once.
    import numpy as np

    from uniad.config.read import load_spec
    from uniad.data.anchors import cluster_futures, load_motion_anchors, save_motion_anchors, training_futures

    spec = load_spec(args.config, args.cfg_options)
    if spec.model.stage2 is None:
        raise UserError(f"{args.config} is no stage-2 config: it has no motion head, and so no anchors")
    motion = spec.model.stage2.motion
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: give 0 or more")
    out = args.out or motion.anchor_path
    try_place(out)
    futures = training_futures(spec.data)
    anchors = cluster_futures(futures, motion, args.seed)
    save_motion_anchors(out, anchors, motion, spec.data.class_names)
    load_motion_anchors(out, motion)
    print(f"{out}: anchors of {len(anchors)} groups from {len(futures.labels)} trajectories")
    for group, paths in zip(motion.group_ids, anchors):
        names = ", ".join(spec.data.class_names[number] for number in group)
        ends = "  ".join(f"({x:.1f}, {y:.1f})" for x, y in paths[:, -1])
        count = int(np.isin(futures.labels, group).sum())
        print(f"  {names}: {count} trajectories, ends at {ends}" if count else f"  {names}: none seen, takes those of all groups")


if __name__ == "__main__":
    run_cli(main)
