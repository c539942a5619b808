#!/usr/bin/env python3
"""Packs a data set's decoded images into one file that many machines read at once, from storage that they share.

    tools/pack_images.py projects/configs/stage1_track_map/tiny_imgx0.25_track_map.py --out /shared/tiny.images \\
      --cfg-options native.image_cache=scaled
    tools/train.py ... --cfg-options native.image_cache=scaled native.image_pack=/shared/tiny.images
    tools/pack_images.py --check /shared/tiny.images

native.image_cache says what it holds: exact (the pixels that scaling reads) or scaled (a quarter of that, a grey level off).
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
    p.add_argument("config", nargs="?", help="config file of either stage")
    p.add_argument("--out", type=Path, help="file to write")
    p.add_argument("--splits", nargs="+", choices=("train", "val"), default=["train", "val"])
    p.add_argument("--check", type=Path, metavar="FILE", help="hold every image of a pack against its checksum instead")
    p.add_argument("--workers", type=int, default=cores_here(), metavar="N")
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the config")
    p.add_argument("--quiet", action="store_true", help="no progress bar")
    args = p.parse_args()
    if (args.check is None) == (args.config is None or args.out is None):
        p.error("give a config and --out FILE, or --check FILE")
    return args


def main() -> None:
    args = parse_args()
    from uniad.config.read import load_spec
    from uniad.data.dataset import open_table
    from uniad.data.image_pack import check_pack
    from uniad.data.image_packing import write_pack
    from uniad.files import try_place

    if args.out:
        try_place(args.out)
    torch.set_num_threads(1)
    with tqdm(unit="image", disable=args.quiet or None) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        if args.check:
            found = f"{check_pack(args.check, progress)} images, all as they were packed"
        else:
            spec = load_spec(args.config, args.cfg_options).data
            count = write_pack(spec, [open_table(spec, split) for split in args.splits], args.out, args.workers, progress)
            found = f"{count} images, {args.out.stat().st_size / 1e6:.0f} MB"
    print(f"{args.check or args.out}: {found}")


if __name__ == "__main__":
    run_cli(main)
