"""Code about GPU kernels, run in a process of its own: Triton decides when it is imported whether it interprets or compiles."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def run_python(code: str, **env: str) -> str:
    """What ``code`` prints. Fails with its error; skips where Triton is not installed."""
    pytest.importorskip("triton", reason="triton is not installed (it comes with torch builds for GPUs)")
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
