"""Two makes in one tree: one trains in a folder and the other says who does; data is made once and waited for."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

from helpers.make_tree import Tree
from helpers.waiting import eventually

# Stands for a training or a preparation that takes its time: until somebody writes `go`. A shell that has Ctrl-C between two of
# its children goes on unless it traps it; Python ends.
SLOW = """
trap 'exit 130' INT
if [[ $(basename "$1" .py) == "${SLOW:-}" ]]; then touch started; while [[ ! -e go ]]; do sleep 0.05; done; fi
"""


@pytest.fixture
def slow(tree: Tree) -> Tree:
    stub = tree.root / ".venv/bin/python"
    head, rest = stub.read_text().split("\n", 1)
    stub.write_text(head + SLOW + rest)
    return tree


def begin(tree: Tree, *arguments: str, tool: str) -> subprocess.Popen[str]:
    """A make that has come as far as the tool."""

    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "UNIAD"))} | {"SLOW": tool}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(["make", *arguments], cwd=tree.root, env=env, text=True, start_new_session=True, **pipes)
    eventually((tree.root / "started").exists, 60, "the tool is not reached", process)
    return process


def finish(tree: Tree, process: subprocess.Popen[str]) -> tuple[str, str]:
    (tree.root / "go").touch()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    return out, err


def test_a_second_training_says_who_trains_there_and_touches_nothing(slow: Tree):
    first = begin(slow, "train-stage1", "VARIANT=nano", tool="train")
    for goal in ("train", "train-stage1"):
        second = slow.make(goal, "VARIANT=nano", "SEED=5")
        assert second.returncode != 0
        (line,) = (line for line in second.stderr.splitlines() if line.startswith("error: "))
        place = "projects/work_dirs/stage1_track_map/nano_track_map"
        output = rf"training in {place} \(pid {first.pid} on \S+, since [\d: -]+\): wait for it"
        assert re.search(output, line), line
    assert sorted(p.name for p in (slow.root / "projects/work_dirs/stage1_track_map").iterdir()) == [
        "nano_track_map", "nano_track_map.lock",
    ], "and nothing was set aside"  # fmt: skip
    slow.done("-n", "train", "VARIANT=nano")
    finish(slow, first)
    slow.done("train", "VARIANT=nano")


def test_another_variant_trains_beside_it(slow: Tree):
    slow.done("data")
    first = begin(slow, "train-stage1", "VARIANT=nano", tool="train")
    slow.done("train-stage1", "VARIANT=tiny")
    finish(slow, first)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_what_was_ended_holds_nothing(slow: Tree, number: int):
    first = begin(slow, "train-stage1", "VARIANT=nano", tool="train")
    os.killpg(first.pid, number)
    first.communicate(timeout=60)
    slow.done("train-stage1", "VARIANT=nano")


def test_machines_of_one_launch_are_one_holder(slow: Tree):
    machines = ("train-stage1", "VARIANT=nano", "STACK=native", "RUNTIME=host", "NNODES=2", "MASTER_ADDR=first")
    assert "mk/lib/hold.py" in slow.done("-n", *machines)
    plan = slow.done("-n", *machines, "NODE_RANK=1")
    assert "nano_track_map.lock" not in plan and "uniad_dist_train" in plan


@pytest.mark.parametrize("tool", ["make_synthetic_nuscenes", "create_data"])
def test_data_that_another_make_prepares_is_waited_for_and_made_once(slow: Tree, tool: str):
    first = begin(slow, "data", tool=tool)

    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "UNIAD"))}
    second = subprocess.Popen(["make", "data"], cwd=slow.root, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert second.stderr is not None
    line = second.stderr.readline()
    assert f"(pid {first.pid} on " in line and "waiting for it" in line, line
    finish(slow, first)
    out, err = second.communicate(timeout=60)
    assert second.returncode == 0, err
    assert slow.tools() == ["make_synthetic_nuscenes", "create_data"]
    assert (Path(slow.root) / "data/synthetic/infos/nuscenes_infos_temporal_val.pkl").is_file()


def test_both_stacks_train_under_a_lock(tree: Tree):
    plan = tree.done("-n", "train", "VARIANT=tiny", "STACK=torch1.12", "RUNTIME=docker", "DATASET=synthetic")
    for stage in ("stage1_track_map/tiny_imgx0.25_track_map", "stage2_e2e/tiny_imgx0.25_e2e"):
        assert re.search(rf"exec 8>> 'UniAD_train/UniAD/projects/work_dirs/{stage}\.lock' && \S+ mk/lib/hold.py", plan)


def test_machines_that_share_a_folder_bring_published_weights_once(tree: Tree):
    """As `make train` on four machines does: one fetches, the others wait, and each copies under a name of its own."""
    have = tree.root / "have" / "bevformer_tiny_epoch_24.pth"
    have.parent.mkdir()
    have.write_bytes(b"PK\x03\x04" + bytes(1 << 20))
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "UNIAD"))}
    command = ["make", "ckpts/bevformer_tiny_epoch_24.pth", "VARIANT=tiny", "WEIGHTS_DIR=have"]
    all_four = [subprocess.Popen(command, cwd=tree.root, env=env, text=True, stderr=subprocess.PIPE) for _ in range(4)]
    for process in all_four:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert (tree.root / "ckpts/bevformer_tiny_epoch_24.pth").read_bytes() == have.read_bytes()
    assert not list((tree.root / "ckpts").glob("*.partial"))
    machines = ("train", "VARIANT=tiny", "STACK=torch1.12", "RUNTIME=docker", "DATASET=nuscenes", "NNODES=4", "MASTER_ADDR=first")
    plan = tree.done("-n", *machines, "NODE_RANK=2")
    copies = re.findall(r"cp \S+ (\S+); mv (\S+) UniAD_train/UniAD/ckpts/bevformer_tiny_epoch_24.pth", plan)
    assert copies == [("UniAD_train/UniAD/ckpts/bevformer_tiny_epoch_24.pth.partial2",) * 2]
