"""What goes wrong with engines, machines and clones gets one line that names it and what to do."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import REPO
from helpers.upstream_tree import PATCH, Upstream, git
from helpers.waiting import eventually

STACK = ("STACK=torch1.12", "RUNTIME=docker", "DATASET=nuscenes", "VARIANT=tiny", "TOOLS_RUNTIME=host")


def refused(tree: Upstream, *arguments: str, **environment: str) -> str:
    """The one line of a make that fails, make's own aside."""
    own = ("make: ***", "mk/workspace.mk:")
    result = tree.make(*arguments, **environment)
    assert result.returncode != 0, result.stdout
    lines = [line for line in result.stderr.splitlines() if line.strip() and not line.startswith(own)]
    assert len(lines) == 1 and lines[0].startswith("error: "), result.stderr
    return lines[0]


def test_no_engine(upstream: Upstream):
    for engine in ("docker", "podman"):
        (upstream.root / "bin" / engine).unlink()
    # Only what the workflow itself needs is on PATH, whatever this machine has.
    clean = upstream.root / "clean"
    clean.mkdir()
    for name in "bash env git python3 awk sed dirname cat mkdir touch find id nproc sh rm".split():
        found = subprocess.run(["bash", "-c", f"command -v {name}"], capture_output=True, text=True).stdout.strip()
        if found.startswith("/"):
            (clean / name).symlink_to(sys.executable if name == "python3" else found)
    path = {"PATH": str(clean)}
    make = subprocess.run(["bash", "-c", "command -v make"], capture_output=True, text=True).stdout.strip()
    (clean / "make").symlink_to(make)
    line = refused(upstream, "compile", *STACK, "GPUS=0", **path)
    assert "RUNTIME=docker cannot work here (neither docker nor podman is installed)" in line and "RUNTIME=host" in line
    command = ["bash", REPO / "mk/lib/in_container.sh", "x", "docker", "run", "x"]
    done = subprocess.run(command, env=path, capture_output=True, text=True)
    assert done.returncode == 2 and "no container engine: docker is not installed" in done.stderr
    assert "STACK=native" in done.stderr


def test_a_variant_that_uniad_s_code_cannot_hold(upstream: Upstream):
    done = upstream.make("-n", "train", "STACK=torch1.12", "RUNTIME=docker", "VARIANT=nano")
    assert done.returncode != 0 and not done.stdout
    assert "STACK=torch1.12 has no VARIANT=nano" in done.stderr and "STACK=native" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_engine_that_does_not_answer(upstream: Upstream):
    line = refused(upstream, "shell", *STACK, "GPUS=0", ENGINE_DOWN="1")
    assert "docker" in line and "Cannot connect to the Docker daemon" in line and "start it or join its group" in line


def test_an_engine_without_gpus(upstream: Upstream):
    (upstream.root / "config.mk").write_text("CONFIGURED_GPUS := 2\n")
    upstream.done("image", "STACK=torch1.12", "RUNTIME=docker")
    line = refused(upstream, "shell", *STACK, "GPUS=1", ENGINE_NO_GPUS="1")
    assert "docker cannot give GPUs to containers" in line and "NVIDIA Container Toolkit" in line and "GPUS=0" in line


def test_an_engine_without_an_init(upstream: Upstream):
    podman = ("STACK=torch1.12", "RUNTIME=podman", "DATASET=nuscenes", "VARIANT=tiny", "TOOLS_RUNTIME=host", "GPUS=0")
    upstream.done("image", *podman)
    assert refused(upstream, "shell", *podman, ENGINE_NO_INIT="1") == (
        "error: podman lacks an init for containers: install catatonit"
    )


