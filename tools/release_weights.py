#!/usr/bin/env python3
"""Makes a checkpoint small enough to ship: weights in fp16 with what they cannot be used without, no optimizer.

    tools/release_weights.py projects/configs/stage2_e2e/nano_e2e.py ckpts/nano_e2e.pth --out weights/nano/nano_e2e.pth
    tools/test.py projects/configs/stage2_e2e/nano_e2e.py weights/nano/nano_e2e.pth --out results.json ...
    tools/release_weights.py --card weights/nano/nano_e2e.pth --results results.json --training "16 towns, 7,673 steps"

Prints size and digest. The last form writes the card beside it, weights/nano/nano_e2e.json, from which pictures take the training
and scores of the model. Every tool that reads a checkpoint reads it; training continues it with load_from.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import _environment  # noqa: F401

from uniad.errors import UserError, run_cli

LIMIT_MB = 16


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("config", nargs="?", help="config file that the checkpoint was trained with")
    p.add_argument("checkpoint", nargs="?", help="file to make smaller")
    p.add_argument("--out", type=Path, help="file to write")
    p.add_argument("--card", type=Path, metavar="FILE", help="write the card of this released file instead")
    p.add_argument("--results", type=Path, help="card: results.json of an evaluation of that file")
    p.add_argument("--training", help="card: how it was trained, in a line")
    p.add_argument("--cfg-options", nargs="*", default=[], metavar="KEY=VALUE", help="changes to the config")
    return p.parse_args()


def main() -> None:
    args = parse_args()
    if args.card:
        if args.config or args.out or args.cfg_options:
            raise UserError("--card describes a file that is there: give no config, checkpoint, --out or --cfg-options with it")
        return write_card(args)
    if not (args.config and args.checkpoint and args.out):
        raise UserError("give a config, a checkpoint and --out FILE, or --card FILE")
    if args.results or args.training:
        raise UserError("--results and --training are of a card: give them with --card FILE, once the file is evaluated")
    from uniad.config.read import load_spec
    from uniad.files import sha256, try_place
    from uniad.training.carried import carried, load_trained
    from uniad.training.checkpoint import WEIGHTS_DIGEST, read_checkpoint, save_checkpoint, weights_digest

    try_place(args.out)
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


def write_card(args: argparse.Namespace) -> None:
    """Only results of an evaluation of this very file become part of its card."""
    from uniad.files import atomic_path, sha256
    from uniad.viz.about import figures_of, results_of

    if not args.training:
        raise UserError("a card says how its model was trained: --training TEXT")
    if not args.training.isprintable():
        raise UserError(f"--training {args.training!r}: give one line of text")
    if not args.card.is_file():
        raise UserError(f"{args.card}: no such file")
    if args.card.suffix == ".json":
        raise UserError(f"--card {args.card}: name the weights; their card is written beside them")
    digest = sha256(args.card)
    size = args.card.stat().st_size
    card: dict[str, Any] = {"file": args.card.name, "sha256": digest, "bytes": size, "training": args.training}
    if args.results:
        if not args.results.is_file():
            raise UserError(f"{args.results}: no such file; `tools/test.py ... --out` writes it")
        results = results_of(args.results, digest)
        if results is None:
            raise UserError(f"{args.results} is of another checkpoint than {args.card}: evaluate this file")
        results["checkpoint"] = args.card.name  # where it was evaluated is nobody's concern
        if isinstance(results.get("dataset"), dict):
            results["dataset"].pop("root", None)
        card["results"] = results
    path = args.card.with_suffix(".json")
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(card, indent=1) + "\n")
    print(f"{path}: {figures_of(card.get('results') or {}) or 'no scores'}")


if __name__ == "__main__":
    run_cli(main)
