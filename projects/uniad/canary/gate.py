"""Canaries before a TensorRT engine is built: what is wrong here, whether it concerns the graph, and what to do about it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from uniad.canary.bench import Bench, Say, run_cached
from uniad.canary.benches import open_bench, run_isolated
from uniad.canary.catalog import concerned
from uniad.canary.judge import CanarySet, Result, checked_entry
from uniad.canary.sets import facts_of, write_set


def check_target(onnx_path: str | Path, backend: str, cache: str | Path | None, say: Say = print) -> dict[str, Any]:
    """Runs the canaries on this machine's back end, or reads what it gave before from ``cache``; returns the entry for a card.

    Raises UserError, with the setting that avoids it, where one is wrong that concerns the graph. What else is wrong is said.
    """
    touched = concerned(facts_of(onnx_path))
    with tempfile.TemporaryDirectory(prefix="canaries-") as made:
        canaries = write_set(made)
        result = run_here(open_bench(backend), canaries, Path(cache) if cache else None, say)
    return checked_entry(canaries, result, touched, str(onnx_path), say)


def run_here(
    bench: Bench,
    canaries: CanarySet,
    cache: Path | None = None,
    say: Say = print,
    each: Callable[[str], None] = lambda name: None,
) -> Result:
    """``each``: told the name of a canary before it is built, where that takes a while."""
    return run_cached(bench, canaries, cache, say, lambda: run_isolated(bench, canaries, each))
