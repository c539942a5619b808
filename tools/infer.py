#!/usr/bin/env python3
"""Run a model along a scene of a dataset, or along a folder of frames, with its state carried from frame to frame.

Writes a JSON and the masks of each frame, nuScenes submission files, and how long each stage took. Ctrl-C ends after the current
frame; what was done until then is kept.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("model", type=Path, help="ONNX, engine, or a checkpoint with --config")
    p.add_argument("--out", required=True, type=Path, help="folder for the results")
    p.add_argument("--backend", default="auto", help="auto, torch, compiled, onnxruntime, tensorrt, tensorrt_rtx or trtexec")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--config", help="config of a checkpoint; of an ONNX or engine its card names it")
    p.add_argument("--scene", action="append", help="scene by number, name or token; may be repeated (default 0)")
    p.add_argument("--split", default="val", choices=("train", "val"))
    p.add_argument("--folder", type=Path, help="a folder of frames instead of a dataset's scene; docs/inference.md")
    p.add_argument("--frames", type=int, help="first frames of each scene only")
    p.add_argument("--every", type=int, default=1, help="of a folder's frames, each N-th: the model takes 2 in a second")
    p.add_argument("--warmup", type=int, default=1, help="frames that latencies leave out, for buffers and caches (default 1)")
    p.add_argument("--threads", type=int, default=0, help="onnxruntime's threads (default: its own choice)")
    p.add_argument(
        "--limits",
        nargs="*",
        default=[],
        metavar="NAME=VALUE",
        help="what a frame may hold, as most_step_s=10; docs/inference.md",
    )
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE", help="config values on top")
    return p.parse_args()


def main() -> int:
    args = parse_args()
    if args.folder and args.scene:
        raise UserError("--folder and --scene both say what to run along: give one")
    for name, least in (("frames", 1), ("warmup", 0), ("every", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: give a number from {least} on")
    if args.every > 1 and not args.folder:
        raise UserError("--every thins a folder's frames; a dataset is thinned by tools/create_data.py --every")
    from tqdm import tqdm

    from uniad.deploy.infer import folder_name, latency_table, run
    from uniad.deploy.plausible import Limits
    from uniad.deploy.records import SUMMARY
    from uniad.deploy.runtime import Runtime
    from uniad.deploy.sources import DatasetFrames, FolderFrames
    from uniad.files import sha256, try_place
    from uniad.formats.fields import duplicates

    # All are told before the model is loaded, which takes longer.
    limits = Limits.parse(args.limits)
    try_place(args.out / SUMMARY)
    folder = FolderFrames(args.folder, every=args.every) if args.folder else None
    with Runtime.open(
        args.model, args.device, args.backend, config=args.config, options=args.cfg_options, threads=args.threads, limits=limits
    ) as runtime:
        spec = runtime.spec
        if folder:
            scenes = [folder.scene(args.frames)]
        else:
            dataset = DatasetFrames(spec.data, args.split)
            scenes = [dataset.scene(scene, args.frames) for scene in args.scene or ["0"]]
            twice = duplicates([folder_name(scene.name) for scene in scenes])
            if twice:
                raise UserError(f"--scene {args.scene[twice[1]]}: scene {scenes[twice[0]].name} is asked for twice")
        for scene in scenes:
            if args.frames and len(scene) < args.frames:
                print(f"note: scene {scene.name} has {len(scene)} frames, fewer than --frames {args.frames}", file=sys.stderr)
        about = {
            "model": str(args.model),
            "model_sha256": sha256(args.model),
            "config": spec.path,
            "config_options": runtime.options,
            "limits": args.limits,
            "device": args.device,
            "split": None if args.folder else args.split,
            "source": str(args.folder or spec.data.data_root),
        }
        with tqdm(total=sum(map(len, scenes)), unit="frame", desc=f"infer ({runtime.backend})", disable=None) as bar:
            try:
                summary = run(runtime, scenes, args.out, about, args.warmup, bar.update)
            except OSError as error:
                where, why = error.filename or args.out, error.strerror or error
                raise UserError(f"{where}: {why}; frames before it are kept") from None
    print(f"{args.out}: {summary['frames']} frames of {len(summary['scenes'])} scene(s), {summary['backend']}")
    if summary["latency_ms"]:
        print(f"latency over {summary['latency_frames']} frames\n{latency_table(summary)}")
    if not summary["finished"]:
        print("interrupted: what was done is kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
