"""Ctrl-C, and a cluster that wants its machine back: a wish to stop soon, in good order."""

from __future__ import annotations

import signal
from typing import Any


class Interrupt:
    """While active, ``requested`` tells whether SIGINT or SIGTERM has come. A second SIGINT raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self.requested = False
        self.interrupts = 0

    def _handle(self, number: int, _: Any) -> None:
        self.interrupts += number == signal.SIGINT
        if self.interrupts > 1:
            raise KeyboardInterrupt
        self.requested = True

    def __enter__(self) -> None:
        self.previous = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: Any) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler)