def test_an_image_that_is_missing(upstream: Upstream):
    done = subprocess.run(
        ["bash", REPO / "mk/lib/in_container.sh", "uniad_torch1.12", "docker", "run", "uniad_torch1.12", "true"],
        env={**os.environ, **dict(upstream.environment)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr == "error: image uniad_torch1.12 is missing: make image\n"


def test_a_gpu_that_is_too_new(upstream: Upstream):
    smi = upstream.root / "bin/nvidia-smi"
    smi.write_text("#!/bin/sh\necho 'NVIDIA L40S, 8.9, 46068'\n")
    smi.chmod(0o755)
    line = refused(upstream, "train", *STACK)
    assert "L40S" in line and "sm_89" in line and "STACK=native" in line
    (upstream.root / "config.mk").write_text("CONFIGURED_GPUS := 1\nCONFIGURED_RUNTIME := docker\n")
    assert "STACK=native" in refused(upstream, "compile", *STACK), "also where the machine was configured before"


def test_shared_memory_that_is_too_small():
    env = {**os.environ, "NEED_SHM_GIB": "99999"}
    done = subprocess.run(["sh", REPO / "docker/setup/enter.sh", "true"], capture_output=True, text=True, env=env)
    assert done.returncode == 2 and "/dev/shm has" in done.stderr and "--shm-size=99999g" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    fits = subprocess.run(["sh", REPO / "docker/setup/enter.sh", "echo", "a b"], capture_output=True, text=True)
    assert fits.stdout == "a b\n"


def test_training_asks_for_the_shared_memory_of_its_variant(upstream: Upstream):
    for variant, gib in (("tiny", 8), ("full", 32)):
        text = upstream.done("-n", "train-stage1", *STACK, f"VARIANT={variant}", "FROM_SCRATCH=1", "GPUS=1")
        assert f"NEED_SHM_GIB={gib} " in text


def test_a_mount_that_is_not_there_is_not_made_by_the_daemon(upstream: Upstream):
    upstream.done("image", "STACK=torch1.12", "RUNTIME=docker")
    run = ["docker", "run", "--volume", "/no/such:/data", "uniad_torch1.12"]
    done = subprocess.run(
        ["bash", REPO / "mk/lib/in_container.sh", "uniad_torch1.12", *run],
        env={**os.environ, **dict(upstream.environment)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr == "error: /no/such is not there, and a container was to see it as /data\n"


def test_the_dataset_is_missing(upstream: Upstream):
    (upstream.root / "data/nuscenes/v1.0-trainval/sample.json").unlink()
    line = refused(upstream, "train", *STACK, "GPUS=0", "FROM_SCRATCH=1")
    assert "data/nuscenes" in line and "DATASET=synthetic" in line


def test_the_host_cannot_run_the_upstream_stack(upstream: Upstream):
    result = upstream.make("train", "STACK=torch1.12", "RUNTIME=host")
    assert result.returncode != 0 and "RUNTIME=docker or podman" in result.stderr


# --- the clone ----------------------------------------------------------------------------------------------------------
def test_an_interrupted_clone_is_done_again(upstream: Upstream):
    partial = upstream.root / "UniAD_train/.UniAD.partial/.git"
    partial.mkdir(parents=True)
    (partial / "half").write_text("")
    upstream.uniad.mkdir()
    upstream.done("clone", *STACK)
    assert (upstream.uniad / "projects/lines.py").is_file() and not partial.exists()


def default_signals() -> None:
    """Under nohup, or in the background of a script, tests inherit signals that are ignored, which no shell can trap."""
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)


def test_ctrl_c_in_a_clone_is_one_line_and_the_next_one_is_whole(upstream: Upstream):
    slow = upstream.root / "bin/git"
    slow.write_text(f"""#!/bin/sh
case $1 in clone) ;; *) exec {shutil.which("git")} "$@" ;; esac
for word; do where=$word; done
mkdir -p "$where/.git"; echo half > "$where/.git/HEAD"
exec sleep 60
""")
    slow.chmod(0o755)
    process = subprocess.Popen(
        ["make", *upstream.settings, "clone", *STACK], cwd=upstream.root, env={**os.environ, **dict(upstream.environment)},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        preexec_fn=default_signals,
    )  # fmt: skip
    half = upstream.root / "UniAD_train/.UniAD.partial/.git/HEAD"
    eventually(half.exists, 30, "the clone does not begin", process)
    os.killpg(process.pid, signal.SIGINT)
    error = process.communicate(timeout=30)[1]
    lines = [line for line in error.splitlines() if line.strip() and not line.startswith("make")]
    assert process.returncode != 0 and lines == ["error: clone was interrupted: the same line again does it anew"], error
    assert half.exists() and not upstream.uniad.exists()
    slow.unlink()
    upstream.done("clone", *STACK)
    assert (upstream.uniad / "projects/lines.py").is_file() and not half.exists()


def test_a_clone_that_cannot_be_had(upstream: Upstream, tmp_path: Path):
    line = refused(upstream, "clone", *STACK, "UNIAD_GIT_URL=/no/such/repository")
    assert "UNIAD_GIT_URL=/no/such/repository" in line
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    git(other, "commit", "-q", "--allow-empty", "-m", "x")
    assert "has no commit" in refused(upstream, "clone", *STACK, f"UNIAD_GIT_URL={other}")
    assert not upstream.uniad.exists()


def test_a_clone_at_another_commit_is_refused(upstream: Upstream):
    upstream.done("clone", *STACK)
    git(upstream.uniad, "fetch", "-q", "origin")
    git(upstream.uniad, "checkout", "-q", "--detach", "origin/HEAD")
    line = refused(upstream, "patch", *STACK)
    assert "not at the pinned" in line and "checkout" in line


def test_local_changes_are_refused_and_kept(upstream: Upstream):
    upstream.done("clone", *STACK)
    mine = upstream.uniad / "README.md"
    mine.write_text("mine")
    line = refused(upstream, "patch", *STACK)
    assert "local changes in README.md" in line
    assert mine.read_text() == "mine" and "two" in (upstream.uniad / "projects/lines.py").read_text()


def test_a_patch_that_does_not_apply_leaves_nothing(upstream: Upstream):
    (upstream.root / "patch/uniad-zz.patch").write_text(PATCH.replace("-two", "-four"))
    line = refused(upstream, "patch", *STACK)
    assert "uniad-zz.patch does not apply" in line
    assert (upstream.uniad / "projects/lines.py").read_text() == "one\ntwo\nthree\n", "the first patch was taken back"


def test_a_patch_says_when_it_is_applied_and_a_newer_one_replaces_it(upstream: Upstream):
    assert "git -C UniAD_train/UniAD apply" in upstream.done("patch", *STACK)
    assert "already applied: uniad-tiny-training-support.patch" in upstream.done("patch", *STACK)
    (upstream.root / "patch/uniad-tiny-training-support.patch").write_text(PATCH.replace("ours", "newer"))
    upstream.done("patch", *STACK)
    assert (upstream.uniad / "projects/lines.py").read_text() == "one\nnewer\nthree\n"


def test_a_patch_that_was_applied_by_hand_counts(upstream: Upstream):
    upstream.done("clone", *STACK)
    git(upstream.uniad, "apply", str(upstream.root / "patch/uniad-tiny-training-support.patch"))
    assert "already applied" in upstream.done("patch", *STACK)


def test_a_tree_with_our_earlier_patch_gets_the_new_one(upstream: Upstream):
    """It had another name and no lines of context."""
    upstream.done("clone", *STACK)
    kept = upstream.uniad / ".git/uniad-make/patches/00-uniad-torch1.12.patch"
    kept.parent.mkdir(parents=True)
    kept.write_text("--- a/projects/lines.py\n+++ b/projects/lines.py\n@@ -2 +2 @@\n-two\n+earlier\n")
    git(upstream.uniad, "apply", "--unidiff-zero", str(kept))
    upstream.done("patch", *STACK)
    assert (upstream.uniad / "projects/lines.py").read_text() == "one\nours\nthree\n"
    assert [p.name for p in kept.parent.iterdir()] == ["00-uniad-tiny-training-support.patch"]


def test_the_overlay_follows_this_repository_and_spares_what_others_wrote(upstream: Upstream):
    upstream.done("overlay", *STACK)
    runtime = upstream.uniad / "projects/configs/_base_/default_runtime.py"
    ours = upstream.root / "projects/configs/_base_/default_runtime.py"
    assert runtime.read_text() == ours.read_text()
    assert "already applied" in upstream.done("patch", *STACK), "our own files are no local changes"
    ours.write_text(ours.read_text() + "x = 1\n")
    upstream.done("overlay", *STACK)
    assert runtime.read_text() == ours.read_text()
    runtime.write_text("theirs")
    ours.write_text(ours.read_text() + "y = 1\n")
    line = refused(upstream, "overlay", *STACK)
    assert "was changed by hand" in line and runtime.read_text() == "theirs"


# --- several machines ---------------------------------------------------------------------------------------------------
WAIT = [sys.executable, str(REPO / "mk/lib/wait_for_nodes.py")]


def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait(number: int, rank: int, nodes: int = 2, timeout: str = "5") -> subprocess.Popen[str]:
    words = ["--nodes", str(nodes), "--rank", str(rank), "--address", "127.0.0.1", "--port", str(number), "--timeout", timeout]
    return subprocess.Popen([*WAIT, *words], stderr=subprocess.PIPE, text=True)


def test_machines_that_all_come_start_together():
    number = port()
    started = [wait(number, rank, nodes=3, timeout="30") for rank in (1, 2, 0)]
    assert [p.communicate(timeout=60)[1] for p in started] == ["", "", ""]
    assert [p.returncode for p in started] == [0, 0, 0]
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", number))


def test_a_port_in_use():
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        number = taken.getsockname()[1]
        process = wait(number, 0)
        error = process.communicate(timeout=30)[1]
    assert process.returncode == 2 and len(error.splitlines()) == 1
    assert f"port {number} cannot be used here" in error and f"MASTER_PORT={number + 1}" in error


def test_a_machine_that_does_not_answer():
    process = wait(port(), 0, nodes=3, timeout="0.5")
    error = process.communicate(timeout=30)[1]
    assert process.returncode == 2 and "NODE_RANK 1, 2 did not call" in error and len(error.splitlines()) == 1
    process = wait(port(), 1, timeout="0.5")
    error = process.communicate(timeout=30)[1]
    assert process.returncode == 2 and "MASTER_ADDR=127.0.0.1" in error and "does not answer" in error
    assert len(error.splitlines()) == 1


def test_make_itself_stops_before_training_where_the_port_is_taken_or_a_machine_is_silent(upstream: Upstream):
    several = (*STACK, "GPUS=8", "NNODES=2", "MASTER_ADDR=127.0.0.1", "NODE_TIMEOUT=1")
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        number = taken.getsockname()[1]
        line = refused(upstream, "train", *several, f"MASTER_PORT={number}")
        assert f"port {number} cannot be used here" in line
    assert "NODE_RANK 1 did not call within" in refused(upstream, "train", *several, f"MASTER_PORT={port()}")
    line = refused(upstream, "train", *several, f"MASTER_PORT={port()}", "NODE_RANK=1")
    assert "MASTER_ADDR=127.0.0.1" in line and "does not answer" in line
    assert not any("train.py" in word for run in upstream.engine_log() for word in run)


def test_storage_that_is_not_shared(tmp_path: Path):
    (tmp_path / "trained").touch()
    command = ["bash", REPO / "mk/lib/wait_for_file.sh", tmp_path / "promoted", tmp_path / "trained", "0"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "NODE_RANK=0" in done.stderr and "all machines share" in done.stderr
    (tmp_path / "promoted").touch()
    assert subprocess.run(command).returncode == 0
    trained = (tmp_path / "trained").stat().st_mtime_ns
    os.utime(tmp_path / "promoted", ns=(trained, trained))
    assert subprocess.run(command).returncode == 0, "a copy may keep the time of its source"
    os.utime(tmp_path / "promoted", ns=(trained, trained - 10**9))
    assert subprocess.run(command, capture_output=True).returncode == 2, "that of an earlier run"


def test_a_rank_that_cannot_be():
    process = wait(port(), 5)
    assert "ranks run from 0 to 1" in process.communicate(timeout=30)[1] and process.returncode == 2


def test_slurm_without_sbatch(upstream: Upstream):
    assert "sbatch is not on PATH" in refused(upstream, "slurm", *STACK, "GPUS=8", PATH=f"{upstream.root}/bin:/usr/bin:/bin")


# --- an end in the middle -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_command_leaves_no_container(upstream: Upstream, number: int):
    upstream.done("image", "STACK=torch1.12", "RUNTIME=docker")
    upstream.engine_log()
    process = subprocess.Popen(
        ["bash", REPO / "mk/lib/in_container.sh", "uniad_torch1.12", "docker", "run", "--rm", "uniad_torch1.12", "SLEEP"],
        env={**os.environ, **dict(upstream.environment)}, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
        preexec_fn=default_signals,
    )  # fmt: skip
    log = upstream.root / "engine/log"
    eventually(log.exists, 20, "no container is started", process)
    process.send_signal(number)
    assert process.wait(timeout=20) == 128 + number
    os.killpg(process.pid, signal.SIGKILL)  # the stand-in's sleep
    (run, stop, remove) = upstream.engine_log()
    name = run[run.index("--name") + 1]
    assert stop[0] == "stop" and stop[-1] == name and remove == ["rm", "--force", name]
