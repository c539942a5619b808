#!/usr/bin/env python3
"""Looks at this machine and chooses how make runs things: writes config.mk and says in one line what was chosen and why.

Standard library only, because nothing is installed yet. A value that was asked for is kept, or refused with the one that
would work; nothing is switched silently.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from _refusal import Refused, ended

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "mk/lib"))
import machine  # noqa: E402

STACKS = ("native", "torch1.12")
RUNTIMES = ("host", "docker", "podman")
# The synthetic world is the default so that a bare machine has something to train on.
DATASETS = ("synthetic", "nuscenes", "demo")
# Releases to train on, the first where several are there
VERSIONS = ("v1.0-trainval", "v1.0-mini")


def upstream_problem(gpus: list[machine.Gpu]) -> str:
    """Why the upstream stack's torch cannot use this machine's GPUs; empty where it can."""
    newer = [g for g in gpus if g.capability > machine.NEWEST_UPSTREAM_GPU]
    if newer:
        return f"{newer[0]} is newer than torch 1.12 knows (up to sm_86)"
    return ""


def place(asked: dict[str, str], gpus: list[machine.Gpu], has_python: bool) -> tuple[str, str, str]:
    """(STACK, RUNTIME, why). The upstream stack where it can work, else native.

    Native runs in a container where docker or podman answers and has GPUs, or where the host has no fitting Python. On a CPU an
    image of many GB would bring nothing that a virtual environment has not.
    """
    stack, runtime = asked.get("STACK"), asked.get("RUNTIME")
    if stack == "torch1.12" and runtime == "host":
        raise Refused("STACK=torch1.12 runs in a container: RUNTIME=docker or podman, or STACK=native here")
    if stack == "torch1.12" and upstream_problem(gpus):
        raise Refused(f"STACK=torch1.12 cannot use this GPU: {upstream_problem(gpus)}; STACK=native can, with the same files")
    if runtime == "host":
        return stack or "native", "host", ""
    engines = machine.engines()
    working = [name for name, state in engines.items() if state == "answers"]
    states = "; ".join(f"{name}: {state}" for name, state in engines.items()) or "neither docker nor podman is installed"
    if runtime and runtime not in working:
        raise Refused(f"RUNTIME={runtime} cannot work here ({states}): start it or join its group, or use RUNTIME=host")
    if not working:
        if stack == "torch1.12":
            raise Refused(f"STACK=torch1.12 needs a container engine ({states}): install or start one, or use STACK=native")
        return "native", "host", ""
    engine = runtime or working[0]
    with_gpus = bool(gpus) and machine.engine_has_gpus(engine)
    if not stack and with_gpus and not upstream_problem(gpus):
        return "torch1.12", engine, f"{engine} answers and has GPUs"
    if stack == "torch1.12" or runtime or with_gpus or not has_python:
        return stack or "native", engine, f"{engine} answers{' and has GPUs' * with_gpus}"
    return "native", "host", ""


def choose(asked: dict[str, str], python: str, data: str = "data") -> tuple[dict[str, str], str]:
    """(settings, why). Raises Refused. data: the folder that holds nuscenes/."""
    for key, allowed in {"STACK": STACKS, "RUNTIME": RUNTIMES, "DATASET": DATASETS, "NUSC_VERSION": VERSIONS}.items():
        if key in asked and asked[key] not in allowed:
            raise Refused(f"{key}={asked[key]} is unknown: choose {', '.join(allowed)}")
    gpus = [] if asked.get("GPUS") == "0" else machine.gpus()
    found = machine.find_python(python)
    stack, runtime, where = place(asked, gpus, found is not None)
    if found is None and runtime == "host":
        raise Refused(
            "no Python 3.10, 3.11 or 3.12 on PATH (newer ones lack wheels of numpy < 2, which the nuScenes devkit needs): "
            "install one, or name it: make configure HOST_PYTHON=/path/to/python3"
        )
    usable = [g for g in gpus if g.capability >= machine.OLDEST_GPU]
    nuscenes = f"{data}/nuscenes"
    there = machine.nuscenes_versions(nuscenes)
    versions = [v for v in VERSIONS if v in there]
    if asked.get("DATASET") == "nuscenes" and not versions:
        holds = f"only {', '.join(there)}, which has no annotations to train on" if there else "no v1.0-*/sample.json"
        raise Refused(
            f"DATASET=nuscenes cannot work here, {nuscenes} holds {holds}: link it there "
            f"(ln -s /where/nuscenes/is {nuscenes}), or use DATASET=synthetic"
        )
    version = asked.get("NUSC_VERSION") or (versions or VERSIONS)[0]
    if asked.get("DATASET") == "nuscenes" and version not in versions:
        raise Refused(f"no {version} in {nuscenes}, which holds {', '.join(versions)}: NUSC_VERSION={versions[0]}")
    settings = {
        "STACK": stack,
        "RUNTIME": runtime,
        "DATASET": asked.get("DATASET", "nuscenes" if version in versions else "synthetic"),
        "NUSC_VERSION": version,
        "GPUS": str(len(usable)),
        "PYTHON": found[0] if found else python,
    }
    reasons = [where] if where else []
    if found:
        reasons.append(f"Python {found[1][0]}.{found[1][1]}")
    if usable:
        reasons.append(f"{len(usable)} GPU{'s' * (len(usable) > 1)}, {usable[0]}")
    elif gpus:
        reasons.append(f"{gpus[0]} is too old for torch (sm_70 and newer), so the CPU, {machine.cores()} cores")
    else:
        reasons.append(f"no NVIDIA GPU, so the CPU, {machine.cores()} cores")
    reasons.append(f"{nuscenes} holds {', '.join(there)}" if there else f"no {nuscenes}")
    return settings, "; ".join(reasons)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ask", action="append", default=[], metavar="NAME=VALUE", help="a setting to keep")
    parser.add_argument("--out", help="file to write")
    parser.add_argument("--words", action="store_true", help="print the settings as words and write nothing")
    parser.add_argument("--python", default="python3")
    parser.add_argument("--data", default="data", help="folder that holds nuscenes/")
    args = parser.parse_args()
    asked = dict(text.split("=", 1) for text in args.ask)
    settings, why = choose(asked, args.python, args.data)
    if args.words:
        print(" ".join(f"{key}={value}" for key, value in settings.items()))
        return 0
    chosen = " ".join(f"{key}={settings[key]}" for key in ("STACK", "RUNTIME", "DATASET"))
    if settings["DATASET"] == "nuscenes" and settings["NUSC_VERSION"] != VERSIONS[0]:
        chosen += f" NUSC_VERSION={settings['NUSC_VERSION']}"
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
    sys.exit(ended(main))
