"""Kubeflow Trainer: a TrainJob and its TrainingRuntime (trainer.kubeflow.org/v1alpha1), as `kubectl apply` takes them.

A TrainJob cannot say how often a lost machine is replaced, nor mount storage by itself; both stand in the runtime, so the job
brings its own: https://kubeflow.org/docs/components/trainer/operator-guides/runtime.
"""

from __future__ import annotations

import re
import shlex
from typing import Any

from uniad.errors import UserError
from uniad.jobs.job import SECONDS_TO_SAVE, Job

VERSION = "trainer.kubeflow.org/v1alpha1"
TREE = "/workspace/UniAD"  # where the claim is mounted: a checkout, with its data and what training writes
CONTAINER = "node"
_CLAIM = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


def manifests(job: Job) -> dict[str, Any]:
    """One List of the runtime and the job. Raises UserError where something is missing that a cluster cannot know."""
    if not job.image:
        raise UserError("JOB_IMAGE is needed on Kubernetes: the image that `make image` made, in your cluster's registry")
    if not job.storage:
        raise UserError("JOB_STORAGE is needed on Kubernetes: a PersistentVolumeClaim (ReadWriteMany) with this tree in it")
    if not _CLAIM.fullmatch(job.storage) or len(job.storage) > 253:
        raise UserError(f"JOB_STORAGE={job.storage} is no claim: Kubernetes names have a-z, 0-9, - and . (kubectl get pvc)")
    return {"apiVersion": "v1", "kind": "List", "items": [_runtime(job), _train_job(job)]}


def _train_job(job: Job) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "runtimeRef": {"apiGroup": VERSION.split("/")[0], "kind": "TrainingRuntime", "name": job.name},
        "trainer": {
            "image": job.image,
            "numNodes": job.machines,
            "numProcPerNode": 1,  # make starts the processes of a machine
            "command": ["/bin/bash", "-c"],
            "args": [f"cd {TREE} && exec {shlex.join(job.command())}"],
            "resourcesPerNode": {"limits": {"nvidia.com/gpu": job.gpus}} if job.gpus else {},
        },
    }
    if job.minutes:
        spec["activeDeadlineSeconds"] = 60 * job.minutes
    return {"apiVersion": VERSION, "kind": "TrainJob", "metadata": {"name": job.name}, "spec": spec}


def _runtime(job: Job) -> dict[str, Any]:
    pod = {
        "terminationGracePeriodSeconds": SECONDS_TO_SAVE,
        "containers": [
            {
                "name": CONTAINER,
                "image": job.image,
                "volumeMounts": [{"name": "tree", "mountPath": TREE}, {"name": "shm", "mountPath": "/dev/shm"}],
            }
        ],
        "volumes": [
            {"name": "tree", "persistentVolumeClaim": {"claimName": job.storage}},
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": _quantity(job.shared_memory)}},
        ],
    }
    node = {
        "name": CONTAINER,
        "template": {
            "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
            # One lost pod ends its Job; the set begins anew, all machines together, as a collective needs.
            "spec": {"backoffLimit": 0, "template": {"spec": {**pod, "restartPolicy": "Never"}}},
        },
    }
    return {
        "apiVersion": VERSION,
        "kind": "TrainingRuntime",
        "metadata": {"name": job.name, "labels": {"trainer.kubeflow.org/framework": "torch"}},
        "spec": {
            "mlPolicy": {"numNodes": job.machines, "torch": {}},
            "template": {"spec": {"failurePolicy": {"maxRestarts": job.restarts}, "replicatedJobs": [node]}},
        },
    }


def _quantity(docker_size: str) -> str:
    """32g, as docker counts, in Kubernetes' words."""
    return f"{docker_size[:-1]}{docker_size[-1].upper()}i"
