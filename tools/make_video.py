#!/usr/bin/env python3
"""Pictures and a video of each scene in a folder of results of tools/infer.py; or of two such folders and their difference."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("results", nargs="?", type=Path, help="folder of results")
    p.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="two folders of results instead, and what differs")
    p.add_argument("--out", required=True, type=Path, help="folder for SCENE.mp4 and, below SCENE/, a PNG of each frame")
    p.add_argument("--scene", help="name of one scene (default: all that are there)")
    p.add_argument("--fps", type=float, default=2.0, help="pictures a second (default 2, the pace of nuScenes keyframes)")
    p.add_argument("--no-png", action="store_true", help="the video only")
    p.add_argument("--scores", type=Path, help="results.json of `make eval`; its figures are shown if it is of this model")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    if (args.results is None) == (args.compare is None):
        raise UserError("give one folder of results, or --compare A B")
    if not args.fps > 0:
        raise UserError(f"--fps {args.fps:g}: give a number above 0")
    import numpy as np
    from tqdm import tqdm

    from uniad.files import try_place
    from uniad.viz.replay import Replay
    from uniad.viz.video import write_picture, write_video

    try_place(args.out / "video.mp4")
    replays = [Replay.open(folder, args.scores) for folder in args.compare or [args.results]]
    scenes = [scene for scene in replays[0].scenes if all(scene in replay.scenes for replay in replays)]
    if args.scene:
        scenes = [args.scene]
    if not scenes:
        raise UserError(f"{' and '.join(str(r.folder) for r in replays)}: no scene in common; run `make infer` again")

    def pictures(scene: str) -> Iterator[np.ndarray]:
        shown = replays[0].pictures_beside(replays[1], scene) if len(replays) == 2 else replays[0].pictures(scene)
        name = replays[0].folder_of(scene)
        count = min(len(replay.frames(scene)) for replay in replays)
        for number, picture in enumerate(tqdm(shown, total=count, unit="frame", desc=scene, disable=None)):
            if not args.no_png:
                write_picture(args.out / name / f"{number:04d}.png", picture)
            yield picture

    for scene in scenes:
        video = args.out / f"{replays[0].folder_of(scene)}.mp4"
        try:
            count = write_video(video, pictures(scene), args.fps)
        except OSError as error:
            raise UserError(f"{error.filename or video}: {error.strerror or error}; is there room?") from None
        print(f"{video}: {count} frames, {video.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    run_cli(main)
