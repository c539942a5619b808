#!/usr/bin/env python3
"""What a checkpoint is, for make: words, then a sentence for the person. Standard library only.

    recognise.py FILE [--said GENERATION]

Prints ``GENERATION MODEL STAGE OPTION SENTENCE...``, with - where it does not tell. Nothing for this
repository's own checkpoints, which say themselves what they were made with, and for what is none of UniAD's: the tools name that.
Where the file's digest or shapes leave no doubt and somebody says otherwise: ``wrong`` and a sentence.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "projects"))

from uniad.errors import UserError, run_cli  # noqa: E402
from uniad.formats.checkpoints import model_of, recognise  # noqa: E402
from uniad.formats.published import BENCH2DRIVE, TITLES, UNIAD_V1, UNIAD_V2, convention_of  # noqa: E402


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("file")
    p.add_argument("--said")
    args = p.parse_args()
    try:
        found = recognise(args.file)
    except UserError:
        return  # the tool that opens it says what is wrong
    sizes = found.sizes
    if found.own or found.generation is None or sizes is None:
        return
    if args.said and args.said != found.generation:
        if found.certain:
            print("wrong", f"GENERATION={args.said}: {args.file} is of {found.title} ({found.why}); leave GENERATION out")
            return
        if args.said == BENCH2DRIVE:  # whose shapes are others, so that nothing is left to say
            has = f"{args.file} has {sizes.classes} object classes where Bench2Drive's has 9"
            print("wrong", f"GENERATION={args.said}: {has}: it is of {found.title} ({found.why}); leave GENERATION out")
            return
        sentence = f"{args.file}: taken for {TITLES[args.said]}, as you say ({found.title} {found.why})"
        found = replace(found, generation=args.said, box_code=convention_of(args.said))
    else:
        other = UNIAD_V2 if found.generation == UNIAD_V1 else UNIAD_V1
        doubt = "" if found.certain or args.said else f"; if it is of {TITLES[other]}: GENERATION={other}"
        name = f"'s {found.published.name}" if found.published else f", stage {sizes.stage}"
        sentence = f"{args.file}: taken for {found.title}{name} ({found.why}){doubt}"
    model = model_of(sizes, str(found.generation))
    if model is None and not found.certain and not args.said and found.generation == UNIAD_V1:
        return  # of a size that nobody published: its config says the rest
    print(found.generation, model or "-", sizes.stage, found.option or "-", sentence)


if __name__ == "__main__":
    run_cli(main)
