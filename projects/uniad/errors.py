"""The one error that a person may see, and the one way a command line shows it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

EXIT_USER_ERROR = 2

LONGEST_LINE = 2000  # characters; a message may quote what it was given, which may be anything

T = TypeVar("T")


class UserError(Exception):
    """Bad input. The message says, in one line, what is wrong, where it was found and what to do about it."""


def one_line(error: BaseException) -> str:
    """The message as one line that a terminal only prints: quoted input may hold line breaks, escape sequences, or a novel."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(error))
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]}..."


def run_cli(main: Callable[[], T]) -> T:
    """Calls ``main``; a UserError becomes one line on stderr and exit status 2, other errors keep their traceback.

    Ctrl-C ends with status 130 and no traceback, as a shell would report it.
    """
    try:
        return main()
    except UserError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
