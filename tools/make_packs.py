#!/usr/bin/env python3
"""Makes synthetic worlds and packs them for training: one pack a seed, ready for tools/train.py --packs.

    tools/make_packs.py projects/configs/stage1_track_map/nano_track_map.py --seeds 11 12 13 14 --out data/packs

Each world is made, annotated, packed and removed again (--keep leaves it, as evaluation and motion anchors need one). Packs that
are there are left alone, so an interrupted call can be repeated; SEED.json beside one says of what worlds it is, and a pack of
others is an error.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import _environment

from uniad.errors import UserError, run_cli
from uniad.files import atomic_path, read_json_of, sha256, try_place
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
    about = check(args)
    at_once = min(args.at_once, len(args.seeds))
    jobs = max(1, args.jobs // at_once)
    with ThreadPoolExecutor(at_once) as pool:
        for line in pool.map(lambda seed: make_pack(seed, args, jobs, about), args.seeds):
            print(line, flush=True)


def check(args: argparse.Namespace) -> dict[str, Any]:
    """What the packs are to be made of. UserError for what would be told after worlds were made, which takes long, or never."""
    for name in ("scenes", "frames", "at_once", "jobs"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: give a number from 1 on")
    twice = sorted(seed for seed in set(args.seeds) if args.seeds.count(seed) > 1)
    if twice:
        raise UserError(f"--seeds names {twice[0]} twice: each is a world")
    if unknown := sorted(set(args.keep) - set(args.seeds)):
        raise UserError(f"--keep {unknown[0]}: --seeds does not name it")
    if args.learner and not args.driven:
        raise UserError("--learner is for --driven worlds")
    from uniad.config.read import load_spec

    load_spec(args.config, args.cfg_options)
    about = {"scenes": args.scenes, "frames": args.frames, "driven": args.driven}
    about["learner"] = sha256(args.learner) if args.learner else ""
    for seed in args.seeds:
        try_place(args.out / f"{seed}.pt")
        note = args.out / f"{seed}.json"
        if not (args.out / f"{seed}.pt").exists() or not note.exists():  # packs of earlier versions have none
            continue
        damaged = f"{note} is damaged: remove it and its pack"
        if read_json_of(note, f"{note} is gone", lambda error, damaged=damaged: f"{damaged} ({error})") != about:
            raise UserError(f"{args.out / f'{seed}.pt'} is of other worlds, as {note.name} says: give another --out")
    return about


def make_pack(seed: int, args: argparse.Namespace, jobs: int, about: dict[str, Any]) -> str:
    """The line to report. about: what the pack is made of, written beside it."""
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
        with atomic_path(args.out / f"{seed}.json") as temporary:
            temporary.write_text(json.dumps(about) + "\n")
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
