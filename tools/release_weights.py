#!/usr/bin/env python3
"""Makes a checkpoint small enough to ship: weights in fp16 with what they cannot be used without, no optimizer.

    tools/release_weights.py projects/configs/stage2_e2e/nano_e2e.py ckpts/nano_e2e.pth --out weights/nano/nano_e2e.pth

Prints size and digest. Every tool that reads a checkpoint reads it; training continues it with load_from.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _environment  # noqa: F401
from uniad.errors import UserError, run_cli

LIMIT_MB = 16


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", help="config file that the checkpoint was trained with")
    p.add_argument("checkpoint", help="file to make smaller")
    p.add_argument("--out", type=Path, required=True, help="file to write")
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the config")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    from uniad.config.read import load_spec
    from uniad.files import sha256
    from uniad.training.carried import carried, load_trained
    from uniad.training.checkpoint import WEIGHTS_DIGEST, read_checkpoint, save_checkpoint, weights_digest

    spec = load_spec(args.config, args.cfg_options)
    model, _ = load_trained(spec, args.checkpoint)
    state = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    lost = [name for name, value in state.items() if not value.isfinite().all()]
    if lost:
        raise UserError(f"{args.checkpoint}: {lost[0]} has numbers beyond fp16's range, so it cannot be shipped")
    meta = read_checkpoint(args.checkpoint).get("meta") or {}
    native = {WEIGHTS_DIGEST: weights_digest(state), **carried(model)}
    save_checkpoint(args.out, {"meta": meta, "state_dict": state, "native": native})
    size = args.out.stat().st_size / 1e6
    print(f"{args.out}: {size:.1f} MB, sha256 {sha256(args.out)}" + (f" (over {LIMIT_MB} MB)" if size > LIMIT_MB else ""))


if __name__ == "__main__":
    run_cli(main)
