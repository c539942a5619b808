"""Benchmarks run in the tree's environment, as tools do: see tools/_environment.py."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))
import _environment  # noqa: E402, F401
