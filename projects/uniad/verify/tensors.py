"""How far one tensor is from another, whatever it means: what locating a fault compares inside a graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from uniad.errors import UserError
from uniad.verify.tolerances import TOLERANCES


class Limits(NamedTuple):
    rms: float
    max: float
    flips: float

    @classmethod
    def of(cls, precision: str) -> Limits:
        row = TOLERANCES[precision]
        return cls(row.tensor_rms, row.tensor_max, row.tensor_flips)


@dataclass(frozen=True)
class Difference:
    """How far a tensor of the candidate is from the reference's."""

    rms: float  # root mean square of the difference over the reference's own
    max: float  # largest difference over the reference's largest value
    flips: float  # of whole numbers and truths: share that differs
    reference_max: float  # largest absolute value
    candidate_max: float  # the same, of what is finite
    infinite: int  # elements that are infinite, or not a number, where the reference's are finite
    nan: int

    def over(self, limit: Limits) -> float:
        """How many times it is over the limit; above 1 it departs."""
        if self.infinite or self.nan:
            return math.inf
        return max(self.rms / limit.rms, self.max / limit.max, self.flips / limit.flips)

    def __str__(self) -> str:
        if self.infinite or self.nan:
            parts = [f"{n} {what}" for n, what in ((self.infinite, "infinite"), (self.nan, "not a number")) if n]
            return " and ".join(parts)
        if self.flips:
            return f"{100 * self.flips:.2g} % differ"
        return f"off by {self.rms:.2g} (worst {self.max:.2g})" if self.rms else "equal"


def difference(got: np.ndarray, want: np.ndarray) -> Difference:
    """Compare one tensor. Raises UserError when shapes differ: then the graphs do not correspond."""
    if got.shape != want.shape:
        raise UserError(f"a tensor has shape {got.shape} in one graph and {want.shape} in the other: they do not correspond")
    if want.dtype.kind != "f":
        flips = float((got != want.astype(got.dtype)).mean()) if want.size else 0.0
        return Difference(0.0, 0.0, flips, _largest(want), _largest(got), 0, 0)
    got, want = got.astype(np.float32, copy=False), want.astype(np.float32, copy=False)
    good = np.isfinite(want)
    nan, infinite = int((np.isnan(got) & good).sum()), int((np.isinf(got) & good).sum())
    both = good & np.isfinite(got)
    g, w = (got, want) if both.all() else (got[both], want[both])
    delta = np.subtract(g, w, dtype=np.float64)
    own = float(np.sqrt(np.mean(np.square(w, dtype=np.float64)))) if w.size else 0.0
    off = float(np.sqrt(np.mean(np.square(delta)))) if w.size else 0.0
    range_, worst = _largest(w), _largest(delta)
    return Difference(_share(off, own), _share(worst, range_), 0.0, _largest(want[good]), _largest(g), infinite, nan)


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values.astype(np.float64, copy=False)).max()) if values.size else 0.0


def _share(part: float, whole: float) -> float:
    return part / max(whole, 1e-6) if part else 0.0  # a tensor of zeros has no scale of its own
