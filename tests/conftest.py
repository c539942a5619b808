"""Fixtures that every test may use. Golden data is optional: a test that needs it is skipped where it is absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parent.parent

# Tests share two cores; a library that starts a thread per core makes every test slower, not faster.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")


def golden_dir() -> Path | None:
    """Folder with numbers recorded from the documented implementation, or None where this machine has none."""
    path = Path(os.environ.get("UNIAD_GOLDEN", REPO.parent / "shared" / "golden"))
    return path if (path / "weight_rule.py").is_file() else None


@pytest.fixture(scope="session")
def golden() -> Path:
    """Path of the golden data; skips the test where it is absent (set UNIAD_GOLDEN to its folder)."""
    path = golden_dir()
    if path is None:
        pytest.skip("golden data absent: set UNIAD_GOLDEN to the folder that holds weight_rule.py")
    return path


@pytest.fixture(scope="session")
def repo() -> Path:
    """Root of the checkout."""
    return REPO
