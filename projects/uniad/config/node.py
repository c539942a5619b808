"""A dict of the config that knows where it stands, and which of its keys were read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Literal, overload

from uniad.config.file import ConfigError, nearest
from uniad.config.spec import Range6

_REQUIRED: Any = object()


class Node:
    """A dict of the config that remembers which keys were read. As a context manager it refuses what was not."""

    def __init__(self, data: Any, path: str, file: str):
        self.path, self.file = path, file
        if not isinstance(data, dict):
            raise ConfigError(f"{file}: {path} is {data!r}, it must be a dict")
        self.data = data
        self.read: set[str] = set()

    def __enter__(self) -> Node:
        return self

    def __exit__(self, kind: object, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind is None:
            for key in self.data:
                if key not in self.read:
                    hint = nearest(key, self.read) or f"; supported: {', '.join(sorted(self.read))}"
                    raise ConfigError(f"{self.file}: native does not support the key {self.at(key)}{hint}")

    def at(self, key: str) -> str:
        return f"{self.path}.{key}" if self.path else key

    def fail(self, key: str, why: str) -> ConfigError:
        return ConfigError(f"{self.file}: {self.at(key)} is {self.data.get(key)!r}; {why}")

    def get(self, key: str, default: Any = _REQUIRED) -> Any:
        self.read.add(key)
        if key in self.data:
            return self.data[key]
        if default is _REQUIRED:
            raise ConfigError(f"{self.file}: {self.at(key)} is missing{nearest(key, self.data)}")
        return default

    def number(
        self,
        key: str,
        default: Any = _REQUIRED,
        low: float | None = None,
        above: float | None = None,
        high: float | None = None,
    ) -> float:
        """A number, at least ``low``, more than ``above``, at most ``high``."""
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.fail(key, "it must be a number")
        if low is not None and not value >= low:
            raise self.fail(key, f"it must be at least {low}")
        if above is not None and not value > above:
            raise self.fail(key, f"it must be more than {above}")
        if high is not None and not value <= high:
            raise self.fail(key, f"it must be at most {high}")
        return float(value)

    def integer(self, key: str, default: Any = _REQUIRED, low: int = 1, high: int | None = None) -> int:
        value = self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(key, "it must be a whole number")
        if value < low:
            raise self.fail(key, f"it must be at least {low}")
        if high is not None and value > high:
            raise self.fail(key, f"it must be at most {high}")
        return value

    def boolean(self, key: str, default: Any = _REQUIRED) -> bool:
        value = self.get(key, default)
        if not isinstance(value, bool):
            raise self.fail(key, "it must be True or False")
        return value

    def text(self, key: str, default: Any = _REQUIRED) -> str:
        value = self.get(key, default)
        if not isinstance(value, str):
            raise self.fail(key, "it must be a string")
        return value

    @overload
    def numbers(self, key: str, count: Literal[2], default: Any = ...) -> tuple[float, float]: ...
    @overload
    def numbers(self, key: str, count: Literal[3], default: Any = ...) -> tuple[float, float, float]: ...
    @overload
    def numbers(self, key: str, count: Literal[6], default: Any = ...) -> Range6: ...
    @overload
    def numbers(self, key: str, count: int | None = None, default: Any = ...) -> tuple[float, ...]: ...

    def numbers(self, key: str, count: int | None = None, default: Any = _REQUIRED) -> tuple[float, ...]:
        value = self.get(key, default)
        good = isinstance(value, (list, tuple)) and all(
            isinstance(v, (int, float)) and not isinstance(v, bool) for v in value
        )
        if not good or (count is not None and len(value) != count):
            raise self.fail(key, f"it must be a list of {count if count is not None else 'some'} numbers")
        return tuple(float(v) for v in value)

    @overload
    def wholes(self, key: str, count: Literal[2], default: Any = ...) -> tuple[int, int]: ...
    @overload
    def wholes(self, key: str, count: int | None = None, default: Any = ...) -> tuple[int, ...]: ...

    def wholes(self, key: str, count: int | None = None, default: Any = _REQUIRED) -> tuple[int, ...]:
        value = self.numbers(key, count, default)
        if any(v != int(v) for v in value):
            raise self.fail(key, "it must be a list of whole numbers")
        return tuple(int(v) for v in value)

    def choice(self, key: str, allowed: Iterable[Any], default: Any = _REQUIRED) -> Any:
        value = self.get(key, default)
        allowed = list(allowed)
        if value not in allowed:
            names = ", ".join(repr(a) for a in allowed)
            raise self.fail(key, f"native supports {names}{nearest(value, allowed) if isinstance(value, str) else ''}")
        return value

    def only(self, **values: Any) -> None:
        """Keys for which native has one way; an absent key means that way."""
        for key, value in values.items():
            got = self.get(key, value)
            if isinstance(got, list):
                got = tuple(got)
            if got != value:
                raise self.fail(key, f"native supports {value!r} only")

    def must_equal(self, key: str, value: Any, other: str) -> None:
        """A key that restates a value from elsewhere; absent is as good as equal."""
        got = self.get(key, value)
        if (tuple(got) if isinstance(got, (list, tuple)) else got) != (tuple(value) if isinstance(value, list) else value):
            raise self.fail(key, f"it must equal {other}, which is {value!r}")

    def type(self, *names: str) -> str:
        """The module's type. Upstream's export names its modules X + 'TRTP'; they hold the same weights."""
        value = self.text("type")
        for name in names:
            if re.fullmatch(f"{name}(UniAD)?(TRTP?)?", value):
                return name
        raise self.fail("type", f"native supports {', '.join(names)}{nearest(value, names)}")

    def skip(self, *keys: str) -> None:
        """Keys that only the upstream stack reads."""
        self.read.update(keys)

    def sub(self, key: str) -> Node:
        return Node(self.get(key), self.at(key), self.file)

    def subs(self, key: str, count: int | None = None) -> list[Node]:
        value = self.get(key)
        if not isinstance(value, (list, tuple)) or (count is not None and len(value) != count):
            raise self.fail(key, f"it must be a list of {count if count is not None else 'some'} dicts")
        return [Node(v, f"{self.at(key)}.{i}", self.file) for i, v in enumerate(value)]
