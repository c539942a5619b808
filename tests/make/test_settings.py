"""What a person sets is read, or refused in one line before anything runs."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from helpers import REPO
from helpers.make_tree import Tree

SETTINGS = re.findall(r"^([A-Za-z_][A-Za-z0-9_.]*) \?=", (REPO / "mk/vars.mk").read_text(), re.M)


def refused(tree: Tree, *arguments: str, **environment: str) -> str:
    """The one line that make stops with, before anything ran."""
    result = tree.make(*arguments, **environment)
    assert result.returncode != 0 and tree.calls() == []
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    return lines[0]


def unread(*names: str) -> list[str]:
    files = [REPO / "Makefile", *sorted((REPO / "mk").glob("*.mk"))]
    command = ["awk", "-v", f"given={' '.join(names)}", "-f", REPO / "mk/settings.awk", *files]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


@pytest.mark.parametrize("given, nearest", [
    ("VARIENT=full", "VARIANT"),
    ("GPU=2", "GPUS"),
    ("MAX_ITER=2", "MAX_ITERS"),
    ("MAX_ITER.2=2", "MAX_ITERS.2"),
    ("variant=full", "VARIANT"),
    ("EPOCH=3", "EPOCHS"),
    ("MAX_ITERS.3=2", "MAX_ITERS.1"),
    ("EPOCHS.12=2", "EPOCHS.1"),
    ("QUEUE_LENGHT=3", "QUEUE_LENGTH"),
    ("ITERS=3", "MAX_ITERS"),
    ("WEIGHT_URL.x.pth=file:///x", "WEIGHTS_URL.x.pth"),
])  # fmt: skip
def test_a_misspelt_name_is_an_error_with_the_nearest(tree: Tree, given: str, nearest: str):
    name = given.split("=")[0]
    assert f"no such setting: {name} (did you mean {nearest}?); mk/vars.mk" in refused(tree, "train", given)


def test_a_name_like_no_other_is_an_error_too(tree: Tree):
    assert re.search(r"no such setting: LEARNING_FAST; mk/vars.mk", refused(tree, "train", "LEARNING_FAST=1"))


def test_all_misspelt_names_are_said_at_once(tree: Tree):
    line = refused(tree, "-n", "train", "VARIENT=full", "GPU=2", "VARIANT=nano")
    assert "VARIENT (did you mean VARIANT?)" in line and "GPU (did you mean GPUS?)" in line and "VARIANT," not in line


def test_every_described_setting_is_one():
    assert len(SETTINGS) > 90
    assert unread(*SETTINGS) == []
    columns = "STEM.my INIT.my RAW.my SHM.my GPU_GIB.my STACKS.my DEMO_ITERS.my EXPORT_FRAMES.my"
    elsewhere = "STACK RUNTIME DATASET GPUS HOST_PYTHON TOOLS_RUNTIME IMAGE SHM_SIZE RANK UNIAD_GOLDEN MAKEFLAGS SHELL NCCL_DEBUG"
    families = "MAX_ITERS.1 WEIGHTS_URL.a.pth WEIGHTS_SHA256.a.pth"
    assert unread(*columns.split(), *families.split(), *elsewhere.split()) == []
    assert unread("WORK_DIR", "RUN") != [], "what the makefiles work out themselves is no setting"


def test_commands_that_docs_show_use_settings_only():
    texts = [p.read_text() for p in (REPO / "README.md", *(REPO / "docs").glob("*.md"), *(REPO / "tools").glob("*.*"))]
    texts = [re.sub(r"""="[^"\n]*"|='[^'\n]*'""", "=''", text) for text in texts]  # what a quoted value holds is none of make's
    shown = {name for text in texts for line in re.findall(r"\bmake [a-z][a-z0-9-]*((?: [A-Za-z_.0-9]+=[^ `]*)+)", text)
             for name in re.findall(r" ([A-Za-z_.0-9]+)=", line)}  # fmt: skip
    assert {"VARIANT", "PRECISION", "NNODES"} <= shown
    assert unread(*shown) == []


def test_a_parallel_demo_hands_its_settings_on(tree: Tree):
    tree.done("-j2", "demo", "DEMO_ITERS=3 2", "SEED=4")
    first, second = (line for line in tree.calls() if line.startswith("tools/train.py"))
    assert "[--max-iters] [3]" in first and "[--max-iters] [2]" in second and "[--seed] [4]" in second


