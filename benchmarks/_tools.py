"""Benchmarks run in the tree's environment, as tools do: see tools/_environment.py."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))
import _environment  # noqa: E402, F401


def write_rows(path: Path | None, rows: Any) -> None:
    """What was measured, as JSON, where somebody named a file for it."""
    if path is not None:
        path.write_text(json.dumps(rows, indent=1) + "\n")
