#!/usr/bin/env python3
"""Hands a training to a cluster: writes the job in its words and calls its own program. Standard library only.

    submit.py --on slurm|k8s|sky --goal train --name uniad-full --machines 4 --gpus 8 --out FILE [...] [NAME=VALUE ...]
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "projects"))

from uniad.errors import UserError, run_cli  # noqa: E402
from uniad.files import atomic_path  # noqa: E402
from uniad.jobs import kubeflow, skypilot, slurm  # noqa: E402
from uniad.jobs.job import Job  # noqa: E402

# The program that takes the job, and what to do where there is none
PROGRAMS = {
    "slurm": ("sbatch", "this machine submits to no Slurm"),
    "k8s": ("kubectl", "install it, and point it at a cluster with Kubeflow Trainer"),
    "sky": ("sky", "install SkyPilot (pip install skypilot) and run `sky check`"),
}


def parse_args() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("settings", nargs="*", metavar="NAME=VALUE", help="make's settings, for every machine")
    p.add_argument("--on", required=True, choices=sorted(PROGRAMS))
    p.add_argument("--goal", required=True)
    p.add_argument("--name", required=True)
    p.add_argument("--machines", type=int, default=1)
    p.add_argument("--gpus", type=int, default=1, help="on each machine")
    p.add_argument("--gpu", default="", help="SkyPilot's name of the GPU")
    p.add_argument("--image", default="")
    p.add_argument("--storage", default="")
    p.add_argument("--shm", default="8g", help="shared memory of a container")
    p.add_argument("--minutes", type=int)
    p.add_argument("--restarts", type=int, default=3)
    p.add_argument("--flags", default="", help="more options for the program that takes the job")
    p.add_argument("--out", type=Path, required=True, help="the job's file (k8s, sky)")
    p.add_argument("--plan", action="store_true", help="print what would be handed over, and hand nothing over")
    return p.parse_args()


def main() -> int:
    args = parse_args()
    job = Job(
        name=args.name, goal=args.goal,
        settings=dict(s.split("=", 1) for s in args.settings),
        machines=args.machines, gpus=args.gpus, storage=args.storage, image=args.image, shared_memory=args.shm,
        minutes=args.minutes, restarts=args.restarts,
    )  # fmt: skip
    flags = shlex.split(args.flags)
    if args.on == "slurm":
        text, command = "", slurm.words(job, flags)
    else:
        made = kubeflow.manifests(job) if args.on == "k8s" else skypilot.task(job, args.gpu)
        text = json.dumps(made, indent=1) + "\n"  # which is YAML, too
        taken_by = ["kubectl", "apply", "-f"] if args.on == "k8s" else ["sky", "jobs", "launch", "--yes", "--detach-run"]
        command = [*taken_by, str(args.out), *flags]
    if args.plan:
        print(text + shlex.join(command))
        return 0
    program, hint = PROGRAMS[args.on]
    if not shutil.which(program):
        by_hand = f"run `make {job.goal}` itself on each machine (NNODES, NODE_RANK, MASTER_ADDR)"
        raise UserError(f"ON={args.on}: {program} is not on PATH: {hint}; or {by_hand}")
    if text:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(args.out) as part:
            part.write_text(text)
    print(shlex.join(command), flush=True)
    return subprocess.call(command)


if __name__ == "__main__":
    sys.exit(run_cli(main))
