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

# Somebody who is neither root nor in the image
NOBODY = 54321


def owners(root: Path) -> set[int]:
    return {path.lstat().st_uid for path in [root, *root.rglob("*")]}


def as_somebody(machine: Machine) -> tuple[str, ...]:
    """As root, containers get another user, who owns the training tree; a person's are mapped to that person anyway."""
    if os.getuid():
        return ()
    for work in ("stage1_track_map/tiny_imgx0.25_track_map", "stage2_e2e/tiny_imgx0.25_e2e"):
        (machine.root / "UniAD_train/UniAD/projects/work_dirs" / work).mkdir(parents=True, exist_ok=True)
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(machine.root / "UniAD_train")], check=True)
    return (f"UID={NOBODY}", f"GID={NOBODY}")


def test_from_clone_to_evaluation(machine: Machine):
    done = machine.make("image", "overlay")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    person = as_somebody(machine)
    # git asks whose a tree is
    os.environ.update(GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="safe.directory", GIT_CONFIG_VALUE_0="*")
    done = machine.make("train", "eval", *person)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    uid = NOBODY if person else os.getuid()
    written = (machine.root / "UniAD_train/UniAD/projects/work_dirs/stage2_e2e/tiny_imgx0.25_e2e/iter_2.pth")
    assert written.read_text() == f"{uid} /home/uniad" and written.stat().st_uid == uid
    assert f"evaluated ./projects/configs/stage2_e2e/tiny_imgx0.25_e2e.py {uid} /home/uniad" in done.stdout
    assert (machine.root / "ckpts/tiny_imgx0.25_e2e_ep20.pth").is_file()
    assert list((machine.root / "UniAD_train/home").rglob("uniad-mmdet3d.egg-link")), "develop --user stays between containers"
    if not person:
        assert owners(machine.root) == {uid}
    assert machine.containers() == []


def test_a_second_run_does_nothing(machine: Machine):
    person = () if os.getuid() else (f"UID={NOBODY}", f"GID={NOBODY}")
    done = machine.make("train", *person)
    assert done.returncode == 0 and "docker run" not in done.stdout and " build --tag" not in done.stdout, done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_leaves_no_container(machine: Machine, number: int):
    person = () if os.getuid() else (f"UID={NOBODY}", f"GID={NOBODY}")
    (machine.root / "UniAD_train/UniAD/data/wait").touch()
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    process = subprocess.Popen(
        machine.command("train-stage1", f"CFG_OPTIONS=x={number}", *person), cwd=machine.root, env={**env, "STOP_SECONDS": "3"},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
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
        (machine.root / "UniAD_train/UniAD/data/wait").unlink()
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
