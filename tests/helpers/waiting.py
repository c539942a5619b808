"""Waiting for what another process does."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable


def eventually(holds: Callable[[], object], seconds: float, what: str, by: subprocess.Popen | None = None) -> None:
    """Waits until it holds. Fails where time runs out, saying ``what``, or where the process that has to bring it about ends."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert by is None or by.poll() is None, by.communicate()
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
