"""What tests share: `from helpers.specs import nano_spec`. Test files do not import each other (tests/unit/test_test_tree.py)."""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
REPO = TESTS.parent
