"""Processes that prepare samples: started, watched and ended so that a training never hangs for want of one, nor dies of it.

PyTorch's loader hands batches over in shared memory, one open file each tensor. What that needs is compared with what there
is when the first batch is made; whatever goes wrong later is one line that names the reason.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import multiprocessing.queues
import multiprocessing.sharedctypes
import os
import re
import resource
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_convert, get_worker_info

from uniad.errors import UserError, out_of_memory
from uniad.processes import describe_exit, leave_signals_to_parent, signals_blocked

SHARED_MEMORY = "/dev/shm"
PREFETCH = 2  # batches that each process has ready or in work
TAKEN = 3  # batches that the main process holds besides: the one computed, the one before, the one that is copied
EXIT_NO_FILES = 3  # status of a loader process that could open no more files
NO_FILES = "loader processes ran out of open files: raise the limit (ulimit -n), or lower --workers (data.workers_per_gpu)"
TIMEOUT_S = 600.0  # the slowest disk gives a batch in less
_DIED = re.compile(r"DataLoader worker \(pid|Pin memory thread exited")  # how PyTorch tells of a process that is gone


class Failure(NamedTuple):
    """A user's mistake met in a loader process, on its way to the main process as data: re-raised there it stays one line."""

    message: str


class Room(NamedTuple):
    """What this machine gives to batches on their way."""

    shared_bytes: int | None  # free in /dev/shm; None where there is none
    files: int  # further files that a process may open

    @classmethod
    def now(cls) -> Room:
        try:
            free = shutil.disk_usage(SHARED_MEMORY).free
        except OSError:
            free = None
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return cls(free, limit - _open_files() if limit != resource.RLIM_INFINITY else 1 << 30)


def _open_files() -> int:
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 64  # a guess, where the system does not tell


def raise_file_limit() -> None:
    """As many open files as this process may give itself: many systems start with 1024 and allow a million."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Start:
    """What a loader process does first. Its parent ends it, at the end (``closing``) or by ending itself; signals do not."""

    def __init__(self) -> None:
        self.parent = os.getpid()
        self.closing = multiprocessing.sharedctypes.RawValue("b", 0)

    def __call__(self, _: int) -> None:
        leave_signals_to_parent(self.parent, self._terminate)
        signal.siginterrupt(signal.SIGTERM, False)  # decoders in C do not expect to be interrupted
        torch.set_num_threads(1)
        multiprocessing.queues.Queue._on_queue_feeder_error = _hand_on
        sys.excepthook = _end_without_files

    def _terminate(self, *_: Any) -> None:
        if self.closing.value:
            os._exit(0)


def _hand_on(queue: multiprocessing.queues.Queue, error: BaseException, item: Any) -> None:
    """A batch that could not be sent is replaced by the reason; PyTorch would print a traceback, and wait for it for ever."""
    queue.put((item[0], Failure(_no_room(error) or f"a batch could not be handed over: {type(error).__name__}: {error}")))


class _Collate:
    """Collates samples or hands the first failure on; compares what the first batch needs with what there is."""

    def __init__(self, collate: Callable[[Any], Any], prefetch: int):
        self.collate, self.prefetch = collate, prefetch
        self.room: Room | None = None  # of the main process, when the processes start

    def __call__(self, samples: Any) -> Any:
        listed = samples if isinstance(samples, list) else [samples]
        failure = next((s for s in listed if isinstance(s, Failure)), None)
        if failure is not None:
            return failure
        batch = self.collate(samples)
        room, self.room = self.room, None
        worker = get_worker_info()
        if worker is None or room is None:
            return batch
        return shortage(batch, worker.num_workers, self.prefetch, room) or batch


def shortage(batch: Any, processes: int, prefetch: int, room: Room) -> Failure | None:
    """What ``processes`` loader processes lack to hand over batches like this one, as a failure; None where nothing."""
    tensors = list(_tensors(batch))
    batches = processes * prefetch + TAKEN
    need = batches * sum(t.numel() * t.element_size() for t in tensors)
    if room.shared_bytes is not None and need > room.shared_bytes:
        fits = (room.shared_bytes * batches // max(1, need) - TAKEN) // prefetch
        return Failure(
            f"{SHARED_MEMORY} has {room.shared_bytes / 1e6:.0f} MB free, {processes} loader processes need {need / 1e6:.0f} MB: "
            f"--workers {max(0, fits)} (data.workers_per_gpu) fits; or give the container a larger --shm-size "
            "(make: SHM_SIZE), or remove what fills it"
        )
    files = batches * len(tensors)
    if files > room.files:
        fits = (room.files // max(1, len(tensors)) - TAKEN) // prefetch
        return Failure(
            f"this process may open {room.files} more files, {processes} loader processes need {files}: raise the limit "
            f"(ulimit -n {files + 1024}), or --workers {max(0, fits)}"
        )
    return None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _tensors(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _tensors(inner)


def guarded_loader(
    dataset: Dataset, *, workers: int, collate: Callable[[Any], Any] = default_convert, **options: Any
) -> DataLoader:
    """A DataLoader for ``batches``. ``options`` are DataLoader's; samples may be a ``Failure``."""
    return DataLoader(
        dataset,
        num_workers=workers,
        collate_fn=_Collate(collate, PREFETCH),
        prefetch_factor=PREFETCH if workers > 0 else None,
        worker_init_fn=_Start() if workers > 0 else None,
        **options,
    )


