"""Ctrl-C, and a cluster that wants its machine back: a request to stop soon, in good order."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Generator
from typing import Any

from uniad.errors import SAME_REQUEST_S
from uniad.processes import STOP_SIGNALS


class Interrupt:
    """While active, ``requested`` tells whether SIGINT, SIGTERM or SIGHUP has come.

    Another SIGINT, at least ``SAME_REQUEST_S`` after the first signal, means at once: it raises KeyboardInterrupt, except while
    a checkpoint is being written. SIGHUP stays ignored where the caller ignores it (nohup).

    Args:
        answer: line that is printed at the first signal; a step may take a minute, and a person should know that it was heard.
    """

    def __init__(self, answer: str = "") -> None:
        self.answer = answer
        self.requested = False
        self.writing = 0
        self.first: float | None = None

    def _handle(self, number: int, _: Any) -> None:
        self.requested = True
        if number == signal.SIGHUP:
            _leave_terminal()
        now = time.monotonic()
        if self.first is None:
            self.first = now
            if self.answer:
                # not print: the signal may have come while the stream was being written to
                with contextlib.suppress(OSError):
                    os.write(2, f"{signal.Signals(number).name}: {self.answer}\n".encode())
        elif number == signal.SIGINT and not self.writing and now - self.first >= SAME_REQUEST_S:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def deferred(self) -> Generator[None, None, None]:
        """What is begun here is finished, however often Ctrl-C comes."""
        self.writing += 1
        try:
            yield
        finally:
            self.writing -= 1

    def __enter__(self) -> None:
        wanted = [s for s in STOP_SIGNALS if s != signal.SIGHUP or signal.getsignal(s) is not signal.SIG_IGN]
        self.previous = {s: signal.signal(s, self._handle) for s in wanted}

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)


def _leave_terminal() -> None:
    """Sends what is printed from now on nowhere where a terminal was: it has been closed, and writing to it is an error."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            if os.isatty(stream.fileno()):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
