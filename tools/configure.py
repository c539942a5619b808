#!/usr/bin/env python3
"""Looks at this machine and chooses how make runs things: writes config.mk and says in one line what was chosen and why.

Standard library only, because nothing is installed yet. A value that was asked for is kept, or refused with the one that
would work; nothing is switched silently.
"""

from __future__ import annotations

import argparse
import os
import sys

import machine

STACKS = ("native", "torch1.12")
RUNTIMES = ("host", "docker", "podman")
# The synthetic world is the default so that a bare machine has something to train on.
DATASETS = ("synthetic", "nuscenes", "demo")


class Refused(Exception):
    """What was asked for cannot work here; the message names what would."""


def choose(asked: dict[str, str], python: str) -> tuple[dict[str, str], str]:
    """(settings, why). Raises Refused."""
    for key, allowed in {"STACK": STACKS, "RUNTIME": RUNTIMES, "DATASET": DATASETS}.items():
        if key in asked and asked[key] not in allowed:
            raise Refused(f"{key}={asked[key]} is unknown: choose {', '.join(allowed)}")
    if asked.get("STACK") == "torch1.12":
        raise Refused("STACK=torch1.12 cannot be run by this version yet: STACK=native can, and reads the same files")
    if asked.get("RUNTIME", "host") != "host":
        raise Refused(f"RUNTIME={asked['RUNTIME']} cannot be used by this version yet: RUNTIME=host can")

    found = machine.find_python(python)
    if found is None:
        raise Refused(
            "no Python 3.10, 3.11 or 3.12 on PATH (newer ones lack wheels of numpy < 2, which the nuScenes devkit needs): "
            "install one, or name it: make configure HOST_PYTHON=/path/to/python3"
        )
    gpus = machine.gpus()
    usable = [g for g in gpus if g.capability >= machine.OLDEST_GPU]
    versions = machine.nuscenes_versions("data/nuscenes")
    if asked.get("DATASET") == "nuscenes" and not versions:
        raise Refused(
            "DATASET=nuscenes cannot work here, data/nuscenes holds no v1.0-*/sample.json: link it there "
            "(ln -s /where/nuscenes/is data/nuscenes), or use DATASET=synthetic"
        )
    settings = {
        "STACK": asked.get("STACK", "native"),
        "RUNTIME": asked.get("RUNTIME", "host"),
        "DATASET": asked.get("DATASET", "nuscenes" if versions else "synthetic"),
        "GPUS": str(len(usable)),
        "PYTHON": found[0],
    }
    reasons = [f"Python {found[1][0]}.{found[1][1]}"]
    if usable:
        reasons.append(f"{len(usable)} GPU{'s' * (len(usable) > 1)}, {usable[0]}")
    elif gpus:
        reasons.append(f"{gpus[0]} is too old for torch (sm_70 and newer), so the CPU, {machine.cores()} cores")
    else:
        reasons.append(f"no NVIDIA GPU, so the CPU, {machine.cores()} cores")
    reasons.append(f"data/nuscenes holds {', '.join(versions)}" if versions else "no data/nuscenes")
    return settings, "; ".join(reasons)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ask", action="append", default=[], metavar="NAME=VALUE", help="a setting to keep")
    parser.add_argument("--out", help="file to write")
    parser.add_argument("--words", action="store_true", help="print the settings as words and write nothing")
    parser.add_argument("--python", default="python3")
    args = parser.parse_args()
    asked = dict(text.split("=", 1) for text in args.ask)
    try:
        settings, why = choose(asked, args.python)
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.words:
        print(" ".join(f"{key}={value}" for key, value in settings.items()))
        return 0
    chosen = " ".join(f"{key}={settings[key]}" for key in ("STACK", "RUNTIME", "DATASET"))
    if args.out:
        text = f"# Written by `make configure`: {why}.\n# The command line wins over these; `make configure` looks again.\n"
        text += "".join(f"CONFIGURED_{key} := {value}\n" for key, value in settings.items())
        temporary = f"{args.out}.{os.getpid()}.tmp"
        with open(temporary, "w", encoding="utf-8") as handle:
            handle.write(text)
        os.replace(temporary, args.out)
    print(f"configured: {chosen} ({why})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
