"""Precisions of graphs and engines. Travels to Jetsons: Python 3.8, no package."""

from __future__ import annotations

from uniad.errors import UserError

PRECISIONS = ("fp32", "fp16", "int8")


def check_precision(precision: str) -> None:
    """Raises UserError for a precision that there is not."""
    if precision not in PRECISIONS:
        raise UserError(f"precision {precision}: choose one of {', '.join(PRECISIONS)}")
