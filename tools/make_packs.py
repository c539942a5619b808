#!/usr/bin/env python3
"""Makes synthetic worlds and packs them for training: one pack a seed, ready for tools/train.py --packs.

    tools/make_packs.py projects/configs/stage1_track_map/nano_track_map.py --seeds 11 12 13 14 --out data/packs

Each world is made, annotated, packed and removed again (--keep leaves it, as evaluation and motion anchors need one). Packs that
are there are left alone, so an interrupted call can be repeated.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import _environment

from uniad.errors import UserError, run_cli
from uniad.processes import cores_here

TOOLS = Path(_environment.TOOLS)


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", help="config file of either stage")
    p.add_argument("--seeds", type=int, nargs="+", required=True, metavar="S", help="a world for each")
    p.add_argument("--out", type=Path, required=True, help="folder: SEED.pt, and SEED/ where worlds are kept")
    p.add_argument("--scenes", type=int, default=40, metavar="N", help="training scenes of each world (default: 40)")
    p.add_argument("--frames", type=int, default=20, metavar="N", help="keyframes of each scene (default: 20)")
    p.add_argument("--driven", action="store_true", help="worlds whose scenes teach driving")
    p.add_argument("--learner", metavar="MODEL", help="with --driven: this checkpoint of the config has the wheel")
    p.add_argument("--keep", type=int, nargs="*", default=[], metavar="S", help="seeds whose worlds stay")
    p.add_argument("--at-once", type=int, default=4, metavar="N", help="worlds that are made at the same time (default: 4)")
    p.add_argument("--jobs", type=int, default=cores_here(), metavar="N", help="processes, all worlds together")
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the config")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    at_once = min(args.at_once, len(args.seeds))
    jobs = max(1, args.jobs // at_once)
    with ThreadPoolExecutor(at_once) as pool:
        for line in pool.map(lambda seed: make_pack(seed, args, jobs), args.seeds):
            print(line, flush=True)


def make_pack(seed: int, args: argparse.Namespace, jobs: int) -> str:
    """The line to report."""
    pack, world, infos = args.out / f"{seed}.pt", args.out / str(seed), args.out / str(seed) / "infos"
    if not pack.exists() or (seed in args.keep and not infos.exists()):
        run(
            "make_synthetic_nuscenes.py", "--out", world, "--train-scenes", args.scenes, "--val-scenes", 0,
            "--frames", args.frames, "--seed", seed, "--lidar-columns", 360, "--workers", jobs, "--quiet",
            *(["--driven"] if args.driven else []),
            *(["--learner", args.learner, "--config", args.config] if args.learner else []),
            *(["--cfg-options", *args.cfg_options] if args.learner and args.cfg_options else []),
        )  # fmt: skip
        run(
            "create_data.py", "nuscenes", "--root-path", world, "--out-dir", infos, "--extra-tag", "nuscenes", "--version",
            "v1.0-trainval", "--canbus", world, "--workers", jobs,
        )  # fmt: skip
    if not pack.exists():
        options = [*args.cfg_options, f"data_root={world}/", f"info_root={infos}/"]
        run("pack_clips.py", args.config, "--out", pack, "--workers", jobs, "--quiet", "--cfg-options", *options)
    if seed not in args.keep and world.exists():
        shutil.rmtree(world)
    return f"{pack}: seed {seed}, {args.scenes} scenes of {args.frames} frames, {pack.stat().st_size / 1e6:.0f} MB"


def run(tool: str, *words: object) -> None:
    """One of the tools beside this one; its output is shown only if it fails."""
    done = subprocess.run([sys.executable, TOOLS / tool, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise UserError(f"{tool} failed ({done.returncode}): {last.removeprefix('error: ')}")


if __name__ == "__main__":
    run_cli(main)
