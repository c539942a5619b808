"""How loaders are measured: one method for ours and for upstream's, which runs in an interpreter of its own.

Python 3.8 must be able to run this, with any PyTorch, so nothing of the package is imported.
"""

from __future__ import annotations

import io
import multiprocessing
import pickle
import time
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Optional  # noqa: UP035 - Python 3.8

import torch


class Rate(NamedTuple):
    """How fast a loader runs."""

    clips_s: float
    bytes: int  # of a batch, between processes
    main_ms: float  # of a processor a clip, in the main process
    workers_ms: float  # in all loader processes together


def rate(stream: Iterator[Any], batch_size: int, warm: int, count: int, least_s: float, size: Any = None) -> Rate:
    """Of a loader whose processes have started and that has given ``warm`` batches; over ``count`` clips, or more until
    ``least_s`` seconds are over. ``stream`` must go on in the same processes for as long. size: of a batch, in bytes."""
    for _ in range(warm):
        next(stream)
    pids = [process.pid for process in multiprocessing.active_children() if process.pid is not None]

    def used() -> list[float]:
        return [time.process_time(), sum(on_processor(pid) for pid in pids)]

    made, before, started = 0, used(), time.perf_counter()
    while True:
        batch = next(stream)
        made += batch_size
        if made >= count and time.perf_counter() - started >= least_s:
            break
    seconds = time.perf_counter() - started
    main_ms, workers_ms = (1e3 * (now - then) / made for now, then in zip(used(), before))
    return Rate(made / seconds, (size or size_between_processes)(batch), main_ms, workers_ms)


def on_processor(pid: int) -> float:
    """Seconds that all threads of a process that is there have run; to the nanosecond, where /proc/PID/stat has hundredths."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


class _Counting(pickle.Pickler):
    """As PyTorch's queues send: tensors' memory is shared, everything else is pickled."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.shared = 0
        self.seen: set[int] = set()

    def persistent_id(self, obj: Any) -> Optional[int]:  # noqa: UP045 - Python 3.8
        if not isinstance(obj, torch.Tensor):
            return None
        if id(obj) not in self.seen:
            self.seen.add(id(obj))
            self.shared += obj.numel() * obj.element_size()
        return id(obj)


def size_between_processes(batch: Any) -> int:
    """Bytes of a batch that a loader process sends: tensors, and what is pickled beside them."""
    pickled = io.BytesIO()
    pickler = _Counting(pickled)
    pickler.dump(batch)
    return pickler.shared + pickled.tell()