def test_the_environment_is_nobody_s_spelling(tree: Tree):
    tree.done("-n", "train", VARIENT="full", GPU="2")


NUMBERS = (
    "EPOCHS MAX_ITERS MAX_ITERS.1 MAX_ITERS.2 QUEUE_LENGTH JOBS TEST_JOBS NNODES MASTER_PORT NODE_TIMEOUT CPU_PROCESSES "
    "SYNTH_TRAIN_SCENES SYNTH_VAL_SCENES SYNTH_FRAMES DEMO_TRAIN_SCENES DEMO_VAL_SCENES DEMO_FRAMES DEMO_JOBS "
    "EXPORT_FRAMES CALIB_SCENES CALIB_FRAMES FRAMES JETSON_WORKSPACE_MIB JETSON_ITERATIONS"
).split()


@pytest.mark.parametrize("setting, hint", [
    *((f"{name}=0", f"{name}=0 is no whole number above 0") for name in NUMBERS),
    ("MAX_ITERS=007", "no whole number above 0"),
    ("SEED=08", "no whole number"),
    *((f"{name}=yes", f"{name}=yes is unknown: choose 0, 1")
      for name in ("PUBLISHED", "FROM_SCRATCH", "LOCATE", "REFIT", "ENGINE_REFITTABLE")),
    ("DEMO_ITERS=0", "give one whole number above 0, or one of each stage"),
    ("DEMO_ITERS=3 0", "give one whole number above 0, or one of each stage"),
    ("DEMO_ITERS=1 2 3", "give one whole number above 0, or one of each stage"),
    ("DEMO_VARIANT=small", "choose full, tiny, nano"),
    ("NUM_FRAME=5", "give 6 or more"),
    ("MASTER_PORT=70000", "give 65535 or less"),
    ("NODE_RANK=1", "NODE_RANK=1 is none of NNODES=1"),
    ("CPU_WORKERS=some", "no whole number"),
    ("TRT=9", "choose 8.5, 8.6, 10.3"),
    ("VERIFY_BACKENDS=torch,xla", "names xla: choose among torch, compiled, onnxruntime"),
    ("VERIFY_BACKENDS=", "names nothing"),
    ("COMPUTE_CAPABILITIES=ampere", "such as 8.6"),
    ("WORKSPACE_GIB=0", "no number above 0"),
    ("WORKSPACE_GIB=all", "no number above 0"),
    ("SHM_SIZE=lots", "such as 8g"),
])  # fmt: skip
def test_a_value_that_cannot_be_is_refused_with_what_can(tree: Tree, setting: str, hint: str):
    assert hint in refused(tree, "-n", "train", setting)


def test_values_at_the_edge_are_taken(tree: Tree):
    edge = "PUBLISHED=0 LOCATE=1 EPOCHS=1 SEED=0 JOBS=1 WORKSPACE_GIB=0.5 NUM_FRAME=6 TRT=rtx COMPUTE_CAPABILITIES=8.6,8.9"
    tree.done("-n", "train", *edge.split(), "SHM_SIZE=512m", "VERIFY_BACKENDS=torch")


def test_published_0_fetches_no_infos(tree: Tree):
    asked = ("-n", "weights", "DATASET=nuscenes", "VARIANT=tiny")
    assert "nuscenes_infos" in tree.done(*asked, "PUBLISHED=1")
    assert "nuscenes_infos" not in tree.done(*asked, "PUBLISHED=0")


def test_versions_of_tensorrt_are_those_that_export_knows():
    from uniad.export.to_onnx import TARGETS

    (choices,) = re.findall(r"one-of,TRT,([^)]*)\)", (REPO / "mk/export.mk").read_text())
    assert choices.split() == list(TARGETS)


# --- GPUs that are there, and processes on the CPU ---------------------------------------------------------------------


@pytest.fixture
def machine(tree: Tree) -> Tree:
    """Two GPUs, as nvidia-smi shows them; remove the file, and there are none."""
    (tree.root / "bin").mkdir()
    smi = tree.root / "bin" / "nvidia-smi"
    smi.write_text("#!/bin/sh\nprintf 'GPU-1\\nGPU-2\\n'\n")
    smi.chmod(0o755)
    return tree


