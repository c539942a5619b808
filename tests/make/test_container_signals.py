"""mk/lib/in_container.sh ends its container: in good order at the first Ctrl-C, by force at a second."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from helpers import REPO

# Its container ends when it is removed, or at the end of a `stop` that takes as long as a slow save.
ENGINE = """#!/usr/bin/env bash
cd "$(dirname "$0")"
case $1 in
  run) echo $$ > running; exec sleep 60 ;;
  stop) echo "$@" > stopped; sleep "$(< save_seconds)"; kill "$(< running)" ;;
  rm) kill "$(< running)" ;;
esac
"""


def begin(folder: Path, save_seconds: float) -> subprocess.Popen:
    engine = folder / "docker"
    engine.write_text(ENGINE)
    engine.chmod(0o755)
    (folder / "save_seconds").write_text(str(save_seconds))
    words = [REPO / "mk/lib/in_container.sh", "image", engine, "run", "image", "train"]
    process = subprocess.Popen(words, start_new_session=True, stdin=subprocess.DEVNULL)
    deadline = time.monotonic() + 20
    while not (folder / "running").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


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
    assert not Path(f"/proc/{(tmp_path / 'running').read_text().strip()}").exists()
    os.killpg(process.pid, signal.SIGKILL)  # the stand-in's `stop`, which a real engine answers by itself
