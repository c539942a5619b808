"""A job says the same to every cluster, each machine of it is one make, and what a cluster cannot know is asked for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from helpers import REPO
from uniad.errors import UserError
from uniad.jobs import kubeflow, skypilot, slurm
from uniad.jobs.job import Job

JOB = Job(
    "uniad-full", "train", {"VARIANT": "full", "GPUS": "8", "CFG_OPTIONS": "a=1 b='x'", "NODE_RANK": "3"}, machines=4, gpus=8,
    storage="drive", image="registry/uniad:1", shared_memory="32g", minutes=90,
)  # fmt: skip
MAKE = ["train", "VARIANT=full", "GPUS=8", "CFG_OPTIONS=a=1 b='x'"]


def test_slurm_is_told_the_machines_and_requeues_what_lost_one():
    words = slurm.words(JOB, ["--partition=gpu", "--time=10"])
    assert words[0] == "sbatch" and words[-5:] == ["tools/slurm_job.sh", *MAKE]
    assert {"--nodes=4", "--ntasks-per-node=1", "--gpus-per-node=8", "--signal=TERM@180", "--requeue"} <= set(words)
    assert words.index("--time=90") < words.index("--time=10"), "the user's own option wins"
    assert "--no-requeue" in slurm.words(replace(JOB, restarts=0))


def pod_of(made: dict) -> dict:
    runtime = made["items"][0]
    return runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


def test_kubernetes_gets_a_runtime_with_storage_and_restarts_and_a_job_that_follows_it():
    made = kubeflow.manifests(JOB)
    runtime, job = made["items"]
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"] == "uniad-full"
    assert runtime["spec"]["template"]["spec"]["failurePolicy"] == {"maxRestarts": 3}
    trainer = job["spec"]["trainer"]
    assert trainer["numNodes"] == 4 and trainer["resourcesPerNode"] == {"limits": {"nvidia.com/gpu": 8}}
    assert job["spec"]["activeDeadlineSeconds"] == 5400
    assert trainer["numProcPerNode"] == 1, "make starts the processes of a machine"
    assert pod_of(made)["restartPolicy"] == "Never" and pod_of(made)["terminationGracePeriodSeconds"] == 180
    (script,) = trainer["args"]
    heard = subprocess.run(["bash", "-c", script.replace(f"cd {kubeflow.TREE} && exec bash", "printf '%s\\n'")],
                           capture_output=True, text=True, check=True).stdout.splitlines()  # fmt: skip
    assert heard == ["tools/job_machine.sh", *MAKE], "quotes survive"
    volumes = {v["name"]: v for v in pod_of(made)["volumes"]}
    assert volumes["tree"]["persistentVolumeClaim"] == {"claimName": "drive"}
    assert volumes["shm"]["emptyDir"] == {"medium": "Memory", "sizeLimit": "32Gi"}


def test_kubeflow_takes_the_manifests():
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="kubeflow is not installed: pip install kubeflow")
    runtime, job = kubeflow.manifests(JOB)["items"]
    for model, made in ((models.TrainerV1alpha1TrainJob, job), (models.TrainerV1alpha1TrainingRuntime, runtime)):
        read = model.from_dict(made)
        # A key that the model does not know would be gone; so would one whose value it cannot hold.
        assert as_plain(read.to_dict()) == as_plain(made)


def as_plain(value: object) -> object:
    """Without keys that hold nothing: the library leaves them out."""
    if isinstance(value, dict):
        return {k: as_plain(v) for k, v in value.items() if v not in ({}, [], None)}
    return [as_plain(v) for v in value] if isinstance(value, list) else value


def test_skypilot_gets_a_task_with_the_storage_and_recovery():
    made = skypilot.task(replace(JOB, storage="s3://drive"), "H100")
    assert made["num_nodes"] == 4 and made["resources"]["accelerators"] == "H100:8"
    assert made["file_mounts"] == {"/storage": {"source": "s3://drive", "mode": "MOUNT_CACHED"}}
    assert made["resources"]["job_recovery"] == {"max_restarts_on_errors": 3}
    assert skypilot.task(JOB, "H100")["volumes"] == {"/storage": "drive"}


def test_skypilot_takes_the_task():
    python = os.environ.get("SKY_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import sky"], capture_output=True).returncode:
        pytest.skip("skypilot is not installed: SKY_PYTHON names a Python that has it")
    made = [skypilot.task(replace(JOB, storage=s), "H100") for s in ("gs://drive", "drive")]
    code = "import json, sky, sys\nfor t in json.load(sys.stdin): print(sky.Task.from_yaml_config(t).num_nodes)"
    # Its parser looks the storage up in the cloud, where nobody is at home: the task's own part is what is read here.
    code = "import sky.data.storage as s; s.Storage.construct = lambda self: None\n" + code
    done = subprocess.run([python, "-c", code], input=json.dumps(made), capture_output=True, text=True, cwd=REPO)
    assert done.stdout.split() == ["4", "4"], done.stderr[-2000:]


@pytest.mark.parametrize(
    "change, told",
    [
        ({"name": "Uniad_full"}, "JOB_NAME=Uniad_full cannot name a job"),
        ({"name": "a" * 60}, "cannot name a job"),
        ({"goal": "eval"}, "eval is no job"),
        ({"image": "a b"}, "JOB_IMAGE=a b is no name of an image"),
        ({"image": "-x"}, "is no name of an image"),
        ({"image": "https://registry/uniad"}, "is no name of an image"),
        ({"minutes": 0}, "JOB_MINUTES=0: give minutes"),
        ({"minutes": 10**20}, "JOB_MINUTES=1000.*a year"),
        ({"restarts": -1}, "JOB_RESTARTS=-1"),
        ({"restarts": 10**12}, "JOB_RESTARTS=1000"),
        ({"machines": 0}, "NNODES=0: give machines"),
        ({"machines": 10**20}, "NNODES=1000"),
        ({"gpus": -1}, "GPUS=-1: give GPUs"),
        ({"gpus": 10**20}, "GPUS=1000"),
    ],
)
def test_what_no_cluster_takes_is_one_line(change: dict, told: str):
    with pytest.raises(UserError, match=told):
        replace(JOB, **change)


@pytest.mark.parametrize("image", ["uniad", "registry:5000/team/uniad:1.2", "ghcr.io/a/b@sha256:" + "0" * 64])
def test_names_of_images_are_taken_as_registries_have_them(image: str):
    assert kubeflow.manifests(replace(JOB, image=image))["items"][1]["spec"]["trainer"]["image"] == image
    assert skypilot.task(replace(JOB, image=image), "H100")["resources"]["image_id"] == f"docker:{image}"


@pytest.mark.parametrize("storage", ["My_Claim", "../x", "a b", "-a", "a" * 300, "s3://drive"])
def test_a_claim_that_kubernetes_cannot_have_is_one_line(storage: str):
    with pytest.raises(UserError, match="is no claim: Kubernetes names have"):
        kubeflow.manifests(replace(JOB, storage=storage))


@pytest.mark.parametrize("storage, gpu, told", [
    ("/home/me/data", "H100", "is neither a bucket"), ("s3://", "H100", "neither a bucket"), ("a b", "H100", "neither a bucket"),
    ("drive", "H100:8", "JOB_GPU=H100:8 is no GPU's name"), ("drive", "H 100", "is no GPU's name"),
])  # fmt: skip
def test_what_skypilot_would_take_for_something_else_is_one_line(storage: str, gpu: str, told: str):
    with pytest.raises(UserError, match=told):
        skypilot.task(replace(JOB, storage=storage), gpu)


def test_what_a_cluster_cannot_know_is_asked_for():
    for change, told in (({"image": ""}, "JOB_IMAGE is needed"), ({"storage": ""}, "JOB_STORAGE is needed")):
        with pytest.raises(UserError, match=told):
            kubeflow.manifests(replace(JOB, **change))
    with pytest.raises(UserError, match="JOB_STORAGE is needed"):
        skypilot.task(replace(JOB, storage=""), "H100")
    with pytest.raises(UserError, match="JOB_GPU is needed"):
        skypilot.task(JOB, "")


# --- a machine of a job ----------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder with the entry of a job, where make says what it was asked and which variables of a launcher it sees."""
    (tmp_path / "bin").mkdir()
    make = tmp_path / "bin/make"
    seen = "^(RANK|LOCAL_RANK|MASTER_PORT|PET_|TORCHELASTIC)"
    make.write_text(f'#!/bin/bash\necho "$*"; env | grep -E "{seen}" >&2; exit ${{STATUS:-0}}\n')
    make.chmod(0o755)
    (tmp_path / "tools").mkdir()
    for name in ("job_machine.sh", "usage.sh"):
        (tmp_path / "tools" / name).write_text((REPO / "tools" / name).read_text())
    return tmp_path


