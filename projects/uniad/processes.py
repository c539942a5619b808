"""Processes and signals: who answers a signal, and which process ends with which.

Ctrl-C, a cluster and ``docker stop`` signal a whole process group. Of several processes that work together only the one that
started the others answers; the others leave signals to it and never outlive it.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext, SpawnContext
from typing import Any

from uniad.errors import UserError

# Ctrl-C, a request to end, and a terminal that has been closed.
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_PR_SET_PDEATHSIG = 1


def cores_here() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Freed buffers stay with this process, for its next ones. Elsewhere than under glibc nothing happens.

    glibc hands what was larger than 32 MiB back to the kernel, which clears each page anew for the next one. A frame of
    UniAD-base on a CPU frees hundreds of buffers of half a gigabyte: half of its time went there.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, -1)


@contextlib.contextmanager
def signals_blocked() -> Generator[None, None, None]:
    """Holds stop signals back; put it around the start of processes.

    A child inherits the mask, so a signal that comes before ``leave_signals_to_parent`` does not end it with a traceback.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_parent(parent: int, on_terminate: Callable[..., Any] | signal.Handlers = signal.SIG_IGN) -> None:
    """To be called first in a child: stop signals do nothing here, and the child ends when its parent does.

    Args:
        parent: process id of the parent.
        on_terminate: handler for SIGTERM, with which pools of processes end their members.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, on_terminate)
    end_with_parent(parent)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def end_with_parent(parent: int) -> None:
    """Has the kernel kill this process when its parent ends, however that happens. Does nothing outside Linux."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:  # it had ended before the kernel was asked
        os._exit(1)


def stop_with_parent(parent: int, grace_s: float) -> None:
    """Stops this process in good order (SIGTERM to itself) once ``parent`` is gone, and by force ``grace_s`` seconds later."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def spawn_context() -> SpawnContext:
    """Starts processes from nothing rather than as copies of this one."""
    with signals_blocked():
        # It ignores Ctrl-C and SIGTERM by itself, but a closed terminal would end it before those that it serves.
        resource_tracker.ensure_running()
    return multiprocessing.get_context("spawn")


@contextlib.contextmanager
def process_pool(
    workers: int, context: BaseContext, start: Callable[..., None], *arguments: Any
) -> Generator[ProcessPoolExecutor, None, None]:
    """A pool that is gone when the block is left: its processes are idle then, or what they compute is no longer wanted.

    Args:
        start: called with ``arguments`` first in each process, which must call ``leave_signals_to_parent``. Submit work inside
            ``signals_blocked``: that is when processes are started.
    """
    pool = ProcessPoolExecutor(workers, context, start, arguments)
    try:
        yield pool
    finally:
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)


def map_in_processes(function: Callable[[Any], Any], values: Iterable[Any], workers: int) -> Iterator[Any]:
    """``function`` of each value, in order, by ``workers`` forked processes."""
    with process_pool(workers, multiprocessing.get_context("fork"), leave_signals_to_parent, os.getpid()) as pool:
        with signals_blocked():
            futures = [pool.submit(function, value) for value in values]
        try:
            for future in futures:
                yield future.result()
        except BrokenProcessPool:
            raise UserError("a worker process was killed, perhaps for lack of memory: run again with fewer workers") from None


def run_killable(function: Callable[..., Any], *arguments: Any, progress: Callable[[str], None] | None = None) -> Any:
    """Returns ``function(*arguments)``, computed in a process of its own that is killed when this one is interrupted.

    For library calls that stay in C for minutes, where Python could not act on a signal. Function, arguments and result travel
    as pickles; the function is called with a further argument, ``progress``, that hands a line of text to ``progress`` here.
    A UserError arrives as it was raised; a process that dies is a UserError that names the signal.
    """
    context = spawn_context()  # a fork would inherit a GPU context that it cannot use
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(os.getpid(), there, function, arguments), daemon=True)
    try:
        with signals_blocked():
            process.start()
        there.close()
        while True:
            kind, value = here.recv()
            if kind == "progress":
                if progress is not None:
                    progress(value)
            elif kind == "error":
                raise value
            else:
                return value
    except EOFError:
        process.join()
        raise UserError(f"the process for {function.__name__} {describe_exit(process.exitcode)}") from None
    finally:
        if process.pid is not None:
            process.kill()
            process.join()
        here.close()


def _answer(parent: int, results: Connection, function: Callable[..., Any], arguments: tuple) -> None:
    leave_signals_to_parent(parent)
    try:
        results.send(("result", function(*arguments, progress=lambda line: results.send(("progress", line)))))
    except UserError as error:
        results.send(("error", error))


def describe_exit(code: int | None) -> str:
    """How a process ended, for a message: ``was ended by SIGKILL; the machine may be out of memory``."""
    if code is None or code >= 0:
        return f"ended with status {code}"
    name = signal.Signals(-code).name
    return f"was ended by {name}" + ("; the machine may be out of memory" if name == "SIGKILL" else "")
