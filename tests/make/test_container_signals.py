"""mk/lib/in_container.sh ends its container: in good order at the first Ctrl-C, by force at a second."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from helpers import REPO
from helpers.waiting import eventually

# Its container ends when it is removed, or at the end of a `stop` that takes as long as a slow save.
ENGINE = """#!/usr/bin/env bash
cd "$(dirname "$0")"
case $1 in
  run) echo $$ > running; exec sleep 60 ;;
  stop) echo "$@" > stopped; sleep "$(< save_seconds)"; kill "$(< running)" ;;
  rm) kill "$(< running)" ;;
esac
"""


# Its `run` fails as one does that has no toolkit for GPUs.
NO_GPUS = """#!/usr/bin/env bash
[[ $1 != run ]] || { echo "could not select device driver nvidia"; exit 125; } >&2
"""


def test_an_engine_given_by_its_path_still_says_what_it_lacks(tmp_path):
    engine = tmp_path / "docker"
    engine.write_text(NO_GPUS)
    engine.chmod(0o755)
    words = [REPO / "mk/lib/in_container.sh", "image", engine, "run", "image", "train"]
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert ended.returncode == 125 and ended.stderr.startswith("error: docker cannot give GPUs to containers: install the NVIDIA")
    assert len(ended.stderr.splitlines()) == 1


def begin(folder: Path, save_seconds: float) -> subprocess.Popen:
    engine = folder / "docker"
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    (folder / "save_seconds").write_text(str(save_seconds))
    words = [REPO / "mk/lib/in_container.sh", "image", engine, "run", "image", "train"]
    process = subprocess.Popen(words, start_new_session=True, stdin=subprocess.DEVNULL)
    eventually((folder / "running").exists, 20, "the container does not run", process)
    return process


def runs(pid: int) -> bool:
    """Whether a process does anything yet; one that ended may stay listed where the first process is no init."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_ctrl_c_gives_the_container_time_to_save_even_if_it_arrives_twice(tmp_path):
    process = begin(tmp_path, 1.0)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(20) == 130 and time.monotonic() - began >= 1.0
    assert (tmp_path / "stopped").read_text().startswith("stop --time 120 uniad-")


def test_a_second_ctrl_c_ends_the_container_at_once(tmp_path):
    process = begin(tmp_path, 60)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(2.5)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(10) == 130
    pid = int((tmp_path / "running").read_text())
    eventually(lambda: not runs(pid), 10, "the container runs on")
    os.killpg(process.pid, signal.SIGKILL)  # the stand-in's `stop`, which a real engine answers by itself
