from __future__ import annotations

from pathlib import Path

import pytest

from helpers import recorded_ops, specs
from helpers.recorded import golden_dir
from uniad.config.spec import DataSpec


@pytest.fixture(scope="session", params=["extract", "golden"])
def ops(request):
    """Recorded data operations, from the committed extract and from the golden data."""
    if request.param == "extract":
        return recorded_ops.load(None)
    golden = golden_dir()
    if golden is None:
        pytest.skip("golden data absent: set UNIAD_GOLDEN to the folder that holds weight_rule.py")
    return recorded_ops.load(golden)


@pytest.fixture(scope="session")
def data_spec(synthetic_root: Path, synthetic_infos: Path) -> DataSpec:
    """UniAD-tiny's data on the tiny synthetic world."""
    return specs.edit(
        specs.tiny_spec().data,
        data_root=str(synthetic_root),
        ann_file_train=str(synthetic_infos / "nuscenes_infos_temporal_train.pkl"),
        ann_file_val=str(synthetic_infos / "nuscenes_infos_temporal_val.pkl"),
        workers_per_gpu=0,
    )
