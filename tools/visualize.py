#!/usr/bin/env python3
"""Draw one frame of a scene: six cameras with predicted boxes, and the model's view from above beside the annotated one.

Of stage 2 also forecasts, occupancy, the planned path and the command.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import _environment  # noqa: F401

from uniad.backends.options import add_options
from uniad.errors import UserError, run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("config")
    p.add_argument("checkpoint", type=Path, metavar="model", help="checkpoint, ONNX or TensorRT engine")
    p.add_argument("--out", required=True, type=Path, help="PNG to write")
    p.add_argument("--split", default="val", choices=("train", "val"))
    p.add_argument("--scene", type=int, default=0, help="number of the scene in the split (default 0)")
    p.add_argument("--frame", type=int, help="frame to draw; the model runs from the scene's start (default 10, or the last)")
    p.add_argument("--scores", type=Path, help="results.json of `make eval`; its figures are shown if it is of this checkpoint")
    add_options(p, config=False)
    return p.parse_args()


def main() -> None:
    args = parse_args()
    from uniad.backends.open import find_model
    from uniad.config.spec import BENCH2DRIVE
    from uniad.data.dataset import SceneStream
    from uniad.data.rig import check_dataset_rigs
    from uniad.deploy.loop import results_along
    from uniad.deploy.plausible import Limits
    from uniad.deploy.runtime import Runtime
    from uniad.files import sha256, try_place
    from uniad.viz.about import about_run
    from uniad.viz.content import content_of
    from uniad.viz.page import render
    from uniad.viz.video import write_picture

    try_place(args.out)
    model = find_model(args.checkpoint, args.config, args.cfg_options)
    spec = model.spec
    stream = SceneStream(spec.data, args.split, stage=spec.stage, workers=0)
    check_dataset_rigs(spec, stream.table)
    if not 0 <= args.scene < len(stream.scenes):
        raise UserError(f"--scene {args.scene}: the {args.split} split has scenes 0 to {len(stream.scenes) - 1}")
    last = len(stream.table.frames_of(stream.scenes[args.scene])) - 1
    wanted = min(10, last) if args.frame is None else args.frame
    if not 0 <= wanted <= last:
        raise UserError(f"--frame {args.frame}: scene {args.scene} of the {args.split} split has frames 0 to {last}")
    about = about_run({"model": str(model.path), "model_sha256": sha256(model.path)}, args.scores)
    with Runtime.open(model, args.device, args.backend, limits=Limits.off()) as runtime:
        along = results_along(runtime, stream.scene(args.scene))
        sample, result = next(itertools.islice(along, wanted, None))
        name = spec.name if runtime.backend == "torch" else f"{spec.name}, {runtime.backend}"
    at = 7 if spec.data.compat.can_bus_order == BENCH2DRIVE else 13  # the velocity's place
    speed = float(sample.frame.can_bus[0, at : at + 3].norm())
    content = content_of(result, {**sample.info, "frame": wanted}, sample, spec, [name], about, speed)
    write_picture(args.out, render(content, spec.data.class_names, spec.data.pc_range))
    print(f"{args.out}: scene {args.scene} of {args.split}, frame {wanted}")


if __name__ == "__main__":
    run_cli(main)
