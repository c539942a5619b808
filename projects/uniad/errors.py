"""The one error that a person may see, and the one way a command line shows it."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

EXIT_USER_ERROR = 2

LONGEST_LINE = 2000  # characters; a message may quote what it was given, which may be anything

# `timeout`, make and torchrun signal a process and its group, so one Ctrl-C may arrive twice within milliseconds.
SAME_REQUEST_S = 1.0

T = TypeVar("T")


class UserError(Exception):
    """Bad input. The message says, in one line, what is wrong, where it was found and what to do about it."""

    def __str__(self) -> str:
        return _printable(super().__str__())


def _printable(text: str) -> str:
    """One line that a terminal only prints: what a message quotes may hold line breaks and escape sequences."""
    return text if text.isprintable() else "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(error: BaseException) -> str:
    """The message as one line, and no novel."""
    text = _printable(str(error))
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}..."


_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|CUDA out of memory|Insufficient memory|std::bad_alloc")
_BYTES_ASKED = re.compile(r"tried to allocate (\d+) bytes")
_WHAT_TO_DO = {
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "change its owner or permissions, or choose another place"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room there, or choose another place"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit (ulimit -n)"),
}


def of_system(error: OSError) -> UserError:
    """The system's message, with the path and, where it is known, what to do."""
    paths = " and ".join(os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes)))
    why = error.strerror or str(error) or type(error).__name__
    advice = _WHAT_TO_DO.get(error.errno or 0)
    return UserError(f"{paths}: {why}" * bool(paths) + why * (not paths) + f"; {advice}" * bool(advice))


# What the system says of a file that may be whole: one of another owner, a disk that fails, too many open files.
_OF_THE_SYSTEM = (errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)


def tell_refusal(error: BaseException, path: object) -> None:
    """Raises UserError where the system refused to read a file; called before one is said to be damaged, and to be deleted."""
    if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
        raise of_system(OSError(error.errno, error.strerror, error.filename or str(path))) from None


def out_of_memory(error: BaseException) -> bool:
    """Whether Python, NumPy, OpenCV, PyTorch or a GPU says that memory has run out; PyTorch says so by a RuntimeError."""
    return isinstance(error, MemoryError) or bool(_NO_MEMORY.search(str(error)))


def of_memory(error: BaseException) -> UserError:
    """What to tell a person when memory has run out."""
    asked = _BYTES_ASKED.search(str(error))
    much = f" ({int(asked[1]) / 2**30:.1f} GiB more were asked for)" if asked else ""
    place = "GPU memory" if "CUDA" in str(error) else "memory"
    return UserError(f"{place} has run out{much}: end other programs, ask for less at once, or use a larger machine")


@contextmanager
def system_errors_are_one_line() -> Generator[None, None, None]:
    """An OSError or lack of memory leaves the block as a UserError: a full disk is no fault of the code, nor of interest as a
    traceback. A pipe whose reader went away stays what it is.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except MemoryError as error:
        raise of_memory(error) from error
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
        raise of_memory(error) from error
    except OSError as error:
        if error.errno is None:  # not the system's: raised by a library, with a text of its own
            raise
        raise of_system(error) from error


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP: unwinds like Ctrl-C, so files half written are removed and child processes are ended."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextmanager
def _stop_signals_raise() -> Generator[None, None, None]:
    """SIGINT, SIGTERM and SIGHUP raise in the main thread, once: a repetition must not cut the clean-up short.

    A signal that the caller ignores stays ignored (nohup), and a handler that is already there stays.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: list[float] = []

    def handle(number: int, _: Any) -> None:
        now = time.monotonic()
        if first and (number != signal.SIGINT or now - first[0] < SAME_REQUEST_S):
            return
        first.append(now)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)

    ours = [signal.SIGTERM, signal.SIGHUP] if hasattr(signal, "SIGHUP") else [signal.SIGTERM]
    before = {n: signal.signal(n, handle) for n in ours if signal.getsignal(n) is signal.SIG_DFL}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        if not first:  # else the end of the process is near, and a repetition must not interrupt that either
            for number, handler in before.items():
                signal.signal(number, handler)


def run_cli(main: Callable[[], T], kept: str = "") -> T:
    """Calls ``main``; a UserError or what the system refused becomes one line on stderr and exit status 2, other errors keep
    their traceback.

    Ctrl-C ends with status 130 and no traceback, SIGTERM with 143 and SIGHUP with 129, as a shell would report them. A warning of
    this package is a line that begins with "note:", without the place in our code that a reader cannot do anything with.

    Args:
        kept: told to whoever interrupts: what stays of the work, and how it goes on.
    """
    _warnings_are_notes()
    try:
        with _stop_signals_raise(), system_errors_are_one_line():
            return main()
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except BrokenPipeError:
        # `| head` has read enough. What is left in the buffer must not fail again at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt as interrupt:
        _say_interrupted(kept)
        sys.exit(128 + (interrupt.number if isinstance(interrupt, Terminated) else signal.SIGINT))


def _warnings_are_notes() -> None:
    """Of this package alone: whose code another's warning is about, a reader must see."""
    shown, package = warnings.showwarning, os.path.dirname(os.path.abspath(__file__)) + os.sep

    def show(message, category, filename, lineno, file=None, line=None) -> None:
        if os.path.abspath(filename).startswith(package) and issubclass(category, UserWarning):
            print(f"note: {one_line(message)}", file=file or sys.stderr)
        else:
            shown(message, category, filename, lineno, file, line)

    warnings.showwarning = show


def _say_interrupted(kept: str) -> None:
    try:
        print(f"interrupted: {kept}" if kept else "interrupted", file=sys.stderr)
    except OSError:
        pass  # the terminal is gone
