"""The random clips of benchmarks/train_step.py are clips that both stages learn from, at the sizes of a data set's."""

from __future__ import annotations

import runpy
import sys
from types import SimpleNamespace

import pytest
import torch

from helpers import REPO
from helpers.clips import small_spec, small_stage2_spec
from helpers.specs import CONFIGS, edit, nano_spec
from uniad.config.read import load_spec
from uniad.errors import UserError
from uniad.losses.criterion import Criterion, total_loss
from uniad.training.clip import ClipOptions, forward_clip
from uniad.training.distributed import World
from uniad.training.run import clip_loss

bench = SimpleNamespace(**runpy.run_path(str(REPO / "benchmarks" / "train_step.py")))
CPU = torch.device("cpu")


@pytest.mark.parametrize("stage", [1, 2])
def test_a_random_clip_goes_forward_and_back(stage: int) -> None:
    model_spec = small_spec() if stage == 1 else small_stage2_spec()
    spec = edit(nano_spec(stage), model=model_spec, data__image__height=64, data__image__width=96, data__max_objects=8)
    if stage == 2:
        spec = edit(spec, data__occ_xbound=model_spec.stage2.occ.xbound, data__occ_ybound=model_spec.stage2.occ.ybound)
    clip = bench.random_clip(spec, 2, 2, CPU, objects=5)
    model = bench.random_uniad(bench.with_frames(spec.model, 2)).train()
    losses, _ = forward_clip(model, clip, Criterion(spec.model), torch.Generator().manual_seed(0))
    total_loss(losses).backward()
    assert all(torch.isfinite(v) for v in losses.values())
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_stage_0_learns_from_a_random_clip_too() -> None:
    spec = load_spec(CONFIGS / "bevformer/nano_bevformer.py")
    spec = edit(spec, data__image__height=64, data__image__width=96, data__max_objects=8)
    clip = bench.random_clip(spec, 1, 2, CPU, objects=5)
    loss, model = clip_loss(spec, World(0, 1, 0, CPU), ClipOptions()), bench.random_model(spec).train()
    total = total_loss(loss(model, clip, torch.Generator().manual_seed(0)))
    total.backward()
    assert torch.isfinite(total)


def test_its_targets_have_the_shapes_and_types_of_a_data_set_s() -> None:
    spec = nano_spec(2)
    targets = bench.random_clip(spec, 1, 2, CPU).targets
    data, cells = spec.data, (50, 50)
    want = {
        "fut_traj": (data.max_objects, 12, 2), "fut_traj_mask": (data.max_objects, 12, 2), "sdc_fut_traj": (1, 12, 2),
        "sdc_fut_traj_mask": (1, 12, 2), "segmentation": (7, *cells), "instance": (7, *cells), "occ_img_is_valid": (9,),
        "future_boxes": (7, data.max_objects, 9), "future_boxes_valid": (7, data.max_objects), "sdc_planning": (1, 6, 3),
        "sdc_planning_mask": (1, 6, 2),
    }  # fmt: skip
    assert {name: tuple(getattr(targets.stage2, name).shape[1:]) for name in want} == want
    assert all(x is not None for x in (*targets, *targets.stage2))
    assert targets.stage2.instance.dtype == targets.stage2.segmentation.dtype == torch.int64
    assert targets.stage2.occ_img_is_valid.dtype == targets.stage2.future_boxes_valid.dtype == torch.bool
    assert targets.stage2.segmentation.any() and (targets.stage2.instance > 0).any()


def test_all_reduce_without_so_many_gpus_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    reduce = SimpleNamespace(**runpy.run_path(str(REPO / "benchmarks" / "all_reduce.py")))
    monkeypatch.setattr(sys, "argv", ["all_reduce.py", str(CONFIGS / "stage1_track_map/nano_track_map.py"), "--gpus", "99"])
    with pytest.raises(UserError, match="--gpus 99: PyTorch sees"):
        reduce.main()
