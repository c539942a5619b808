"""Steps a runtime for long, and keeps what each step took and what the machine held: for `make soak` and `make endurance`."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from uniad.deploy.machine import Reading, gpu_mib, resident_mib
from uniad.postprocess.result import Result

MOST_GROWTH_MIB = 64.0  # of an hour


class Stepped(Protocol):
    """As much of a Runtime as is watched."""

    def step(self, frame: Any) -> Result: ...

    def reset(self) -> None: ...


class Sample(NamedTuple):
    """What was held, and read, after so many frames and seconds."""

    frames: int
    at_s: float
    process_mib: float
    gpu_mib: float
    reading: Reading


class Watch:
    """``due(watch)``: whether to take a sample now. ``samples`` and the times of all steps are what it keeps."""

    def __init__(
        self,
        runtime: Stepped,
        due: Callable[[Watch], bool],
        read: Callable[[], Reading] = Reading,
        held: Callable[[], tuple[float, float]] = lambda: (resident_mib(), gpu_mib()),
        clock: Callable[[], float] = time.perf_counter,
        parts: bool = True,
    ) -> None:
        """read: what the machine says. held: MiB of process and GPU. parts: whether to keep what a step says of its own parts."""
        self.parts = parts
        self.runtime, self.due, self.read, self.held, self.clock = runtime, due, read, held, clock
        # Of an hour at 5 ms 700,000 numbers each: what watches for leaks must not look like one
        self.times_ms, self.ends_s = array("f"), array("d")
        self.parts_ms: dict[str, array[float]] = {}
        self.samples: list[Sample] = []
        self.begun_s = clock()

    @property
    def frames(self) -> int:
        return len(self.times_ms)

    @property
    def elapsed_s(self) -> float:
        return self.clock() - self.begun_s

    def step(self, frame: Any) -> Result:
        begun = self.clock()
        result = self.runtime.step(frame)
        ended = self.clock()
        self.times_ms.append(1e3 * (ended - begun))
        self.ends_s.append(ended - self.begun_s)
        for name, taken in result.timings_ms.items() if self.parts else ():
            self.parts_ms.setdefault(name, array("f")).append(taken)
        if self.due(self):
            self.sample()
        return result

    def scene(self, scene: Sequence[Any]) -> list[Result]:
        self.runtime.reset()
        return [self.step(frame) for frame in scene]

    def sample(self) -> Sample:
        self.samples.append(Sample(self.frames, self.elapsed_s, *self.held(), self.read()))
        return self.samples[-1]
