from __future__ import annotations

from pathlib import Path

import pytest

from helpers.make_tree import Tree, lay_tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    """As after the first make; test_machine.py has one that was not configured."""
    return lay_tree(tmp_path, configured=True)
