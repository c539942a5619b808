"""The documented workflow through a real engine, with small stand-ins for what takes hours."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from containers.conftest import Machine

pytestmark = [pytest.mark.containers, pytest.mark.slow]


def test_from_clone_to_evaluation_and_every_file_is_the_callers(machine: Machine):
    uid = machine.uid
    for goal in ("image", "clone", "patch", "overlay", "compile", "train", "eval"):
        done = machine.make(goal)
        assert done.returncode == 0, f"{goal}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
        assert machine.owners() == {uid}, goal
    written = machine.root / "UniAD_train/UniAD/projects/work_dirs/stage2_e2e/tiny_imgx0.25_e2e/iter_2.pth"
    assert written.read_text() == f"{uid} /home/uniad"
    assert f"evaluated ./projects/configs/stage2_e2e/tiny_imgx0.25_e2e.py {uid} /home/uniad" in done.stdout
    assert (machine.root / "ckpts/tiny_imgx0.25_e2e_ep20.pth").is_file()
    assert list((machine.root / "UniAD_train/home").rglob("uniad-mmdet3d.egg-link")), "develop --user stays between containers"
    assert machine.containers() == []


def test_a_second_run_does_nothing(machine: Machine):
    done = machine.make("train")
    assert done.returncode == 0 and "docker run" not in done.stdout and " build --tag" not in done.stdout, done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_leaves_no_container(machine: Machine, number: int):
    wait = machine.root / "UniAD_train/UniAD/data/wait"
    wait.touch()
    process = machine.start(
        "train-stage1", f"CFG_OPTIONS=x={number}", env={"STOP_SECONDS": "3"}, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("training"):
                break
        assert lines and lines[-1].startswith("training"), "".join(lines)
        assert len(machine.containers()) == 1
        os.killpg(process.pid, number)
        process.stdout.read()
        assert process.wait(timeout=60) != 0
        end = time.monotonic() + 20
        while machine.containers() and time.monotonic() < end:
            time.sleep(0.2)
        assert machine.containers() == []
    finally:
        wait.unlink()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    assert machine.owners() == {machine.uid}


def test_an_interrupted_image_build_leaves_no_container(machine: Machine):
    script = machine.root / "docker/setup/packages.sh"
    text = script.read_text()
    script.write_text(text.replace("set -eu\n", "set -eu\necho installing; sleep 120\n", 1))
    before = machine.running()
    process = machine.start("image", stderr=subprocess.STDOUT, start_new_session=True)
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "installing" in line and "echo" not in line:
                break
        assert lines and "installing" in lines[-1], "".join(lines)
        os.killpg(process.pid, signal.SIGINT)
        process.stdout.read()
        assert process.wait(timeout=60) != 0
        end = time.monotonic() + 20
        while machine.running() - before and time.monotonic() < end:
            time.sleep(0.2)
        assert machine.running() <= before
    finally:
        script.write_text(text)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)


def test_an_engine_without_gpus_is_one_line(machine: Machine):
    if Path("/dev/nvidiactl").exists():
        pytest.skip("this machine has a GPU")
    if machine.engine != "docker":
        pytest.skip("docker's own message")
    assert machine.make("image", "overlay").returncode == 0
    done = machine.make("shell", "GPUS=1")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert done.returncode != 0 and len(lines) == 1, done.stderr
    assert "docker cannot give GPUs to containers" in lines[0] and "GPUS=0" in lines[0]


def test_too_little_shared_memory_is_one_line(machine: Machine):
    done = machine.make("train-stage1", "SHM_SIZE=64m", "CFG_OPTIONS=x=3")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode != 0 and len(lines) == 1 and "/dev/shm has 64 MiB" in lines[0] and "--shm-size=8g" in lines[0]


def test_an_image_that_was_removed_is_built_again(machine: Machine):
    subprocess.run([machine.engine, "image", "rm", "--force", "uniad_test"], check=True, capture_output=True)
    done = machine.make("image")
    assert done.returncode == 0 and "build --tag uniad_test" in done.stdout, done.stderr
