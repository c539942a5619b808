#!/usr/bin/env python3
"""Write a checkpoint of seeded random weights, for an ONNX or a TensorRT engine without any training.

    tools/make_random_weights.py projects/configs/stage2_e2e/tiny_imgx0.25_e2e.py --out ckpts/random/tiny_imgx0.25_e2e.pth

The weights are those that a training from nothing starts with. The graph has every operator and size of a trained one, so that it
can be built and timed; what it says of a scene means nothing. The same seed gives the same weights. The checkpoint, and the card
of what is exported from it, say that they are random. Motion anchors are the config's, which `make anchors` makes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", help="config file of either stage")
    p.add_argument("--out", required=True, type=Path, help="checkpoint to write")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE", help="override config values")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    import torch

    from uniad.config.read import load_spec
    from uniad.training.build import build_model
    from uniad.training.checkpoint import RANDOM, is_random, read_checkpoint, save_checkpoint

    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: give 0 or more")
    if args.out.exists() and not is_random(read_checkpoint(args.out)):
        raise UserError(f"{args.out} holds weights that are not random, and stays: give another --out")
    spec = load_spec(args.config, args.cfg_options)
    torch.manual_seed(args.seed)
    state = build_model(spec).state_dict()
    about = {"variant": spec.variant, "stage": spec.stage, "config": spec.path, "weights": RANDOM, "seed": args.seed}
    save_checkpoint(args.out, {"meta": {"seed": args.seed, "uniad": about}, "state_dict": state})
    values = sum(value.numel() for value in state.values())
    print(f"{args.out}: random weights of {spec.name}, seed {args.seed}, {values / 1e6:.1f} million")


if __name__ == "__main__":
    run_cli(main)
