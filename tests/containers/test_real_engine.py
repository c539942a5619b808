"""Upstream's workflow through a real container engine, with small stand-ins for what takes hours."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from helpers.real_engine import Machine
from helpers.waiting import eventually

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


def inside(machine: Machine, command: str, image: str = "uniad_test") -> str:
    """What a command prints in a container of the image, started as by hand."""
    words = [machine.engine, "run", "--rm", image, "bash", "-euc", command]
    done = subprocess.run(words, capture_output=True, text=True, **machine.person)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_image_holds_our_pins_and_nothing_that_is_not_needed(machine: Machine):
    assert "/opt/uniad/site/tqdm/" in inside(machine, "python3 -c 'import tqdm; print(tqdm.__file__)'"), "not the base image's"
    assert inside(machine, "ninja --version").startswith("1.11.1")
    left = "find /var/cache/apt /var/lib/apt/lists -type f ! -name lock 2> /dev/null || true"
    assert set(inside(machine, left).split()) <= set(inside(machine, left, os.environ["TEST_BASE"]).split())
    assert inside(machine, "dpkg-query -W -f '${Package}\\n' | grep -E 'mesa|libllvm|libgl1' || true") == ""
    assert inside(machine, "id -u; touch ~/mine").split() == ["1000"], "no tree is mounted: nobody special"
    command = [machine.engine, "image", "inspect", "--format", "{{json .Config.Labels}}", "uniad_test"]
    labels = subprocess.run(command, capture_output=True, text=True, check=True)
    label = {k.removeprefix("org.opencontainers.image."): v for k, v in json.loads(labels.stdout).items()}
    assert label["title"] == "uniad_torch1.12" and label["licenses"] == "Apache-2.0" and label["base.name"] == "uniad_base_test"


BY_HAND = """
cd /workspace/UniAD_train/UniAD/third_party/uniad_mmdet3d/
python3 setup.py build develop --user
cd /workspace/UniAD_train/UniAD
python3 -c 'import mmdet3d; assert mmdet3d.NAME == "ours"'
git status --short > projects/by_hand.txt
: > /dev/stderr
id -u; whoami; echo $HOME
"""


def test_upstreams_docker_run_typed_by_hand_works_on_a_tree_of_its_caller(machine: Machine):
    """No --user, as the workflow writes it; with its terminal."""
    tree = machine.root / "UniAD_train/UniAD"
    host, terminal = pty.openpty()
    try:
        mount = f"{tree}:/workspace/UniAD_train/UniAD"
        command = [machine.engine, "run", "-it", "--rm", "--shm-size=8g", "-v", mount, "uniad_test", "/bin/bash", "-euc", BY_HAND]
        done = subprocess.run(
            command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=120, **machine.person,
        )  # fmt: skip
    finally:
        os.close(terminal)
        os.close(host)
    assert done.returncode == 0, done.stdout
    inner = 0 if machine.uid == 0 or machine.engine != "docker" else machine.uid
    name = "root" if inner == 0 else "uniad"
    assert done.stdout.splitlines()[-3:] == [str(inner), name, "/home/uniad"], done.stdout
    assert "?? projects/by_hand.txt" in (tree / "projects/by_hand.txt").read_text()
    assert machine.owners() == {machine.uid}


def test_a_second_run_does_nothing(machine: Machine):
    done = machine.make("train")
    assert done.returncode == 0 and "docker run" not in done.stdout and " build --tag" not in done.stdout, done.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_leaves_no_container(machine: Machine, number: int):
    wait = machine.root / "UniAD_train/UniAD/data/wait"
    wait.touch()
    process = machine.start(
        "train-stage1", f"CFG_OPTIONS=optimizer.lr=1e-{number}", env={"STOP_SECONDS": "3"}, stderr=subprocess.STDOUT,
        start_new_session=True,
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
        eventually(lambda: machine.containers() == [], 20, "a container is left")
    finally:
        wait.unlink()
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
    assert machine.owners() == {machine.uid}


def test_the_graph_builds_the_image_that_make_builds(machine: Machine):
    """bake in place of build: the same layers and settings, and make has nothing left to build."""
    if subprocess.run([machine.engine, "buildx", "version"], capture_output=True, **machine.person).returncode:
        pytest.skip(f"{machine.engine} has no buildx")
    assert machine.make("image").returncode == 0
    registry, baked = "uniad_test_bake/", "uniad_test_bake/uniad_torch1.12"
    try:
        process = machine.start("images", "IMAGES_OF=torch1.12", env={"REGISTRY": registry}, stderr=subprocess.STDOUT)
        told = process.communicate(timeout=1500)[0]
        assert process.returncode == 0, told[-3000:]
        command = [machine.engine, "image", "inspect", "uniad_test", baked]
        built, of_the_graph = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        assert of_the_graph["RootFS"] == built["RootFS"] and of_the_graph["Architecture"] == built["Architecture"]
        for key in ("Env", "Entrypoint", "Cmd", "Labels", "User", "WorkingDir"):
            assert of_the_graph["Config"][key] == built["Config"][key], key
        done = machine.make("image", f"IMAGE_TAG.torch1.12={baked}")
        assert done.returncode == 0 and " build --tag" not in done.stdout, done.stdout
    finally:
        subprocess.run([machine.engine, "image", "rm", "--force", baked], capture_output=True)


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
        eventually(lambda: machine.running() <= before, 20, "processes of the build are left")
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
    done = machine.make("train-stage1", "SHM_SIZE=64m", "CFG_OPTIONS=optimizer.lr=1e-3")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert done.returncode != 0 and len(lines) == 1 and "SHM_SIZE=64m: " in lines[0] and "SHM_SIZE=8g" in lines[0], done.stderr
    assert machine.make("image").returncode == 0
    command = [machine.engine, "run", "--rm", "--shm-size=64m", "--env", "NEED_SHM_GIB=8", "uniad_test", "true"]
    by_hand = subprocess.run(command, capture_output=True, text=True)
    lines = by_hand.stderr.splitlines()
    assert by_hand.returncode == 2 and len(lines) == 1, by_hand.stderr
    assert "/dev/shm has 64 MiB" in lines[0] and "--shm-size=8g" in lines[0]


def test_an_image_that_was_removed_is_built_again(machine: Machine):
    subprocess.run([machine.engine, "image", "rm", "--force", "uniad_test"], check=True, capture_output=True)
    done = machine.make("image")
    assert done.returncode == 0 and "build --tag uniad_test" in done.stdout, done.stderr


def test_either_builder_makes_the_image(machine: Machine):
    """docker's first builder knows no cache mounts, BuildKit does: the tests above took one."""
    if machine.engine != "docker":
        pytest.skip("two builders are docker's")
    def has_mounts(env: dict[str, str]) -> bool:
        ask = [machine.root / "mk/lib/engine_facts.sh", "docker"]
        return "cache-mounts" in subprocess.run(ask, env={**os.environ, **env}, capture_output=True, text=True, check=True).stdout

    dockers = [folder for folder in os.get_exec_path() if os.access(f"{folder}/docker", os.X_OK)]
    ways = [{"PATH": f"{folder}:{os.environ['PATH']}", "DOCKER_BUILDKIT": buildkit} for folder in dockers for buildkit in "10"]
    other = {has_mounts(env): env for env in ways}
    other.pop(has_mounts({}), None)  # the tests above built with it
    for mounts, env in other.items():
        process = machine.start("image", "IMAGE_TAG.torch1.12=uniad_test_builder", env=env, stderr=subprocess.STDOUT)
        out, _ = process.communicate(timeout=1500)
        assert process.returncode == 0, out[-3000:]
        assert ("--no-cache-mounts" not in out) == mounts and f"DOCKER_BUILDKIT={int(mounts)} " in out
        subprocess.run([machine.engine, "image", "rm", "uniad_test_builder"], check=True, capture_output=True)
