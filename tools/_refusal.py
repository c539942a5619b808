"""How a script ends that runs before there is an environment: what it refuses is one line, status 2. Standard library only."""

from __future__ import annotations

import sys
from collections.abc import Callable


class Refused(Exception):
    """One line: what is wrong, where, what to do."""


def ended(main: Callable[[], int | None]) -> int:
    """The status that ``main`` ends with; None: 0."""
    try:
        return main() or 0
    except Refused as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
