"""Which graph each TensorRT gets: what its parser reads, and a way of sampling that it compiles right."""

from __future__ import annotations

from uniad.engines.jetpack import JETPACKS
from uniad.export.to_onnx import SAMPLINGS, TARGETS


def test_gather_where_grid_sample_may_be_miscompiled_and_grid_sample_elsewhere():
    """TensorRT 10.13 to 11.1 miscompile GridSample in deformable attention on some GPUs; elsewhere it is the faster one."""
    assert {name: target.sampling for name, target in TARGETS.items()} == {
        "8.5": "gridsample", "8.6": "gridsample", "10.3": "gridsample", "10.13": "gather", "10.16": "gather", "11": "gather",
        "rtx": "gridsample",
    }  # fmt: skip
    assert {target.sampling for target in TARGETS.values()} <= set(SAMPLINGS)


def test_only_the_oldest_parser_gets_the_oldest_opset_and_norms_spelled_out():
    assert {name: (target.opset, target.plain_layer_norm) for name, target in TARGETS.items()} == {
        name: (16, True) if name == "8.5" else (17, False) for name in TARGETS
    }


def test_a_jetpack_gets_the_graph_of_its_own_tensorrt():
    for row in JETPACKS:
        assert row.target == row.tensorrt in TARGETS
        assert any(f"JetPack {row.name.split('/')[0]}" in text for text in [TARGETS[row.target].why]), row
