"""Recorded steps where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch

from uniad.ops.recording import WARM_UP
from uniad.training.capture import RecordedStep


class HostRecording:
    """The stand-in for a CUDA graph where there is no GPU: replays by calling again.

    What goes in and out is a graph's: clips of one shape in buffers, results and reduced gradients in fixed memory.
    """

    def __init__(self, run: Callable[[], object]) -> None:
        self.run = run

    def replay(self) -> None:
        self.run()


def record_on_host(
    run: Callable[[], object],
    *,
    after_each: Callable[[], object],
    before: Callable[[], object],
    generator: torch.Generator | None = None,
) -> HostRecording:
    """As ``ops.recording.record``, with as many runs before the first replay."""
    for _ in range(WARM_UP):
        run()
        after_each()
    before()
    run()
    # a recording computes nothing: what the run that was recorded left in norms is undone
    before()
    return HostRecording(run)


class OnHost(RecordedStep):
    recorder = staticmethod(record_on_host)
