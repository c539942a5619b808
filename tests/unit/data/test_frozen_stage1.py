"""Training heads on a frozen stage 1's outputs for every clip: the same losses as with stage 1 in every iteration."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from helpers import specs
from uniad.data.packs import write_pack
from uniad.losses.criterion import Criterion
from uniad.models.uniad import UniAD
from uniad.training import run
from uniad.training.clip import ClipOptions, forward_clip
from uniad.training.frozen import FrozenLoader, can_freeze, compute_results, frozen_losses
from uniad.training.packed import PackedLoader, packed_loader
from uniad.training.regularisation import without_dropout

OPTIONS = ClipOptions(history_features="shared")
LENGTH = 2


@pytest.fixture(scope="module")
def spec(data_spec):
    there = {name: getattr(data_spec, name) for name in ("data_root", "ann_file_train", "ann_file_val", "workers_per_gpu")}
    return specs.edit(
        specs.nano_spec(2), **{f"data__{name}": value for name, value in there.items()}, data__samples_per_gpu=3,
        data__queue_length=LENGTH, model__queue_length=LENGTH, data__image__photometric=False, model__use_grid_mask=False,
        model__track__fp_ratio=0.0, model__track__random_drop=0.0, model__stage2__plan__status_dropout=0.0,
        model__stage2__plan__image_patch=(16, 26),
    )  # fmt: skip


@pytest.fixture(scope="module")
def packed(spec, tmp_path_factory) -> PackedLoader:
    path = tmp_path_factory.mktemp("packs") / "a.pt"
    write_pack(spec, path, workers=0)
    return packed_loader([path])(spec, SimpleNamespace(rank=0, size=1, device=torch.device("cpu")), 5)


@pytest.fixture(scope="module")
def model(spec):
    torch.manual_seed(0)
    motion = spec.model.stage2.motion
    model = UniAD(spec.model, 5 * torch.randn(len(motion.group_ids), motion.predict_modes, motion.predict_steps, 2))
    nn.init.normal_(model.planning_head.images_ahead.read[-1].weight)  # zero, it would pass nothing on to what it reads
    without_dropout(model)
    return model.train()


def test_whoever_waits_for_stage_1_is_told_how_long(spec, packed, model, monkeypatch):
    told = []
    monkeypatch.setattr(run, "SAID_EVERY_S", 0.0)
    loader = run.freeze_stage1(model, packed, spec, OPTIONS, None, told.append)
    count, batch = len(loader.results.bev), packed.batch_size
    assert len(told) == -(-count // batch) and count > batch
    assert told[0].startswith(f"stage 1 is frozen: {batch} of {count} clips, ") and told[0].endswith(" left")
    assert f"its results for {count} clips are computed once" in told[-1]


def test_images_are_given_up_with_the_clips_they_belong_to(spec, packed, model):
    results = compute_results(model, packed, Criterion(spec.model), OPTIONS, None)
    loader = FrozenLoader(packed, results)
    for record in (loader.record, loader.packed.record):
        assert record.img.untyped_storage().nbytes() == 0
    assert len(packed.record.img)


@pytest.mark.parametrize("number", [0, 3])
def test_losses_and_gradients_are_those_of_the_whole_clip(spec, packed, model, number):
    criterion = Criterion(spec.model)
    results = compute_results(model, packed, criterion, OPTIONS, None)
    assert len(results.bev) == packed.fits.sum() < len(packed.fits)  # no clip ends at a scene's first frame
    found, wanted = {}, {}
    for kept, losses in (
        (found, lambda: frozen_losses(model, next(FrozenLoader(packed, results).stream(number)), criterion)),
        (wanted, lambda: forward_clip(model, next(packed.stream(number)), criterion, torch.Generator(), OPTIONS)[0]),
    ):
        model.zero_grad()
        terms = {name: loss for name, loss in losses().items() if name.startswith(("motion.", "occ.", "planning."))}
        sum(loss for name, loss in terms.items() if "loss" in name).backward()
        kept["losses"] = {name: float(loss.detach()) for name, loss in terms.items()}
        kept["grads"] = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    assert found["losses"] == pytest.approx(wanted["losses"], rel=1e-4, abs=1e-5) and found["losses"]["occ.loss_dice"] > 0
    assert found["grads"].keys() == wanted["grads"].keys()
    assert {name.split(".")[0] for name in found["grads"]} == {"motion_head", "occ_head", "planning_head"}
    for name, grad in wanted["grads"].items():
        assert torch.allclose(found["grads"][name], grad, rtol=1e-2, atol=1e-3 * float(grad.abs().max()) + 1e-5), name


def test_only_where_stage_1_says_the_same_each_time(spec, packed):
    assert can_freeze(spec, packed, regularise=False)
    assert not can_freeze(spec, packed, regularise=True)
    assert not can_freeze(spec, object(), regularise=False)
    assert not can_freeze(specs.edit(spec, model__freeze__stage1=False), packed, regularise=False)
    assert not can_freeze(specs.edit(spec, stage=1), packed, regularise=False)