def batches(loader: DataLoader, timeout_s: float = TIMEOUT_S, if_slow: str = "lower --workers") -> Generator[Any]:
    """The batches of a ``guarded_loader``; closing the generator ends its processes.

    Raises UserError where a batch is a Failure, a loader process dies, shared memory or open files run out, or no batch comes
    within ``timeout_s`` seconds; ``if_slow`` is what to do where the disk only takes that long.
    """
    start, collate = loader.worker_init_fn, loader.collate_fn
    if not isinstance(start, _Start) or not isinstance(collate, _Collate):
        for batch in loader:
            yield _checked(batch)
        return
    raise_file_limit()
    collate.room = Room.now()
    closing = start.closing
    start.parent, closing.value = os.getpid(), 0

    def close() -> None:
        closing.value = 1

    atexit.register(close)  # before multiprocessing waits for its children
    try:
        with signals_blocked(), _child_handler_kept():
            source = iter(loader)
        processes = getattr(source, "_workers", [])
        while True:
            try:
                with _time_limit(timeout_s, processes, if_slow):
                    batch = next(source)
            except StopIteration:
                return
            except (RuntimeError, OSError, MemoryError, EOFError) as error:
                if out_of_memory(error):
                    message = "memory has run out in a data-loader process: lower --workers (data.workers_per_gpu)"
                elif isinstance(error, (EOFError, ConnectionError)) or _DIED.search(str(error)):
                    message = _died(processes)
                else:
                    message = _no_room(error)
                if message is None:
                    raise
                raise UserError(message) from None
            yield _checked(batch)
    finally:
        close()
        source = None  # ends the processes
        atexit.unregister(close)


def _checked(batch: Any) -> Any:
    if isinstance(batch, Failure):
        raise UserError(batch.message)
    return batch


@contextlib.contextmanager
def _child_handler_kept() -> Generator[None, None, None]:
    """Keeps the handler of SIGCHLD. PyTorch's raises wherever the main thread is, be it in a save; next() finds out as well."""
    before = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGCHLD, before)


@contextlib.contextmanager
def _time_limit(seconds: float, processes: list[Any], if_slow: str) -> Generator[None, None, None]:
    """Raises UserError in the main thread when the block takes longer: a handover that lost its other end blocks for ever."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(*_: Any) -> None:
        free = Room.now()
        shared = "" if free.shared_bytes is None else f"{SHARED_MEMORY} has {free.shared_bytes / 1e6:.0f} MB free, "
        raise UserError(
            f"no batch has come from {len(processes)} loader processes for {seconds:.0f} s ({shared}{free.files} more files may "
            f"be opened here): does the disk of the data set answer? If it is only slow, {if_slow}"
        )

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _died(processes: list[Any]) -> str:
    """Which loader process died, of what, and what to do."""
    for process in processes:
        process.join(0.2)  # a closed connection may be noticed before the process that held it is gone
    if any(process.exitcode == EXIT_NO_FILES for process in processes):
        return NO_FILES
    for process in processes:
        if process.exitcode not in (None, 0):
            what = f"(pid {process.pid}) {describe_exit(process.exitcode)}"
            break
    else:
        what = "ended unexpectedly"
    free = Room.now().shared_bytes
    shared = "" if free is None else f" ({SHARED_MEMORY} has {free / 1e6:.0f} MB free)"
    return (
        f"a data-loader process {what}: most likely memory or shared memory ran out{shared}; lower --workers "
        "(data.workers_per_gpu), or give the container a larger --shm-size"
    )


def _end_without_files(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Ends a loader process whose thread that hands files over can open none: it would try, print a traceback and try again."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        os._exit(EXIT_NO_FILES)
    sys.__excepthook__(kind, error, trace)


def _no_room(error: BaseException) -> str | None:
    """What a handover that failed ran out of, where it is known."""
    if isinstance(error, OSError) and error.errno == errno.EMFILE or re.search(r"Too many open files|ancdata", str(error)):
        return NO_FILES
    if re.search(r"shared memory|unable to (mmap|resize|open) .*torch_", str(error)):
        return (
            f"{SHARED_MEMORY} is full: lower --workers (data.workers_per_gpu), or give the container a larger --shm-size "
            "(make: SHM_SIZE)"
        )
    return None
