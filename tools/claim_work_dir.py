#!/usr/bin/env python3
"""Says whose work directory it is before training starts there.

A run is what its config, options and data make it. An interrupted run of the same make goes on; another one's directory
is moved aside, so that nothing is resumed that was trained on something else, and nothing is lost.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import time
from pathlib import Path

from uniad.errors import UserError, run_cli
from uniad.files import atomic_path, sha256
from uniad.spec import Spec, load_spec

IDENTITY = "run.json"


def identity(spec: Spec, flags: str, infos: Path) -> dict[str, str]:
    """What must agree for one run to continue another."""
    content = dataclasses.asdict(spec)
    # Where things lie and how often they are logged changes no number.
    content.pop("path")
    for key in ("data_root", "ann_file_train", "ann_file_val", "workers_per_gpu"):
        content["data"].pop(key)
    for key in ("log_interval", "checkpoint_interval", "find_unused_parameters"):
        content["train"].pop(key)
    return {
        "config": hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest(),
        "options": " ".join(flags.split()),
        "data": sha256(infos),
    }


def claim(work_dir: Path, wanted: dict[str, str]) -> str | None:
    """Makes the directory ready for the run; returns a line about what was moved aside, if anything was."""
    path = work_dir / IDENTITY
    said = None
    if path.is_file():
        try:
            there = json.loads(path.read_text())
        except ValueError:
            there = {}
        if there != wanted:
            changed = ", ".join(key for key in wanted if there.get(key) != wanted[key])
            aside = work_dir.with_name(f"{work_dir.name}.{time.strftime('%Y%m%d-%H%M%S')}")
            work_dir.rename(aside)
            said = f"{work_dir}: an earlier run differs in {changed}; it was set aside as {aside}"
    work_dir.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        with atomic_path(path) as temporary:
            temporary.write_text(json.dumps(wanted, indent=2) + "\n")
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("work_dir", type=Path)
    parser.add_argument("config")
    parser.add_argument("--cfg-options", nargs="*", default=[])
    parser.add_argument("--flags", default="")
    parser.add_argument("--data", type=Path, required=True, help="info file of the training split")
    args = parser.parse_args()
    if not args.data.is_file():
        raise UserError(f"{args.data}: no such file; `make data` writes it")
    said = claim(args.work_dir, identity(load_spec(args.config, args.cfg_options), args.flags, args.data))
    if said:
        print(said)


if __name__ == "__main__":
    run_cli(main)
