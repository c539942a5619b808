"""Samples into batches: sets of any size into fixed slots, clips into one more axis."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uniad.interface.types import Clip

_warned: set[str] = set()


def choose_slots(distance: NDArray[np.floating], capacity: int, what: str, setting: str) -> NDArray[np.int64]:
    """Which of n elements fill ``capacity`` slots, in their own order: all, or the nearest, with one warning per process."""
    if len(distance) <= capacity:
        return np.arange(len(distance))
    if what not in _warned:
        _warned.add(what)
        warnings.warn(
            f"{len(distance)} {what} in one frame, {capacity} slots: the farthest are left out; raise {setting}", stacklevel=2
        )
    return np.sort(np.argsort(distance, kind="stable")[:capacity])


def fill(array: NDArray, capacity: int, value: float = 0) -> NDArray:
    """An array [n, ...] as [capacity, ...], the rest set to ``value``."""
    out = np.full((capacity, *array.shape[1:]), value, dtype=array.dtype)
    out[: len(array)] = array
    return out


def collate(samples: Sequence[Clip]) -> Clip:
    """Clips without a batch axis -> one with B = number of samples first. ``meta`` becomes a list of B lists of T dicts."""
    frames, targets = (stack([getattr(sample, part) for sample in samples]) for part in ("frames", "targets"))
    return Clip(frames, targets, [sample.meta for sample in samples])


def stack(values: Sequence[Any]) -> Any:
    """Named tuples of tensors, nested, as one with one more axis in front. What is None in the first is None."""
    first = values[0]
    if first is None or isinstance(first, Tensor):
        return None if first is None else torch.stack(list(values))
    return type(first)(*(stack(column) for column in zip(*values)))