def run(machine: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PET_", "SKYPILOT_", "GROUP_", "UNIAD", "MAKE"))}
    env |= {"PATH": f"{machine / 'bin'}:{os.environ['PATH']}", **environment}
    return subprocess.run(["bash", "tools/job_machine.sh", *words], cwd=machine, env=env, capture_output=True, text=True)


@pytest.mark.parametrize(
    "environment",
    [
        {"PET_NNODES": "4", "PET_NODE_RANK": "2", "PET_MASTER_ADDR": "first", "PET_MASTER_PORT": "29400"},
        {"SKYPILOT_NUM_NODES": "4", "SKYPILOT_NODE_RANK": "2", "SKYPILOT_NODE_IPS": "first\nsecond\nthird\nfourth"},
        {"GROUP_WORLD_SIZE": "4", "GROUP_RANK": "2", "LOCAL_RANK": "0", "RANK": "2", "MASTER_ADDR": "first",
         "MASTER_PORT": "29400", "TORCHELASTIC_RUN_ID": "x"},
    ],
    ids=["kubeflow", "skypilot", "torchrun"],
)  # fmt: skip
def test_a_machine_finds_out_which_one_it_is(machine: Path, environment: dict):
    done = run(machine, *MAKE, **environment)
    assert done.stdout == "train NNODES=4 NODE_RANK=2 MASTER_ADDR=first VARIANT=full GPUS=8 CFG_OPTIONS=a=1 b='x'\n"
    assert not done.stderr, "the launcher's variables would reach training's own processes"


def test_one_machine_alone_and_a_second_process_of_torchrun(machine: Path):
    assert run(machine, "train", "VARIANT=nano").stdout == "train VARIANT=nano\n"
    second = run(machine, "train", GROUP_WORLD_SIZE="1", GROUP_RANK="0", LOCAL_RANK="1", MASTER_ADDR="first")
    assert (second.returncode, second.stdout) == (0, ""), "make starts the processes of a machine"
    assert run(machine, "train", STATUS="7").returncode == 7
    assert run(machine).returncode == 2 and "inside a job" in run(machine).stderr
    assert "which machine it is" in run(machine, "--help").stdout.lower()


def test_shared_folders_are_links_to_the_storage_and_nothing_of_the_tree_is_lost(machine: Path):
    shared = {"UNIAD_STORAGE": str(machine / "far"), "UNIAD_SHARED": "data projects/work_dirs"}
    (machine / "data").mkdir()
    for _ in range(2):
        assert run(machine, "train", **shared).returncode == 0
        assert os.readlink(machine / "data") == str(machine / "far/data") and (machine / "projects/work_dirs").is_symlink()
    (machine / "data").unlink()
    (machine / "data").mkdir()
    (machine / "data/mine").write_text("mine")
    done = run(machine, "train", **shared)
    assert done.returncode == 2 and done.stderr.startswith("error: data is in the tree and in")
    assert (machine / "data/mine").exists()
