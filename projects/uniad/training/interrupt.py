"""Ctrl-C, and a cluster that wants its machine back: a wish to stop soon, in good order."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from typing import Any

# `timeout` and torchrun signal a process and its group, so one Ctrl-C may arrive twice within milliseconds.
SAME_WISH_S = 1.0


class Interrupt:
    """While active, ``requested`` tells whether SIGINT or SIGTERM has come.

    Another SIGINT, at least ``SAME_WISH_S`` after the first, means at once: it raises KeyboardInterrupt, except while a
    checkpoint is being written.
    """

    def __init__(self) -> None:
        self.requested = False
        self.writing = 0
        self.first: float | None = None

    def _handle(self, number: int, _: Any) -> None:
        self.requested = True
        if number != signal.SIGINT:
            return
        now = time.monotonic()
        if self.first is None:
            self.first = now
        elif not self.writing and now - self.first >= SAME_WISH_S:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def held_off(self) -> Iterator[None]:
        """What is begun here is finished, however often Ctrl-C comes."""
        self.writing += 1
        try:
            yield
        finally:
            self.writing -= 1

    def __enter__(self) -> None:
        self.previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
