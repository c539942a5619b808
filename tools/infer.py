#!/usr/bin/env python3
"""Run a model along a scene of a dataset, a folder of frames or a bag of ROS 2, with its state carried from frame to frame.

Writes a JSON and the masks of each frame, nuScenes submission files, and how long each stage took. Ctrl-C ends after the current
frame; what was done until then is kept.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import _environment  # noqa: F401

from uniad.backends.options import add_options
from uniad.errors import UserError, run_cli

if TYPE_CHECKING:
    from uniad.deploy.sources import FrameRecord
    from uniad.postprocess.result import Result
    from uniad.ros.bag import BagFrames

MOST_TOLERANCE_S = 0.5


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("model", type=Path, help="ONNX, engine, or a checkpoint with --config")
    p.add_argument("--out", required=True, type=Path, help="folder for the results")
    add_options(p)
    p.add_argument("--scene", action="append", help="scene by number, name or token; may be repeated (default 0)")
    p.add_argument("--split", default="val", choices=("train", "val"))
    p.add_argument("--folder", type=Path, help="a folder of frames instead of a dataset's scene; docs/inference.md")
    p.add_argument("--bag", type=Path, help="a rosbag2 folder, an .mcap or a .db3 file; docs/car-logs.md")
    p.add_argument("--topics", type=Path, help="of a bag: a file that says which topic is what")
    p.add_argument("--calibration", type=Path, help="of a bag: lidar2ego and cameras, in place of CameraInfo and TF")
    p.add_argument("--tolerance", type=float, help="of a bag: seconds by which an image may miss its frame (default 0.06)")
    p.add_argument("--start", type=float, help="of a bag: seconds after its begin")
    p.add_argument("--stop", type=float, help="of a bag: seconds after its begin")
    p.add_argument("--write-bag", type=Path, metavar="FILE", help="results as .mcap for a viewer, on the frames' own times")
    p.add_argument("--frames", type=int, help="first frames of each scene only")
    p.add_argument("--every", type=int, default=1, help="of a folder's or bag's frames, each N-th: the model takes 2 a second")
    p.add_argument("--warmup", type=int, default=1, help="frames that latencies leave out, for buffers and caches (default 1)")
    p.add_argument("--threads", type=int, default=0, help="onnxruntime's threads (default: its own choice)")
    p.add_argument("--limits", nargs="*", default=[], metavar="NAME=VALUE",
                   help="what a frame may hold, as most_step_s=10; docs/inference.md")  # fmt: skip
    return p.parse_args()


def open_bag(args: argparse.Namespace) -> BagFrames:
    from uniad.deploy.infer import folder_name
    from uniad.formats.topics import read_calibration, read_topics
    from uniad.ros.bag import BagFrames, name_of
    from uniad.ros.synchronise import TOLERANCE_S

    return BagFrames(
        args.bag,
        read_topics(args.topics) if args.topics else {},
        read_calibration(args.calibration) if args.calibration else None,
        args.every,
        TOLERANCE_S if args.tolerance is None else args.tolerance,
        args.start,
        args.stop,
        images=args.out / folder_name(name_of(args.bag)),
    )


def main() -> int:
    args = parse_args()
    given = [name for name in ("folder", "scene", "bag") if getattr(args, name)]
    if len(given) > 1:
        raise UserError(f"--{given[0]} and --{given[1]} both say what to run along: give one")
    for name in ("topics", "calibration", "tolerance", "start", "stop"):
        value = getattr(args, name)
        if value is not None and not args.bag:
            raise UserError(f"--{name} is of a bag: give --bag, too")
        if isinstance(value, float) and not 0 <= value < 1e6:
            raise UserError(f"--{name} {value:g}: give seconds from 0 on")
    if args.tolerance is not None and args.tolerance > MOST_TOLERANCE_S:
        raise UserError(f"--tolerance {args.tolerance:g}: at most {MOST_TOLERANCE_S:g} s, which is a whole step of the model")
    if args.start is not None and args.stop is not None and args.stop <= args.start:
        raise UserError(f"--stop {args.stop:g} is not after --start {args.start:g}")
    for name, least in (("frames", 1), ("warmup", 0), ("every", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise UserError(f"--{name} {value}: give a number from {least} on")
    if args.every > 1 and not args.folder and not args.bag:
        raise UserError("--every thins a folder's or a bag's frames; a dataset is thinned by tools/create_data.py --every")
    from tqdm import tqdm

    from uniad.deploy.infer import folder_name, latency_table, run
    from uniad.deploy.plausible import Limits
    from uniad.deploy.records import SUMMARY
    from uniad.deploy.runtime import Runtime
    from uniad.deploy.sources import DatasetFrames, FolderFrames
    from uniad.files import alone_in, sha256, try_place
    from uniad.formats.fields import duplicates
    from uniad.ros.report import write_bag_report
    from uniad.ros.results import ResultsBag
    from uniad.ros.write import check_place as check_bag_place

    # All are told before the model is loaded, which takes longer.
    limits = Limits.parse(args.limits)
    try_place(args.out / SUMMARY)
    if args.write_bag:
        check_bag_place(args.write_bag)
        if args.out.resolve() in args.write_bag.resolve().parents:
            raise UserError(f"--write-bag {args.write_bag} lies in --out, which results alone may be in: choose another folder")
    folder = FolderFrames(args.folder, every=args.every) if args.folder else None
    drive = open_bag(args) if args.bag else None
    opening = Runtime.open(
        args.model, args.device, args.backend, config=args.config, options=args.cfg_options, threads=args.threads, limits=limits
    )
    with opening as runtime, alone_in(args.out):
        spec = runtime.spec
        if recorded := folder or drive:
            scenes = [recorded.scene(args.frames)]
        else:
            dataset = DatasetFrames(spec.data, args.split)
            scenes = [dataset.scene(scene, args.frames) for scene in args.scene or ["0"]]
            twice = duplicates([folder_name(scene.name) for scene in scenes])
            if twice:
                raise UserError(f"--scene {args.scene[twice[1]]}: scene {scenes[twice[0]].name} is asked for twice")
        if args.write_bag and len(scenes) > 1:
            raise UserError("--write-bag takes one scene: their times overlap")
        for scene in scenes:
            if args.frames and len(scene) < args.frames:
                print(f"note: scene {scene.name} has {len(scene)} frames, fewer than --frames {args.frames}", file=sys.stderr)
        about: dict[str, Any] = {
            "model": str(args.model),
            "model_sha256": sha256(args.model),
            "config": spec.path,
            "config_options": runtime.options,
            "limits": args.limits,
            "device": args.device,
            "split": None if recorded else args.split,
            "source": str(args.folder or args.bag or spec.data.data_root),
            **({"bag": drive.report()} if drive else {}),
        }
        frames_of = drive.frame_names() if drive else {}
        with ExitStack() as kept:
            if drive:
                kept.enter_context(closing(drive))
            results = kept.enter_context(ResultsBag(args.write_bag, spec, **frames_of)) if args.write_bag else None
            total = sum(map(len, scenes))
            bar = kept.enter_context(tqdm(total=total, unit="frame", desc=f"infer ({runtime.backend})", disable=None))

            def also(record: FrameRecord, result: Result) -> None:
                if results:
                    results.add(record, result)
                if drive:  # what images were like is known once they were read
                    about["bag"] = drive.report()

            try:
                summary = run(runtime, scenes, args.out, about, args.warmup, bar.update, also)
            except OSError as error:
                where, why = error.filename or args.out, error.strerror or error
                raise UserError(f"{where}: {why}; frames before it are kept") from None
    print(f"{args.out}: {summary['frames']} frames of {len(summary['scenes'])} scene(s), {summary['backend']}")
    if drive:
        for note in drive.notes():
            print(f"note: {drive.where}: {note}", file=sys.stderr)
        print(write_bag_report(drive, summary, args.out))
    if args.write_bag:
        print(f"{args.write_bag}: {summary['frames']} frames for a viewer")
    if summary["latency_ms"]:
        print(f"latency over {summary['latency_frames']} frames\n{latency_table(summary)}")
    if not summary["finished"]:
        print("interrupted: what was done is kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
