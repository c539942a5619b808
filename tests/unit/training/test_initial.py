"""A stage starts from the checkpoint that its config names, and everything that this cannot give is accounted for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers import REPO
from helpers.specs import edit, nano_spec, tiny_spec
from uniad.config.spec import from_scratch
from uniad.errors import UserError
from uniad.models.uniad import UniAD
from uniad.training.initial import OBJECT_QUERIES, adapt_bevformer, load_initial

TOOL = REPO / "tools/postprocess_bevformer_tiny_epoch_24_pth.py"
NEW_IN_STAGE_1 = ("seg_head.", "query_interact.", "memory_bank.", "pts_bbox_head.past_traj_reg_branches.", "criterion.")


@pytest.fixture(scope="module")
def spec():
    # as small as the real wiring allows
    return nano_spec(model__bev__num_layers=1, model__decoder__num_layers=2)


def bevformer_weights(spec) -> OrderedDict[str, Tensor]:
    """What a BEVFormer checkpoint for this model holds, with a value by which a test knows it again."""
    torch.manual_seed(1)
    state = OrderedDict(
        (k, torch.randn_like(v) if v.is_floating_point() else v) for k, v in UniAD(spec.model).state_dict().items()
    )
    state = OrderedDict((k, v) for k, v in state.items() if not k.startswith(NEW_IN_STAGE_1))
    state[OBJECT_QUERIES] = state.pop("query_embedding.weight")[:-1]
    for name in ("weight", "bias"):
        state[f"pts_bbox_head.transformer.reference_points.{name}"] = state.pop(f"reference_points.{name}")
    return state


def test_stage_1_starts_from_bevformer_and_reports_every_difference(tmp_path, spec):
    weights = bevformer_weights(spec)
    torch.save({"meta": {"epoch": 24}, "state_dict": weights}, tmp_path / "bevformer.pth")
    model = UniAD(spec.model)
    output = []
    report = load_initial(model, edit(spec, train__load_from=str(tmp_path / "bevformer.pth")), output.append)
    queries = model.query_embedding.weight
    assert torch.equal(queries[:-1], weights[OBJECT_QUERIES]) and torch.equal(queries[-1], queries[-2])
    assert torch.equal(model.reference_points.bias, weights["pts_bbox_head.transformer.reference_points.bias"])
    assert report.unexpected == (OBJECT_QUERIES,) and len(report.reshaped) == 3
    assert report.missing and all(name.startswith(NEW_IN_STAGE_1 + ("pts_bbox_head.code_weights",)) for name in report.missing)
    (line,) = output
    assert "missing (allowed): seg_head.*" in line and f"{len(queries) - 1} -> {len(queries)} rows" in line


def test_bevformer_of_another_backbone_is_refused(tmp_path, spec):
    weights = bevformer_weights(spec)
    weights["img_backbone.layer3.0.conv2.conv_offset.weight"] = torch.zeros(27, 1)
    torch.save({"state_dict": weights}, tmp_path / "bevformer.pth")
    with pytest.raises(UserError, match=r"conv_offset\.weight\), they would be lost without a word"):
        load_initial(UniAD(spec.model), edit(spec, train__load_from=str(tmp_path / "bevformer.pth")), print)


def test_absent_weights_say_how_to_get_them_or_do_without(spec):
    with pytest.raises(UserError, match="not found: get them as docs/training.md says .* or train without them: --from-scratch"):
        load_initial(UniAD(spec.model), edit(spec, train__load_from="ckpts/none.pth"), print)

    with pytest.raises(UserError, match="not found: train stage 1 first: make train-stage1 promote"):
        load_initial(UniAD(spec.model), edit(spec, stage=2, train__load_from="ckpts/none.pth"), print)


def test_a_frozen_backbone_without_weights_is_refused(spec):
    frozen = edit(spec, model__freeze__img_backbone=True, train__load_from=None)
    with pytest.raises(UserError, match="would stay random: set load_from, or train everything with --from-scratch"):
        load_initial(UniAD(spec.model), frozen, print)


def test_upstream_tiny_freezes_its_backbone_and_from_scratch_frees_backbone_and_norms():
    with torch.device("meta"):
        upstream, free = UniAD(tiny_spec().model), UniAD(from_scratch(tiny_spec()).model)
    assert not any(p.requires_grad for p in upstream.img_backbone.parameters())
    assert all(p.requires_grad for p in upstream.img_neck.parameters())
    assert all(p.requires_grad for p in free.img_backbone.parameters())
    norms = [m for m in upstream.train().img_backbone.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert norms and not any(m.training for m in norms)
    assert all(m.training for m in free.train().img_backbone.modules())


def tool(*args: object, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, TOOL, *map(str, args)], cwd=cwd, capture_output=True, text=True)


def test_upstream_post_processing_keeps_its_default_names(tmp_path):
    (tmp_path / "ckpts").mkdir()
    weights = {OBJECT_QUERIES: torch.randn(900, 512), "pts_bbox_head.transformer.reference_points.weight": torch.randn(3, 256)}
    torch.save({"meta": {"epoch": 24}, "state_dict": weights, "optimizer": {}}, tmp_path / "ckpts/bevformer_tiny_epoch_24.pth")
    done = tool(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    content = torch.load(tmp_path / "ckpts/bevformer_tiny_epoch_24_updated2.pth", weights_only=True)
    state = content["state_dict"]
    assert state["query_embedding.weight"].shape == (901, 512)
    assert torch.equal(state["query_embedding.weight"][900], weights[OBJECT_QUERIES][899])
    assert torch.equal(state["reference_points.weight"], weights["pts_bbox_head.transformer.reference_points.weight"])
    assert content["meta"] == {"epoch": 24}
    again = tool("ckpts/bevformer_tiny_epoch_24_updated2.pth", "x.pth", cwd=tmp_path)
    assert again.returncode == 2 and "has been post-processed" in again.stderr and not (tmp_path / "x.pth").exists()


def test_post_processing_does_what_loading_does(tmp_path, spec):
    """The script stands alone, so it says again what load_initial knows."""
    weights = bevformer_weights(spec)
    torch.save({"state_dict": OrderedDict((f"module.{name}", value) for name, value in weights.items())}, tmp_path / "raw.pth")
    done = tool("raw.pth", "made.pth", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    made = torch.load(tmp_path / "made.pth", weights_only=True)["state_dict"]
    lines = adapt_bevformer(weights)
    assert done.stdout.splitlines()[:-1] == lines and list(made) == list(weights)
    assert all(torch.equal(made[name], value) for name, value in weights.items())


def test_post_processing_runs_no_code_of_the_file(tmp_path):
    torch.save({"state_dict": {"x": os.getcwd}}, tmp_path / "bad.pth")
    done = tool("bad.pth", "made.pth", cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "holds Python objects (posix.getcwd)" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bad.pth"]


def test_post_processing_says_what_is_missing(tmp_path):
    done = tool(cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ckpts/bevformer_tiny_epoch_24.pth not found") and done.stderr.count("\n") == 1
