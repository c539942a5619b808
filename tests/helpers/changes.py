"""One change to what a file holds, for tests of readers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def put(*keys: Any, value: Any = None, drop: bool = False) -> Callable[[Any], None]:
    """Puts the value at that place of nested dicts and lists, or takes out what is there."""

    def change(content: Any) -> None:
        for key in keys[:-1]:
            content = content[key]
        if drop:
            del content[keys[-1]]
        else:
            content[keys[-1]] = value

    return change
