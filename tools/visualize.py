#!/usr/bin/env python3
"""Draw one frame of a scene: six cameras with predicted boxes, and the model's view from above beside the annotated one.

Of stage 2 also forecasts, occupancy, the planned path and the command.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _environment  # noqa: F401
from uniad.errors import UserError, run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("config")
    p.add_argument("checkpoint")
    p.add_argument("--out", required=True, type=Path, help="PNG to write")
    p.add_argument("--split", default="val", choices=("train", "val"))
    p.add_argument("--scene", type=int, default=0, help="number of the scene in the split (default 0)")
    p.add_argument("--frame", type=int, help="frame to draw; the model runs from the scene's start (default 10, or the last)")
    p.add_argument("--scores", type=Path, help="results.json of `make eval`; its figures are shown if it is of this checkpoint")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    import cv2
    import torch
    from uniad.config.read import load_spec
    from uniad.data.dataset import SceneStream
    from uniad.data.rig import check_dataset_rigs
    from uniad.evaluation.run import start_of_scene, to_device
    from uniad.files import atomic_path, try_place
    from uniad.training.carried import load_trained
    from uniad.training.distributed import pick_device
    from uniad.viz.about import about_checkpoint
    from uniad.viz.content import content_of
    from uniad.viz.page import render

    try_place(args.out)
    spec = load_spec(args.config, args.cfg_options)
    device = pick_device(args.device)
    stream = SceneStream(spec.data, args.split, stage=spec.stage, workers=0)
    check_dataset_rigs(spec, stream.table)
    if not 0 <= args.scene < len(stream.scenes):
        raise UserError(f"--scene {args.scene}: the {args.split} split has scenes 0 to {len(stream.scenes) - 1}")
    last = len(stream.table.frames_of(stream.scenes[args.scene])) - 1
    wanted = min(10, last) if args.frame is None else args.frame
    if not 0 <= wanted <= last:
        raise UserError(f"--frame {args.frame}: scene {args.scene} of the {args.split} split has frames 0 to {last}")
    about = about_checkpoint(args.checkpoint, args.scores)
    model, _ = load_trained(spec, args.checkpoint, None)
    model.to(device).eval()
    state = outputs = sample = None
    with torch.no_grad():
        for number, sample in enumerate(stream.scene(args.scene)):
            if state is None:
                state = start_of_scene(model, sample.previous_can_bus, device)
            outputs, state = model.step(to_device(sample.frame, device), state)
            if number == wanted:
                break
    image = render(content_of(outputs, sample, spec, number, about), spec.data.class_names, spec.data.pc_range)
    with atomic_path(args.out) as temporary:
        if not cv2.imwrite(str(temporary), image[..., ::-1]):
            raise UserError(f"{args.out}: cannot be written; is it a .png in a folder with room?")
    print(f"{args.out}: scene {args.scene} of {args.split}, frame {number}")


if __name__ == "__main__":
    run_cli(main)
