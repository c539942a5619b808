"""What is to run on how many machines, whoever runs it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from uniad.errors import UserError

GOALS = ("train", "train-stage1", "train-stage2")
ENTRY = "tools/job_machine.sh"  # finds out which machine it is on, and runs make there
SECONDS_TO_SAVE = 180  # before a machine is taken away: training saves when it is told to end
# What each machine is told by its cluster, or by the entry
NOT_FOR_MACHINES = {"NNODES", "NODE_RANK", "MASTER_ADDR", "RANK", "ON", "SLURM_FLAGS"}
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?")  # what Kubernetes, Slurm and SkyPilot all accept
# HOST[:PORT]/NAME[:TAG][@DIGEST]; a cluster says only after the job was taken that a name is none
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*(:[0-9]+/[A-Za-z0-9._/-]+)?(:\w[\w.-]*)?(@sha256:[0-9a-f]{64})?", re.ASCII)
MOST_MINUTES = 366 * 24 * 60
MOST_RESTARTS = 1000
MOST_MACHINES = 10_000
MOST_GPUS = 64  # of a machine


@dataclass(frozen=True)
class Job:
    """One `make GOAL` on each of several equal machines that share their storage.

    ``settings``: make's, by name. ``storage``: what holds the data and the checkpoints on every machine; what it names is the
    cluster's (a path, a claim, a bucket). ``image``: has what `make image` makes. ``restarts``: how often the job is begun again
    after a machine was lost; each time training goes on from the last complete checkpoint.
    """

    name: str
    goal: str
    settings: Mapping[str, str]
    machines: int = 1
    gpus: int = 1
    storage: str = ""
    image: str = ""
    shared_memory: str = "8g"
    minutes: int | None = None
    restarts: int = 3

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UserError(f"JOB_NAME={self.name} cannot name a job: up to 52 of a-z, 0-9 and -, a letter first and no - last")
        if self.image and not _IMAGE.fullmatch(self.image):
            raise UserError(f"JOB_IMAGE={self.image} is no name of an image: needed is one such as registry.example.com/uniad:1")
        if self.minutes is not None and not 0 < self.minutes <= MOST_MINUTES:
            raise UserError(f"JOB_MINUTES={self.minutes}: give minutes from 1 to {MOST_MINUTES}, a year")
        if not 0 <= self.restarts <= MOST_RESTARTS:
            raise UserError(f"JOB_RESTARTS={self.restarts}: give a number from 0 to {MOST_RESTARTS}")
        if not 0 < self.machines <= MOST_MACHINES:
            raise UserError(f"NNODES={self.machines}: give machines from 1 to {MOST_MACHINES}")
        if not 0 <= self.gpus <= MOST_GPUS:
            raise UserError(f"GPUS={self.gpus}: give GPUs of each machine, from 0 to {MOST_GPUS}")
        if self.goal not in GOALS:
            raise UserError(f"{self.goal} is no job: there are {', '.join(GOALS)}")

    def command(self) -> list[str]:
        """What each machine runs, in the tree's folder."""
        kept = (f"{name}={value}" for name, value in self.settings.items() if name not in NOT_FOR_MACHINES)
        return ["bash", ENTRY, self.goal, *kept]
