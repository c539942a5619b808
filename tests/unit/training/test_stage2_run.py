"""A whole training run of stage 2 on clips that need no data set: it starts from stage 1, learns, stops and resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from helpers.clips import anchors
from helpers.fake_clips import fake_loader
from helpers.specs import edit, nano_spec
from helpers.training_runs import log_of, same_checkpoint
from uniad.config.spec import Spec
from uniad.data.anchors import save_motion_anchors
from uniad.errors import UserError
from uniad.models.uniad import UniAD
from uniad.training.options import Outcome, TrainOptions
from uniad.training.run import RunOptions, train

SIZES = {"data__max_objects": 8, "data__max_lanes": 4, "data__samples_per_gpu": 2, "data__image__height": 64,
         "data__image__width": 96, "model__bev__sca_capacity": 1.0, "train__log_interval": 1,
         "model__stage2__plan__image_patch": (4, 6)}  # fmt: skip


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    """Nano with anchors and a stage-1 checkpoint."""
    spec = nano_spec(2, **SIZES)
    torch.manual_seed(0)
    torch.save({"state_dict": UniAD(nano_spec().model).state_dict()}, tmp_path / "stage1.pth")
    path = tmp_path / "anchors.pkl"
    save_motion_anchors(path, anchors(spec.model).double().numpy(), spec.model.stage2.motion, spec.data.class_names)
    return edit(spec, model__stage2__motion__anchor_path=str(path), train__load_from=str(tmp_path / "stage1.pth"))


def run(spec: Spec, work_dir: Path, stop_after: int | None = None, **options) -> Outcome:
    chosen = TrainOptions(work_dir=work_dir, max_iters=2, stop_after=stop_after, tensorboard=False)
    return train(spec, RunOptions(train=chosen, device="cpu", **options), fake_loader)


@pytest.mark.slow
def test_stage_2_starts_learns_and_resumes_exactly(tmp_path: Path, spec: Spec, capsys) -> None:
    assert run(spec, tmp_path / "whole").finished
    assert not run(spec, tmp_path / "parts", stop_after=1).finished
    output = capsys.readouterr().err
    missing = output.split("missing (allowed): ")[1].split("unexpected")[0]
    assert "motion_head.* " in missing and "seg_head" not in missing
    assert run(spec, tmp_path / "parts").finished
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")
    same_checkpoint(tmp_path / "whole/latest.pth", tmp_path / "parts/latest.pth")

    line = json.loads((tmp_path / "whole/train.jsonl").read_text().splitlines()[-1])
    parts = {name.split(".")[0] for name in line if ".loss_" in name or "_loss_" in name}
    assert {"track", "map", "motion", "occ", "planning"} <= parts
    before = torch.load(tmp_path / "stage1.pth", weights_only=True)["state_dict"]
    after = torch.load(tmp_path / "whole/latest.pth", weights_only=True)["state_dict"]
    assert all(torch.equal(before[name], after[name]) for name in before), "nano's stage 2 leaves stage 1 alone"


@pytest.mark.slow
def test_stage_2_from_scratch_needs_no_checkpoint_and_trains_all(tmp_path: Path, spec: Spec, capsys) -> None:
    absent = edit(spec, train__load_from=str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="none.pth .* not found: train stage 1 first: make train-stage1 promote, or do without"):
        run(absent, tmp_path / "a")
    one_frame = edit(absent, model__queue_length=1, data__queue_length=1)
    assert run(one_frame, tmp_path / "b", from_scratch=True).finished
    output = capsys.readouterr().err
    assert "from scratch: no weights are loaded, not even stage 1's; backbone and norms of nano_e2e are trained" in output


def test_missing_anchors_end_a_run_in_one_line(tmp_path: Path, spec: Spec) -> None:
    with pytest.raises(UserError, match="are missing: `make anchors` makes them"):
        run(edit(spec, model__stage2__motion__anchor_path=str(tmp_path / "no.pkl")), tmp_path / "a")
