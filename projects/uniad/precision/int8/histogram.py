"""How far the numbers of a tensor reach, over any number of frames in constant memory, and where to cut them off."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from uniad.errors import UserError

BINS = 2048
SAMPLED = 1 << 18  # elements of a tensor and frame that are counted; the largest is always found among all
QUANTISED_BINS = 128  # steps of magnitude that int8 tells apart
METHODS = ("percentile", "entropy", "minmax")


class Magnitudes:
    """Histogram of absolute values. Its range doubles when a larger one comes, which merges neighbouring bins exactly."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.range = 0.0
        self.largest = 0.0

    def add(self, values: NDArray[np.float32]) -> None:
        """One frame's values of the tensor, any shape."""
        flat = np.abs(values.ravel())
        largest = float(flat.max(initial=0.0))
        if not np.isfinite(largest):
            raise UserError("a value is not finite")
        self.largest = max(self.largest, largest)
        some = flat[:: -(-flat.size // SAMPLED) | 1]  # an odd stride, so that it does not follow channels
        if self.largest == 0:  # nothing but zeros until now, which lie in the first bin of any range
            self.counts[0] += some.size
            return
        if self.range == 0:
            self.range = largest
        while self.range < largest:
            self.counts = np.concatenate([self.counts.reshape(-1, 2).sum(1), np.zeros(BINS // 2, np.int64)])
            self.range *= 2
        self.counts += np.bincount(np.minimum((some * (BINS / self.range)).astype(np.int32), BINS - 1), minlength=BINS)

    def limit(self, method: str, percentile: float = 99.99) -> float:
        """The magnitude that is to be the last step of int8."""
        if method == "minmax" or self.largest == 0:
            return self.largest
        if method == "percentile":
            below = np.searchsorted(np.cumsum(self.counts), self.counts.sum() * percentile / 100)
            return float(min((below + 1) * self.range / BINS, self.largest))
        if method == "entropy":
            return float(min(_least_divergence(self.counts) * self.range / BINS, self.largest))
        raise UserError(f"calibration method {method!r}: choose one of {', '.join(METHODS)}")


def _least_divergence(bins: NDArray[np.int64]) -> int:
    """How many bins to keep so that what int8 makes of them says most of what they were (Kullback-Leibler, as TensorRT has it).

    The reference clips what lies beyond into the last kept bin; the candidate spreads each of 128 equal steps over its bins that
    are not empty.
    """
    counts = bins.astype(np.float64)
    counts[0] = counts[1]  # zeros, of which a ReLU makes any number, are exact in int8 whatever the scale is
    total = counts.sum()
    if not total:
        return len(counts)
    best, least = len(counts), np.inf
    last = int(np.flatnonzero(counts)[-1]) + 1
    for kept in range(min(QUANTISED_BINS, last), last + 1):
        sliced = counts[:kept]
        reference = sliced.copy()
        reference[-1] += total - sliced.sum()
        step = np.minimum(np.arange(kept) * QUANTISED_BINS // kept, QUANTISED_BINS - 1)
        filled = sliced > 0
        mass = np.bincount(step, sliced, QUANTISED_BINS)
        share = np.bincount(step, filled, QUANTISED_BINS)
        spread = np.where(filled, (mass / np.maximum(share, 1))[step], 0.0)
        if not spread.sum():
            continue
        p, q = reference / total, spread / spread.sum()
        seen = p > 0
        divergence = float(np.sum(p[seen] * np.log(p[seen] / np.maximum(q[seen], 1e-12))))
        if divergence < least:
            best, least = kept, divergence
    return best
