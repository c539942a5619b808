"""The workflow carried out on stand-ins that write, read and fail as upstream's scripts do (upstream/, container.py)."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from helpers import REPO
from helpers.upstream_tree import Upstream

STACK = ("STACK=torch1.12", "RUNTIME=docker", "DATASET=nuscenes", "VARIANT=tiny", "GPUS=8")
SCRIPT = "postprocess_bevformer_tiny_epoch_24_pth.py"
STAGE1 = "projects/work_dirs/stage1_track_map/tiny_imgx0.25_track_map"


def commands(upstream: Upstream) -> list[list[str]]:
    """What ran in containers: image and command."""
    found = []
    for line in upstream.engine_log():
        if line[0] == "run":
            image = max(i for i, word in enumerate(line) if word.startswith("uniad_"))
            found.append(line[image:])
    return found


def test_checkpoints_of_one_machine_are_promoted_and_read(upstream: Upstream):
    text = upstream.done("train", "eval", *STACK)
    assert f"trains epoch 1 to 6 in {STAGE1}, from ckpts/bevformer_tiny_epoch_24_updated2.pth" in text
    assert "from ckpts/tiny_imgx0.25_track_map.pth" in text, "stage 2 starts from what was promoted"
    assert "evaluates 20 epochs on 0: ['bbox']" in text
    assert (upstream.uniad / STAGE1 / "logs").is_dir()
    assert not (upstream.uniad / "work_dirs").exists()


@pytest.mark.parametrize("dataset", ["nuscenes", "synthetic"])
def test_training_needs_no_second_image(upstream: Upstream, dataset: str):
    for name in ("infos", "others"):
        for path in (upstream.root / "data" / name).iterdir():
            path.unlink()
    upstream.done("train", *STACK, f"DATASET={dataset}", "FROM_SCRATCH=0")
    log = upstream.root / "engine/log"
    assert [line.split()[2] for line in log.read_text().splitlines() if line.startswith("build")] == ["uniad_torch1.12"]
    ran = [command[:3] for command in commands(upstream)]
    assert {image for image, *_ in ran} == {"uniad_torch1.12"}
    tools = {words[1] for _, *words in ran if words[0] == "python3"}
    assert {"tools/create_data.py", "tools/make_motion_anchors.py", f"./tools/{SCRIPT}"} <= tools
    assert not (upstream.root / ".venv/.ready").exists(), "and no environment on the host"


def test_initial_weights_that_are_there_are_taken(upstream: Upstream):
    ours, theirs = (root / "ckpts" for root in (upstream.root, upstream.uniad))
    ours.mkdir()
    (ours / "bevformer_tiny_epoch_24_updated2.pth").write_text("made before")
    upstream.done("init-weights", *STACK)
    assert (theirs / "bevformer_tiny_epoch_24_updated2.pth").read_text() == "made before"
    (ours / "bevformer_tiny_epoch_24_updated2.pth").unlink()
    (theirs / "bevformer_tiny_epoch_24_updated2.pth").write_text("brought")
    upstream.done("train-stage1", *STACK, "WEIGHTS_DIR=")
    assert (theirs / "bevformer_tiny_epoch_24_updated2.pth").read_text() == "brought"
    assert not (ours / "bevformer_tiny_epoch_24.pth").exists(), "nothing was downloaded"


def test_the_post_processing_script_reads_and_writes_the_workflow_s_names(upstream: Upstream):
    upstream.done("init-weights", *STACK)
    assert commands(upstream) == [["uniad_torch1.12", "python3", f"./tools/{SCRIPT}"]]
    made = upstream.uniad / "ckpts/bevformer_tiny_epoch_24_updated2.pth"
    assert made.read_text().startswith("901 queries of ")
    upstream.done("init-weights", *STACK)
    assert commands(upstream) == []


def test_a_failure_before_the_pipe_is_a_failure(upstream: Upstream):
    """Upstream's script ends in `| tee`, which always succeeds."""
    done = upstream.make("train-stage1", *STACK, STAND_IN_FAILS_AFTER="2")
    assert done.returncode != 0 and "CUDA error" in done.stdout
    assert not (upstream.uniad / "ckpts/tiny_imgx0.25_track_map.pth").exists()


def test_an_interrupted_training_goes_on_where_it_was(upstream: Upstream):
    upstream.make("train-stage1", *STACK, STAND_IN_FAILS_AFTER="2")
    assert (upstream.uniad / STAGE1 / "latest.pth").readlink().name == "epoch_2.pth"
    text = upstream.done("train-stage1", *STACK)
    assert f"trains epoch 3 to 6 in {STAGE1}, from ./{STAGE1}/latest.pth" in text


def test_several_machines_leave_their_checkpoints_where_promotion_looks(upstream: Upstream):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    several = ("NNODES=2", "NODE_RANK=0", "MASTER_ADDR=127.0.0.1", f"MASTER_PORT={port}", "NODE_TIMEOUT=100")
    wait = ["--nodes", "2", "--rank", "1", "--address", "127.0.0.1", "--port", str(port), "--timeout", "100"]
    with subprocess.Popen([sys.executable, REPO / "mk/lib/wait_for_nodes.py", *wait]) as other:
        text = upstream.done("ckpts/tiny_imgx0.25_track_map.pth", *STACK, *several)
        assert other.wait(timeout=30) == 0
    assert "launch: 16 processes" in text and f"trains epoch 1 to 6 in {STAGE1}" in text
    assert (upstream.root / "ckpts/tiny_imgx0.25_track_map.pth").read_text() == "6 epochs"
    assert not (upstream.uniad / "work_dirs").exists(), "upstream's place without --work-dir"
    log = next((upstream.uniad / STAGE1).glob("*.log"))
    assert log.read_text() == "deterministic: True\n", "as upstream's script has it"


@pytest.mark.parametrize("goal, leaves", [("clone", "tools/test.py"), ("patch", "projects/lines.py"), ("overlay", "ckpts")])
def test_what_needs_git_alone_needs_no_engine_no_gpu_and_no_dataset(upstream: Upstream, goal: str, leaves: str):
    for engine in ("docker", "podman"):
        (upstream.root / "bin" / engine).write_text("#!/bin/sh\nexit 1\n")
    (upstream.root / "data/nuscenes/v1.0-trainval/sample.json").unlink()
    (upstream.root / "bin/nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA B200, 10.0, 183359'\n")
    (upstream.root / "bin/nvidia-smi").chmod(0o755)
    for settings in (("VARIANT=full",), ("STACK=torch1.12", "VARIANT=tiny")):
        upstream.done(goal, *settings)
        assert (upstream.uniad / leaves).exists()
        assert not (upstream.root / "config.mk").exists(), "and looks at no machine"
