"""The parts that formats are declared with.

A field says what a value must be. ``field.check(value, where)`` returns the value, converted, or raises a UserError of one line.
``column`` checks one key of many records with a few array operations, and looks for the culprit only where those fail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from uniad.config.file import nearest
from uniad.errors import UserError

if TYPE_CHECKING:  # Python 3.8, which upstream's container has, cannot evaluate them
    Rule = Callable[[NDArray[Any]], NDArray[np.bool_]]  # items of an array [n, *shape] -> which of them are good [n]
    Where = Callable[[int], str]

_KINDS = {"float": "fiu", "whole": "iuf", "flag": "b", "text": "US"}
_TYPES = {"float": np.float64, "whole": np.int64, "flag": np.bool_, "text": np.str_}
_LONGEST = 60  # characters of a value that a message shows


def shown(value: Any) -> str:
    """A value for a message: short, on one line."""
    if isinstance(value, np.ndarray) and value.size > 4:
        spoilt = value.dtype.kind == "f" and not np.isfinite(value).all()
        return f"an array of shape {list(value.shape)}" + " with values that are not finite" * spoilt
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, dict):
        return f"a mapping of {len(value)} keys"
    # Enough elements to fill the room, so that a list of millions costs nothing.
    text = repr(value[:_LONGEST] if isinstance(value, (list, tuple, str, bytes)) else value).replace("\n", " ")
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def refuse(value: Any, where: str, wanted: str) -> UserError:
    return UserError(f"{where} is {shown(value)}; needed is {wanted}")


@dataclass(frozen=True)
class Anything:
    """A value that only passes through."""

    wanted: str = "any value"

    def check(self, value: Any, where: str) -> Any:
        return value


@dataclass(frozen=True)
class Text:
    wanted: str = "a text"
    empty: bool = True

    def check(self, value: Any, where: str) -> str:
        if not isinstance(value, str) or not (value or self.empty):
            raise refuse(value, where, self.wanted)
        return str(value)

    def stack(self, values: Sequence[Any]) -> list[str] | None:
        good = all(isinstance(value, str) for value in values)
        return list(values) if good and (self.empty or all(values)) else None


@dataclass(frozen=True)
class Flag:
    wanted: str = "true or false"

    def check(self, value: Any, where: str) -> bool:
        if not isinstance(value, (bool, np.bool_)):
            raise refuse(value, where, self.wanted)
        return bool(value)

    def stack(self, values: Sequence[Any]) -> list[bool] | None:
        return list(values) if all(isinstance(value, (bool, np.bool_)) for value in values) else None


@dataclass(frozen=True)
class Choice:
    """One of a few values."""

    values: tuple[Any, ...]

    @property
    def wanted(self) -> str:
        return "one of " + ", ".join(map(repr, self.values))

    def check(self, value: Any, where: str) -> Any:
        # By type as well: True equals 1.
        if not any(type(value) is type(known) and value == known for known in self.values):
            hint = nearest(value, [v for v in self.values if isinstance(v, str)]) if isinstance(value, str) else ""
            raise UserError(f"{where} is {shown(value)}; needed is {self.wanted}{hint}")
        return value


@dataclass(frozen=True)
class Array:
    """Numbers, flags or texts of a fixed shape; () is a single one. ``rule`` says which finite values are good."""

    shape: tuple[int, ...] = ()
    wanted: str = "a number"
    kind: str = "float"
    low: float | None = None
    rule: Rule | None = None
    crop: bool = False  # more rows and columns than the shape has may follow, and are left out

    def check(self, value: Any, where: str) -> Any:
        array = self._converted([value])
        if array is None or not self._good(array).all():
            # Of a long array its shape, and whether it is finite, say more than its first digits.
            raise refuse(value if array is None else array[0], where, self.wanted)
        return array[0]

    def stack(self, values: Sequence[Any]) -> NDArray[Any] | None:
        """All values as one array [n, *shape]; None where one of them does not fit."""
        if not len(values):
            return np.zeros((0, *self.shape), dtype=_TYPES[self.kind])
        array = self._converted(values)
        return array if array is not None and self._good(array).all() else None

    def _converted(self, values: Sequence[Any]) -> NDArray[Any] | None:
        try:
            array = np.array(values)
        except (ValueError, TypeError, OverflowError):
            return None
        if array.dtype.kind not in _KINDS[self.kind]:
            return None
        if self.crop and array.ndim == len(self.shape) + 1:
            array = array[(slice(None), *(slice(size) for size in self.shape))]
        if array.shape[1:] != self.shape:
            return None
        if self.kind == "whole" and array.dtype.kind == "f" and not (np.abs(array) < 2.0**63).all():
            return None  # nor finite
        if self.kind == "whole" and array.dtype.kind == "f" and (array != np.floor(array)).any():
            return None
        return array.astype(_TYPES[self.kind])

    def _good(self, array: NDArray[Any]) -> NDArray[np.bool_]:
        good = np.ones(len(array), dtype=bool)
        if self.kind == "float":
            good &= np.isfinite(array).reshape(len(array), -1).all(1)
        if self.low is not None:
            with np.errstate(invalid="ignore"):
                good &= (array >= self.low).reshape(len(array), -1).all(1)
        if self.rule is not None and good.any():
            good[good] &= self.rule(array[good])
        return good


def Whole(wanted: str = "a whole number", low: float | None = None) -> Array:
    return Array((), wanted, "whole", low)


def Number(wanted: str = "a number", low: float | None = None) -> Array:
    return Array((), wanted, "float", low)


@dataclass(frozen=True)
class Ragged:
    """Rows of a fixed shape, as many as a record has objects. ``unknown``: a row may be NaN as a whole."""

    shape: tuple[int, ...]
    wanted: str
    kind: str = "float"
    rule: Rule | None = None
    unknown: bool = False

    def join(self, values: Sequence[Any], counts: Sequence[int], where: Where) -> NDArray[Any]:
        """Rows of all records after one another [sum of counts, *shape]."""
        parts = []
        for number, (value, count) in enumerate(zip(values, counts)):
            try:
                part = np.asarray(value)
            except (ValueError, TypeError, OverflowError):
                part = None
            if part is not None and not count and not part.size:
                continue
            if part is None or part.shape != (count, *self.shape) or part.dtype.kind not in _KINDS[self.kind]:
                wanted = f"{self.wanted}, {[count, *self.shape]}, for {count} boxes"
                raise refuse(value if part is None else part, where(number), wanted)
            parts.append(part)
        if not parts:
            return np.zeros((0, *self.shape), dtype=_TYPES[self.kind])
        joined = np.concatenate(parts)
        good = self._good(joined)
        if not good.all():
            row = int(np.argmin(good))
            ends = np.cumsum(counts)
            number = int(np.searchsorted(ends, row, side="right"))
            inside = row - int(ends[number] - counts[number])
            raise refuse(joined[row].tolist(), f"{where(number)} of object {inside}", self.wanted)
        return joined.astype(_TYPES[self.kind])

    def _good(self, array: NDArray[Any]) -> NDArray[np.bool_]:
        good = np.ones(len(array), dtype=bool)
        if array.dtype.kind == "f":
            flat = array.reshape(len(array), -1)
            finite = np.isfinite(flat).all(1)
            known = finite | np.isnan(flat).all(1) if self.unknown else finite
            good &= known
            if self.kind == "whole":
                good &= (flat == np.floor(flat)).all(1)
        if self.rule is not None and good.any():
            good[good] &= self.rule(array[good])
        return good


@dataclass(frozen=True)
class Maybe:
    """Null, or the field."""

    field: Any

    @property
    def wanted(self) -> str:
        return f"{self.field.wanted}, or null"

    def check(self, value: Any, where: str) -> Any:
        return None if value is None else self.field.check(value, where)


@dataclass(frozen=True)
class Each:
    """A list whose items are all of one kind."""

    item: Any
    wanted: str = "a list"
    least: int = 0

    def check(self, value: Any, where: str) -> list[Any]:
        if not isinstance(value, (list, tuple)) or len(value) < self.least:
            raise refuse(value, where, self.wanted)
        return [self.item.check(item, f"{where}[{number}]") for number, item in enumerate(value)]


@dataclass(frozen=True)
class Named:
    """A mapping from names to values of one kind. ``names``: the only ones there are."""

    item: Any
    wanted: str = "a mapping of names"
    names: tuple[str, ...] = ()
    complete: bool = False  # each of ``names`` is there

    def check(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise UserError(f"{where} is no object of {self.wanted.replace('a mapping of ', '', 1)}; it is {shown(value)}")
        if self.names:
            unknown_keys(value, self.names, where)
        missing = [name for name in self.names if name not in value] if self.complete else []
        if missing:
            raise UserError(f"{where} lacks {', '.join(missing)}")
        return {name: self.item.check(item, f"{where}: {name}") for name, item in value.items()}


@dataclass(frozen=True)
class Record:
    """A mapping with known keys. ``others``: keys of other programs may stand beside them."""

    required: Mapping[str, Any] = field(default_factory=dict)
    optional: Mapping[str, Any] = field(default_factory=dict)
    wanted: str = "a mapping"
    others: bool = False

    def check(self, value: Any, where: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            raise refuse(value, where, self.wanted)
        known = {**self.required, **self.optional}
        if not self.others:
            unknown_keys(value, known, where)
        missing = [key for key in self.required if key not in value]
        if missing:
            raise UserError(f"{where} lacks {', '.join(missing)}; needed is {self.wanted}")
        return {key: known[key].check(item, f"{where}: {key}") if key in known else item for key, item in value.items()}


def unknown_keys(value: Iterable[Any], known: Iterable[str], where: str) -> None:
    """UserError for the first key that nobody reads, with the name that was probably meant."""
    names = list(known)
    for key in value:
        if key not in names:
            hint = nearest(key, names) or f"; known are {', '.join(names)}"
            raise UserError(f"{where} has the unknown key {shown(key)}{hint}")


def column(records: Sequence[Any], path: Sequence[str], kind: Any, where: Where) -> Any:
    """One key of all records, checked: an array [n, *shape] where ``kind`` is an Array, else a list.

    path: the keys that lead to the value. where: what a message calls record n. A key that is absent is a UserError, too.
    """
    try:
        values = records
        for key in path:
            values = [value[key] for value in values]
    except (KeyError, TypeError, IndexError):
        values = [_at(record, path, where(number)) for number, record in enumerate(records)]
    stacked = kind.stack(values)
    if stacked is not None:
        return stacked
    name = ": ".join(path)
    checked = [kind.check(value, f"{where(number)}: {name}") for number, value in enumerate(values)]
    # Each alone is good, only their types differ, as int and float do.
    return np.stack(checked) if isinstance(kind, Array) else checked


def _at(record: Any, path: Sequence[str], where: str) -> Any:
    value, place = record, where
    for key in path:
        if not isinstance(value, Mapping):
            raise refuse(value, place, f"a mapping with {key}")
        if key not in value:
            raise UserError(f"{place} lacks {key}")
        value, place = value[key], f"{place}: {key}"
    return value


def duplicates(values: Sequence[Any]) -> tuple[int, int] | None:
    """Positions of two equal values, or None."""
    if len(set(values)) == len(values):
        return None
    first: dict[Any, int] = {}
    for number, value in enumerate(values):
        if value in first:
            return first[value], number
        first[value] = number
    return None
