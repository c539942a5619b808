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
    are not empty. Within a step the candidate is one number, so running sums over the bins give every divergence at once.
    """
    counts = bins.astype(np.float64)
    counts[0] = counts[1]  # zeros, of which a ReLU makes any number, are exact in int8 whatever the scale is
    total = counts.sum()
    if not total:
        return len(counts)
    last = int(np.flatnonzero(counts)[-1]) + 1
    kept_K = np.arange(min(QUANTISED_BINS, last), last + 1)
    below = _running(counts)
    kept_K = kept_K[below[kept_K] > 0]
    edges_KS = -(-np.arange(QUANTISED_BINS + 1) * kept_K[:, None] // QUANTISED_BINS)  # first bin of each step
    mass_KS = np.diff(below[edges_KS])
    share_KS = np.diff(_running(counts > 0)[edges_KS])
    inside_K = below[kept_K]
    level_KS = np.log(np.where(share_KS > 0, mass_KS, 1.0) / np.maximum(share_KS, 1) / inside_K[:, None])  # of the candidate
    edge_K = counts[kept_K - 1]  # before what lies beyond is clipped into it
    clipped_K = edge_K + total - inside_K
    entropy = _running(counts * np.log(np.maximum(counts, 1.0)))[kept_K - 1] - (inside_K - edge_K) * np.log(total)
    at_edge_K = np.where(edge_K > 0, level_KS[:, -1], np.log(1e-12))
    clipped = clipped_K * (np.log(np.maximum(clipped_K, 1.0) / total) - at_edge_K)
    divergence = entropy - (mass_KS * level_KS).sum(1) + edge_K * level_KS[:, -1] + clipped
    return int(kept_K[divergence.argmin()])


def _running(values: NDArray) -> NDArray[np.float64]:
    """Sums of the first 0, 1, ... values."""
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
