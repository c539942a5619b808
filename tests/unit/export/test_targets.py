"""Which graph each TensorRT gets: what its parser reads, and a way of sampling that it compiles right."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn

import export_onnx
from helpers.specs import config_path
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


class Exported(Exception):
    pass


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What tools/export_onnx.py asks the exporter for; nothing is loaded, recorded or written."""

    class Frames(list):
        table = None

    def stop(model, contract, path, **asked):
        raise Exported(asked)

    for place, stand_in in {
        "training.carried.load_trained": lambda *_: (nn.Identity(),), "training.checkpoint.read_checkpoint": lambda _: {},
        "training.checkpoint.is_random": lambda _: False, "data.dataset.SceneStream": lambda *_, **__: Frames([None]),
        "data.rig.check_dataset_rigs": lambda *_: None, "artifacts.sequence.record": lambda *_: 1,
        "export.to_onnx.export_onnx": stop,
    }.items():  # fmt: skip
        monkeypatch.setattr(f"uniad.{place}", stand_in)

    def run(*words: str) -> SimpleNamespace:
        out = tmp_path / "a.onnx"
        monkeypatch.setattr(sys, "argv", ["export_onnx.py", str(config_path("nano", 1)), "some.pth", "--out", str(out), *words])
        with pytest.raises(Exported) as asked:
            export_onnx.main()
        assert list(tmp_path.iterdir()) == [], "a graph that did not come leaves nothing"
        return SimpleNamespace(**asked.value.args[0])

    return run


@pytest.mark.parametrize("name", TARGETS)
def test_the_command_exports_what_the_release_takes_and_what_was_asked_for_wins(export, name):
    row = TARGETS[name]
    got = export("--trt", name)
    assert (got.opset, got.sampling, got.plain_layer_norm) == (row.opset, row.sampling, row.plain_layer_norm)
    got = export("--trt", name, "--sampling", "plugin", "--opset", "19")
    assert (got.opset, got.sampling, got.plain_layer_norm) == (19, "plugin", row.plain_layer_norm)


def test_where_no_release_is_named_the_graph_is_the_one_that_most_take(export):
    got = export()
    assert (got.opset, got.sampling, got.plain_layer_norm) == (17, "gridsample", False)
