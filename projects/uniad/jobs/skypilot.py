"""SkyPilot: a task for `sky jobs launch`, which replaces lost machines: https://docs.skypilot.co/en/latest/reference/yaml-spec.html."""

from __future__ import annotations

import re
import shlex
from typing import Any

from uniad.errors import UserError
from uniad.jobs.job import Job

STORAGE = "/storage"  # where the bucket or the volume is mounted
_BUCKET = re.compile(r"[a-z0-9]+://[^\s/]+(/\S*)?")
_VOLUME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")
_GPU = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
SHARED = ("data", "ckpts", "projects/work_dirs")  # folders of the tree that lie there


def task(job: Job, accelerator: str) -> dict[str, Any]:
    """``accelerator``: SkyPilot's name of the GPU, such as H100. Raises UserError where something is missing."""
    if not job.storage:
        raise UserError(
            "JOB_STORAGE is needed on SkyPilot: a bucket (s3://..., gs://...) or the name of a volume, for data and checkpoints"
        )
    if job.gpus and not accelerator:
        raise UserError("JOB_GPU is needed on SkyPilot: the name of the GPU as `sky show-gpus` has it, such as H100")
    if not _BUCKET.fullmatch(job.storage) and not _VOLUME.fullmatch(job.storage):
        raise UserError(f"JOB_STORAGE={job.storage} is neither a bucket (s3://NAME) nor a volume's name (sky volumes ls)")
    if accelerator and not _GPU.fullmatch(accelerator):
        raise UserError(f"JOB_GPU={accelerator} is no GPU's name: give one of `sky show-gpus`, such as H100, and GPUS apart")
    resources: dict[str, Any] = {"job_recovery": {"max_restarts_on_errors": job.restarts}}
    if job.gpus:
        resources["accelerators"] = f"{accelerator}:{job.gpus}"
    if job.image:
        resources["image_id"] = f"docker:{job.image}"
    made: dict[str, Any] = {
        "name": job.name,
        "num_nodes": job.machines,
        "workdir": ".",
        "resources": resources,
        "envs": {"UNIAD_STORAGE": STORAGE, "UNIAD_SHARED": " ".join(SHARED)},
        "run": shlex.join(job.command()),
    }
    if "://" in job.storage:
        # A file is renamed once it is whole: the mode that caches writes can do that, plain MOUNT cannot everywhere.
        made["file_mounts"] = {STORAGE: {"source": job.storage, "mode": "MOUNT_CACHED"}}
    else:
        made["volumes"] = {STORAGE: job.storage}
    return made
