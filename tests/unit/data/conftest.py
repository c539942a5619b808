from __future__ import annotations

import pytest

from tests.conftest import golden_dir
from tests.unit.data import recorded_ops


@pytest.fixture(scope="session", params=["extract", "golden"])
def ops(request):
    """Recorded data operations, from the committed extract and from the golden data."""
    if request.param == "extract":
        return recorded_ops.load(None)
    golden = golden_dir()
    if golden is None:
        pytest.skip("golden data absent: set UNIAD_GOLDEN to the folder that holds weight_rule.py")
    return recorded_ops.load(golden)
