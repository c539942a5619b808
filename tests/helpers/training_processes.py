"""Trainings as processes of their own."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from helpers import REPO, TESTS
from helpers.waiting import eventually

SCRIPT = TESTS / "helpers" / "toy_run.py"
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), str(REPO / "projects")])}


def start(*command: object, **env: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *map(str, command)], env={**ENV, **env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def wait_for_steps(work_dir: Path, steps: int, process: subprocess.Popen) -> None:
    log = work_dir / "train.jsonl"
    eventually(lambda: log.exists() and len(log.read_text().splitlines()) >= steps, 60, "the run makes no progress", process)


def in_c_for_minutes(progress: Callable[[str], None]) -> None:
    """Like an engine builder: one call into C, in which Python acts on no signal."""
    progress("building")
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
