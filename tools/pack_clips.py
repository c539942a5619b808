#!/usr/bin/env python3
"""Packs a training set for tools/train.py --packs: scaled images and all labels in one file, decoded and drawn once.

    tools/pack_clips.py projects/configs/stage1_track_map/nano_track_map.py --out data/packs/seed11.pt \\
      --cfg-options data_root=worlds/11/ info_root=worlds/11/infos/

A pack serves both stages of a variant. Give training several packs to train on several worlds at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _environment  # noqa: F401

import torch
from tqdm import tqdm

from uniad.errors import run_cli
from uniad.processes import cores_here


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", help="config file of either stage")
    p.add_argument("--out", type=Path, required=True, help="file to write")
    p.add_argument("--workers", type=int, default=cores_here(), metavar="N")
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the config")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    from uniad.config.read import load_spec
    from uniad.data.packs import FrameRecords, write_pack
    from uniad.data.rig import check_dataset_rigs
    from uniad.files import try_place

    try_place(args.out)
    torch.set_num_threads(1)
    spec = load_spec(args.config, args.cfg_options)
    check_dataset_rigs(spec, FrameRecords(spec.data).clips.table)
    with tqdm(unit="frame", desc="pack", disable=args.quiet or None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        frames = write_pack(spec, args.out, args.workers, progress)
    print(f"{args.out}: {frames} frames, {args.out.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    run_cli(main)
