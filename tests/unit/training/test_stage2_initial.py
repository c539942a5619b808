"""The second stage starts from the first's checkpoint, and says what is wrong with any other file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from helpers.clips import anchors
from helpers.specs import edit, full_spec, nano_spec, tiny_spec
from uniad.data.anchors import save_motion_anchors
from uniad.errors import UserError
from uniad.models.uniad import UniAD
from uniad.training.build import build_model
from uniad.training.checkpoint import load_checkpoint
from uniad.training.initial import load_initial

NEW = ("motion_head.", "occ_head.", "planning_head.")
SMALL = {"model__bev__num_layers": 1, "model__decoder__num_layers": 2}


@pytest.fixture(scope="module")
def spec1():
    return nano_spec(**SMALL)


@pytest.fixture(scope="module")
def spec2():
    return nano_spec(2, **SMALL, model__stage2__motion__det_layers=2)


@pytest.fixture(scope="module")
def model1(spec1) -> UniAD:
    torch.manual_seed(1)
    return UniAD(spec1.model)


@pytest.fixture
def model2(spec2) -> UniAD:
    torch.manual_seed(2)
    return UniAD(spec2.model, anchors(spec2.model))


def save(model: UniAD, path: Path) -> str:
    torch.save({"meta": {"epoch": 6}, "state_dict": model.state_dict()}, path)
    return str(path)


def test_only_the_new_heads_are_missing_when_stage_2_starts_from_stage_1(tmp_path, spec2, model1, model2) -> None:
    output: list[str] = []
    source = save(model1, tmp_path / "stage1.pth")
    report = load_initial(model2, edit(spec2, train__load_from=source), output.append)
    own = model2.state_dict()
    assert set(report.missing) == {name for name in own if name.startswith(NEW)}
    assert not report.unexpected and not report.reshaped and set(report.loaded) == set(model1.state_dict())
    for name, value in model1.state_dict().items():
        assert torch.equal(own[name], value), name
    (line,) = output
    assert "missing (allowed): " in line and line.count("_head.* ") == 3 and ", 0 unexpected (ignored), 0 reshaped" in line


def test_a_stage_1_checkpoint_is_not_a_trained_stage_2(tmp_path, spec2, model1, model2) -> None:
    with pytest.raises(UserError, match="is of stage 1, nano_e2e is stage 2: choose a stage-2 checkpoint .*make train-stage2"):
        load_checkpoint(model2, save(model1, tmp_path / "x.pth"), name=spec2.name)


def test_a_stage_2_checkpoint_is_refused_by_a_stage_1_config(tmp_path, spec1, model1, model2) -> None:
    with pytest.raises(UserError, match="is of stage 2, nano_track_map is stage 1 and would lose .*: choose a config in stage2"):
        load_checkpoint(model1, save(model2, tmp_path / "x.pth"), name=spec1.name)


def test_another_variant_s_checkpoint_is_named_by_its_size_not_by_its_stage(tmp_path, model2) -> None:
    with torch.device("meta"):
        tiny = UniAD(tiny_spec().model)
    torch.save({"state_dict": {k: torch.zeros(v.shape) for k, v in tiny.state_dict().items()}}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="has BEV features of width 256, .* needs 128; is this a tiny checkpoint"):
        load_checkpoint(model2, tmp_path / "x.pth")


def test_stage_2_may_go_on_from_a_stage_2_checkpoint(tmp_path, spec2, model2) -> None:
    source = save(model2, tmp_path / "stage2.pth")
    report = load_initial(model2, edit(spec2, train__load_from=source), lambda line: None)
    assert not report.missing and not report.unexpected


def test_missing_anchors_name_the_target_that_makes_them(spec2, tmp_path) -> None:
    path = tmp_path / "none.pkl"
    with pytest.raises(UserError, match=r"none\.pkl are missing: `make anchors` makes them"):
        build_model(edit(spec2, model__stage2__motion__anchor_path=str(path)))
    save_motion_anchors(path, anchors(spec2.model).double().numpy(), spec2.model.stage2.motion, spec2.data.class_names)
    model = build_model(edit(spec2, model__stage2__motion__anchor_path=str(path)))
    torch.testing.assert_close(model.motion_head.anchors, anchors(spec2.model))


@pytest.mark.parametrize("name", ["tiny", "base"])
def test_an_upstream_stage_2_checkpoint_loads_strictly(name: str, golden: Path, tmp_path: Path) -> None:
    """Every name and shape of upstream has its place; none is missing, none left over."""
    spec = {"tiny": tiny_spec, "base": full_spec}[name](2)
    with torch.device("meta"):
        model = UniAD(spec.model, anchors(spec.model))
    model = model.to_empty(device="cpu")
    entries = json.loads((golden / f"state_dict_{name}_stage2.json").read_text())
    state = {key: torch.zeros((), dtype=getattr(torch, dtype)).expand(shape) for key, shape, dtype, _ in entries}
    torch.save({"meta": {"epoch": 20}, "state_dict": state}, tmp_path / "upstream.pth")
    report = load_checkpoint(model, tmp_path / "upstream.pth", name=spec.name, say=None)
    assert len(report.loaded) == len(entries) and not report.missing and not report.unexpected and not report.reshaped
