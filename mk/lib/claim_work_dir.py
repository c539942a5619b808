#!/usr/bin/env python3
"""Whose run a work directory holds, for make. Standard library only, any stack.

    claim_work_dir.py state WORK_DIR [--reads FILE ...] -- ARGUMENTS of tools/train.py
        prints new, same or changed; changes nothing
    claim_work_dir.py claim WORK_DIR [--reads FILE ...] -- ARGUMENTS of tools/train.py
        sets another run's directory aside, and records this one

A run is what its numbers depend on (uniad.training.identity). `state` is asked while make reads its files, so it takes digests
that are known and reads no data.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "projects"))

from uniad.errors import UserError, run_cli  # noqa: E402
from uniad.training import identity  # noqa: E402
from uniad.training.arguments import parser as train_parser  # noqa: E402

DIGESTS = Path(".make/digests.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("state", "claim"))
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("--reads", type=Path, nargs="*", default=[], metavar="FILE", help="what the run's numbers depend on")
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    args = parser.parse_args(sys.argv[1:at])
    wanted = identity.settings(train_parser().parse_args(sys.argv[at + 1 :]))
    if args.action == "claim":
        for path in args.reads:
            if not path.is_file():
                raise UserError(f"{path}: no such file, and the run reads it")
        wanted.update(identity.content(args.reads, lambda path: identity.file_digest(path, DIGESTS)))
        if message := identity.claim(args.work_dir, wanted):
            print(message)
        return
    wanted.update(identity.content(args.reads, lambda path: identity.known_digest(path, DIGESTS)))
    there = identity.record_of(args.work_dir, wanted)
    print("new" if there is None else "changed" if identity.differences(there, wanted) else "same")


if __name__ == "__main__":
    run_cli(main)
