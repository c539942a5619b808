#!/usr/bin/env python3
"""Losses of one or more checkpoints on the same clips, with the same random draws: whether a training learnt.

    tools/held_loss.py projects/configs/stage2_e2e/nano_e2e.py ckpts/nano_e2e.pth --start weights/nano/nano_e2e.pth \\
      --out held.json

tools/plot_training.py draws them as dots where held.json lies in the work directory.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli

NOTHING = "none"


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", help="config file that all of them were trained with")
    p.add_argument("checkpoints", nargs="+", help="files of the training, each at the step that it says")
    p.add_argument("--start", help="what the training began with, at step 0: a checkpoint, or none for random weights")
    p.add_argument("--out", required=True, type=Path, help="JSON to write")
    p.add_argument("--split", default="val", choices=("train", "val"))
    p.add_argument("--clips", type=int, default=20, metavar="N", help="clips, evenly spread over the split (default 20)")
    p.add_argument("--seed", type=int, default=0, help="of the random draws in a clip, and of random weights (default 0)")
    p.add_argument("--device", default="auto", help="auto, cpu or cuda")
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    if args.clips < 1:
        raise UserError(f"--clips {args.clips}: give a number from 1 on")
    import torch

    from uniad.config.read import load_spec
    from uniad.files import atomic_path, sha256, try_place
    from uniad.training.build import build_model
    from uniad.training.carried import load_trained
    from uniad.training.checkpoint import read_checkpoint
    from uniad.training.distributed import pick_device
    from uniad.training.held import held_clips, held_losses, learnt_tasks, mean, of_each, totals
    from uniad.training.regularisation import plain_images

    try_place(args.out)
    spec = plain_images(load_spec(args.config, args.cfg_options))
    device = pick_device(args.device)
    for path in (args.start, *args.checkpoints):
        if path not in (None, NOTHING) and not Path(path).is_file():
            raise UserError(f"{path}: no such checkpoint")
    clips = held_clips(spec, args.split, args.clips)
    rows, learnt = [], []
    for path in (*([args.start] if args.start else []), *args.checkpoints):
        at_start = path == args.start and not rows
        if path == NOTHING:
            torch.manual_seed(args.seed)
            model, digest, step = build_model(spec), None, 0
        else:
            model, _ = load_trained(spec, path, None)
            digest = sha256(path)
            step = 0 if at_start else int((read_checkpoint(path).get("meta") or {}).get("iter") or 0)
        every = held_losses(model, spec, clips, args.seed, device)
        losses = {name: mean(values) for name, values in every.items()}
        tasks = [name for name in totals(losses) if name != "loss"]
        # from random weights both stages were trained, whatever the second one freezes
        learnt = tasks if args.start == NOTHING else learnt_tasks(spec, tasks)
        row = {"checkpoint": path, "sha256": digest, "step": step, **totals(losses), "losses": losses}
        rows.append({**row, "each": of_each(every, learnt)})
        shares = ", ".join(f"{task} {row[task]:.2f}" for task in tasks)
        print(f"{path}: loss {row['loss']:.3f} on {len(clips)} clips ({shares})", flush=True)
    about = {"config": spec.path, "split": args.split, "clips": len(clips), "seed": args.seed, "learnt": learnt}
    with atomic_path(args.out) as temporary:
        temporary.write_text(json.dumps({**about, "checkpoints": rows}, indent=1) + "\n")
    print(args.out)


if __name__ == "__main__":
    run_cli(main)