def path(tree: Tree) -> str:
    return f"{tree.root}/bin:/usr/bin:/bin"


def test_gpus_that_are_not_there_are_no_cpu_processes(machine: Tree):
    native = ("train", "VARIANT=nano", "STACK=native", "RUNTIME=host", "DATASET=synthetic")
    line = refused(machine, *native, "GPUS=4", PATH=path(machine))
    assert "GPUS=4 but this machine shows 2 NVIDIA GPUs (nvidia-smi): on the CPU it is GPUS=0 CPU_PROCESSES=4" in line
    (machine.root / "bin/nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    assert "shows no NVIDIA GPUs" in refused(machine, *native, "GPUS=1", PATH=path(machine))
    assert "uniad_dist_train.sh" in machine.done("-n", *native, "GPUS=4", PATH=path(machine)), "a plan for another machine"
    machine.done("-n", *native, "GPUS=2", PATH=path(machine))


def test_processes_on_the_cpu_are_asked_for_by_name(tree: Tree):
    asked = ("-n", "train", "eval", "VARIANT=nano", "STACK=native", "RUNTIME=host")
    two = tree.done(*asked, "GPUS=0", "CPU_PROCESSES=2")
    assert "tools/uniad_dist_train.sh projects/configs/stage1_track_map/nano_track_map.py 2 --device cpu " in two
    assert re.search(r"tools/uniad_dist_eval.sh \S+ \S+ 2 --device cpu ", two)
    machines = tree.done(*asked, "GPUS=0", "CPU_PROCESSES=2", "NNODES=3", "MASTER_ADDR=first")
    assert "nano_track_map.py 6 --device cpu " in machines
    one = tree.done(*asked, "GPUS=0")
    assert "train.py projects/configs/stage1_track_map/nano_track_map.py --device cpu " in one, "GPUS=0 uses no GPU that is there"
    assert "CPU_PROCESSES=2 is for a training without GPUs" in refused(tree, *asked, "GPUS=2", "CPU_PROCESSES=2")


def test_variables_of_other_programs_reach_the_container(tree: Tree):
    native = ("VARIANT=nano", "STACK=native", "RUNTIME=docker", "DATASET=synthetic")
    shown = tree.done("-n", "train", *native, "CUDA_VISIBLE_DEVICES=1")
    assert "--env CUDA_VISIBLE_DEVICES" in shown
    assert not Path(tree.root / "calls.log").exists()


def test_a_stage_has_a_length_of_its_own_in_both_stacks(tree: Tree):
    words = ("-n", "train", "VARIANT=tiny", "EPOCHS.1=3", "MAX_ITERS.2=5")
    native = tree.done(*words)
    one, two = (line for line in native.splitlines() if "tools/train.py" in line and "stage" in line)
    assert "'total_epochs=3'" in one and "--max-iters" not in one and "total_epochs" not in two and "--max-iters 5" in two
    assert "stage1_track_map/tiny_imgx0.25_track_map/epoch_3.pth' 'ckpts/" in native
    assert "--epochs 3 20 --iterations 0 5" in native, "preflight counts the same"
    upstream = tree.done(*words, "STACK=torch1.12", "RUNTIME=docker", "TOOLS_RUNTIME=host", "GPUS=1")
    assert "'total_epochs=3' 'runner.max_epochs=3'" in upstream and "'runner.max_iters=5'" in upstream
    assert "mv UniAD_train/UniAD/ckpts/epoch_3.pth" in upstream and "mv UniAD_train/UniAD/ckpts/iter_5.pth" in upstream


@pytest.mark.parametrize("setting", ["TRAIN_ARGS=--recompute", "TRAIN_PRECISION=bf16", "CPU_PROCESSES=2"])
def test_a_setting_that_upstreams_training_does_not_read_is_an_error_there(tree: Tree, setting: str):
    words = ("-n", "train", "VARIANT=tiny", "STACK=torch1.12", "RUNTIME=docker", "TOOLS_RUNTIME=host", "GPUS=0")
    result = tree.make(*words, setting)
    assert result.returncode != 0 and f"{setting} is for STACK=native" in result.stderr and tree.calls() == []
