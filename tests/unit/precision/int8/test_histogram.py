"""Magnitudes over any number of frames, and where they are cut off."""

from __future__ import annotations

import numpy as np
import pytest

from uniad.errors import UserError
from uniad.precision.int8.histogram import BINS, METHODS, SAMPLED, Magnitudes


def of(*frames: np.ndarray) -> Magnitudes:
    found = Magnitudes()
    for frame in frames:
        found.add(frame.astype(np.float32))
    return found


def test_minmax_keeps_the_largest_magnitude_of_all_frames() -> None:
    assert of(np.array([1.0, -2.0]), np.array([[-9.5]]), np.array([3.0])).limit("minmax") == 9.5


def test_the_largest_is_found_among_elements_that_are_not_counted() -> None:
    values = np.zeros(4 * SAMPLED)
    values[1] = -7.0
    assert of(values).largest == 7.0


def test_a_percentile_does_not_follow_an_outlier_and_is_within_a_bin() -> None:
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, 100_000)
    found = of(values, np.array([50.0]))
    assert 0.98 < found.limit("percentile", 99) < 0.99 + 2 * found.range / BINS
    assert found.limit("percentile", 100) == 50.0


def test_a_range_that_grows_from_frame_to_frame_loses_no_count() -> None:
    frames = [np.random.default_rng(i).normal(size=1000) * 3.0**i for i in range(8)]
    grown, at_once = of(*frames), of(*frames[::-1])
    assert grown.counts.sum() == at_once.counts.sum() == 8000
    assert grown.limit("percentile", 90) == pytest.approx(at_once.limit("percentile", 90), abs=4 * grown.range / BINS)


def test_zeros_count_alike_before_and_after_the_first_other_number() -> None:
    for size in (1000, 2 * SAMPLED, 4 * SAMPLED + 1):
        zeros, one = np.zeros(size), np.ones(1)
        assert np.array_equal(of(zeros, one).counts, of(one, zeros).counts), size


def test_entropy_cuts_the_tail_of_a_long_distribution_and_keeps_a_flat_one() -> None:
    rng = np.random.default_rng(0)
    long = of(np.concatenate([rng.normal(size=200_000), [40.0, -60.0]]))
    assert 2.5 < long.limit("entropy") < 20
    flat = of(rng.uniform(-5, 5, 200_000))
    assert flat.limit("entropy") > 4.5


def divergence(counts: np.ndarray, kept: int) -> float:
    """Of 128 steps over the first bins from all bins, bin by bin."""
    counts = counts.astype(float)
    counts[0] = counts[1]
    reference, candidate = counts[:kept].copy(), np.zeros(kept)
    reference[-1] += counts[kept:].sum()
    steps = np.minimum(np.arange(kept) * 128 // kept, 127)
    for step in range(128):
        members = (steps == step) & (counts[:kept] > 0)
        candidate[members] = counts[:kept][members].mean() if members.any() else 0
    p, q = reference / reference.sum(), np.maximum(candidate / candidate.sum(), 1e-12)
    return float(sum(p[i] * np.log(p[i] / q[i]) for i in np.flatnonzero(p)))


@pytest.mark.parametrize("values", ["normal", "relu", "few", "heavy", "narrow"])
def test_entropy_cuts_where_the_divergence_is_least(values: str) -> None:
    rng = np.random.default_rng(3)
    drawn = {
        "normal": rng.normal(size=4000),
        "relu": np.maximum(rng.normal(size=4000), 0),
        "few": np.repeat(rng.normal(size=5), 50),
        "heavy": rng.standard_t(2, size=4000),
        "narrow": rng.uniform(0, 0.04, 4000),  # all but one in fewer bins than there are steps
    }[values]
    found = of(np.append(drawn, 1.0) if values == "narrow" else drawn)
    if values == "narrow":
        found.counts[-1] = 0
    filled = int(np.flatnonzero(found.counts)[-1]) + 1
    chosen = min(round(found.limit("entropy") * BINS / found.range), filled)
    others = [
        kept for kept in (*range(min(128, filled), filled, 97), chosen - 1, filled) if found.counts[1:kept].any() and kept >= 128
    ]
    assert all(divergence(found.counts, chosen) <= divergence(found.counts, kept) + 1e-9 for kept in others)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_has_a_limit_of_zero(method: str) -> None:
    assert of(np.zeros(10), np.zeros((2, 3))).limit(method) == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_none_are_refused(bad: float) -> None:
    with pytest.raises(UserError, match="not finite"):
        of(np.array([1.0, bad]))


def test_an_unknown_method_is_refused_with_the_choices() -> None:
    with pytest.raises(UserError, match="percentile, entropy, minmax"):
        of(np.ones(3)).limit("average")
