#!/usr/bin/env python3
"""A Rerun recording of each scene in a folder of results of tools/infer.py: images, boxes, map, forecasts, plan, occupancy.

    tools/make_recording.py outputs/infer/nano_e2e.onnxruntime/0 --out outputs/view
    rerun outputs/view/scene-0103.rrd              # the viewer; --web-viewer opens it in a browser

Everything lies on one timeline (frame, time), to be played, stopped and turned around.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("results", type=Path, help="folder of results")
    p.add_argument("--out", required=True, type=Path, help="folder for SCENE.rrd")
    p.add_argument("--scene", help="name of one scene (default: all that are there)")
    p.add_argument("--scores", type=Path, help="results.json of `make eval`; its figures are shown if it is of this model")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    from uniad.files import try_place
    from uniad.viz.recording import rerun, scenes_of, write_recording
    from uniad.viz.replay import Replay

    rerun()  # says so where it is missing, before anything is read
    replay = Replay.open(args.results, args.scores)
    scenes = list(scenes_of(replay, args.scene))
    try_place(args.out / f"{scenes[0]}.rrd")
    for scene in scenes:
        path = args.out / f"{scene}.rrd"
        try:
            count = write_recording(path, replay, scene)
        except OSError as error:
            raise UserError(f"{error.filename or path}: {error.strerror or error}; is there room?") from None
        print(f"{path}: {count} frames, {path.stat().st_size / 2**20:.1f} MiB; open it with: rerun {path}")


if __name__ == "__main__":
    run_cli(main)
