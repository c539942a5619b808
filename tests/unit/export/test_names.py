"""Exported graphs carry upstream's names, in the script and in make alike."""

from __future__ import annotations

import pytest

from helpers.specs import config_path
from uniad.config.read import load_spec
from uniad.export.names import onnx_name

NAMES = {"tiny": "uniad_tiny_imgx0.25_cp.onnx", "full": "uniad_full_cp.onnx", "nano": "uniad_nano_cp.onnx"}


@pytest.mark.parametrize("variant", NAMES)
def test_the_end_to_end_graph_of_an_export_config_has_its_upstream_name(variant: str) -> None:
    config = config_path(variant, 2)
    spec = load_spec(config.with_name(f"{config.stem}_trt_p.py"))
    assert spec.stage == 2 and spec.model.stage2 is not None
    assert onnx_name(spec) == NAMES[variant]
    assert onnx_name(load_spec(config_path(variant))) == f"uniad_{variant}_track_map.onnx"
