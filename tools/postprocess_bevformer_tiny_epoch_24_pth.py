#!/usr/bin/env python3
"""Makes BEVFormer weights ready for stage 1: adds the ego query to the 900 object queries and renames what UniAD keeps elsewhere.

    tools/postprocess_bevformer_tiny_epoch_24_pth.py [INPUT [OUTPUT]]

Without arguments, as documented: ckpts/bevformer_tiny_epoch_24.pth -> ckpts/bevformer_tiny_epoch_24_updated2.pth
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from uniad.errors import UserError, run_cli

INPUT = Path("ckpts/bevformer_tiny_epoch_24.pth")
OUTPUT = Path("ckpts/bevformer_tiny_epoch_24_updated2.pth")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", nargs="?", type=Path, default=INPUT)
    parser.add_argument("output", nargs="?", type=Path, default=OUTPUT)
    args = parser.parse_args()

    from uniad.training.checkpoint import read_checkpoint, save_checkpoint, state_dict_of
    from uniad.training.initial import OBJECT_QUERIES, adapt_bevformer

    if not args.input.is_file():
        raise UserError(
            f"{args.input} not found: download bevformer_tiny_epoch_24.pth from the BEVFormer model zoo to {INPUT.parent}/"
        )
    if args.output.resolve() == args.input.resolve():
        raise UserError(f"{args.output} would overwrite its own input: give another output name")
    content = read_checkpoint(args.input)
    state = state_dict_of(content, args.input)
    if "query_embedding.weight" in state:
        raise UserError(f"{args.input} already has UniAD's query_embedding.weight: it has been post-processed, use it as it is")
    if OBJECT_QUERIES not in state:
        raise UserError(f"{args.input} has no {OBJECT_QUERIES}: it does not hold BEVFormer weights")
    done = adapt_bevformer(state)
    save_checkpoint(args.output, {**content, "state_dict": state})
    for line in done:
        print(line)
    print(f"written: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
