"""Frozen norms folded into convolutions: the same features and gradients, up to rounding."""

from __future__ import annotations

import copy

import pytest
import torch

from helpers.specs import edit, nano_spec
from uniad.models.backbone import ResNet
from uniad.training.folding import fold_norms


def backbone(**changes: object) -> ResNet:
    torch.manual_seed(0)
    spec = edit(nano_spec().model.backbone, **{"base_channels": 8, "norm_eval": True} | changes)
    model = ResNet(spec).double()
    with torch.no_grad():  # norms that have seen something
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if "bn" in name or "downsample.1" in name:
                value.copy_(torch.rand(value.shape) + 0.5 if value.is_floating_point() else value)
    return model.train()


def passed(model: ResNet, img: torch.Tensor) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    feats = model(img)
    torch.stack([f.sin().sum() for f in feats]).sum().backward()
    return feats, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("changes", "pairs"),
    [
        ({}, 1 + 6 * 2 + 2),
        ({"depth": 50, "num_stages": 2, "out_indices": (1,), "stage_with_dcn": (False, True), "norm_requires_grad": False},
         1 + 7 * 3 + 2),
    ],
    ids=["norms learn scale and offset", "deformable, norms frozen"],
)  # fmt: skip
def test_features_and_gradients_stay_but_for_rounding(changes: dict[str, object], pairs: int) -> None:
    plain = backbone(**changes)
    folded = copy.deepcopy(plain)
    assert len(fold_norms(folded)) == pairs
    img = torch.rand(2, 3, 32, 48, dtype=torch.float64)
    (feats, grads), (other_feats, other_grads) = passed(plain, img), passed(folded, img)
    torch.testing.assert_close(other_feats, feats, rtol=1e-9, atol=1e-9)
    assert grads.keys() == other_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(other_grads[name], grad, rtol=1e-7, atol=1e-7, msg=name)
    assert folded.state_dict().keys() == plain.state_dict().keys()


def test_a_norm_that_takes_the_statistics_of_its_batch_stays_as_it_is() -> None:
    plain = backbone(norm_eval=False)
    folded = copy.deepcopy(plain)
    fold_norms(folded)
    img = torch.rand(2, 3, 32, 48, dtype=torch.float64)
    (feats, grads), (other_feats, other_grads) = passed(plain, img), passed(folded, img)
    assert all(torch.equal(a, b) for a, b in zip(feats, other_feats))
    assert all(torch.equal(grad, other_grads[name]) for name, grad in grads.items())
    assert torch.equal(plain.bn1.running_mean, folded.bn1.running_mean) and int(folded.bn1.num_batches_tracked) == 1
    torch.testing.assert_close(folded.eval()(img), plain.eval()(img), rtol=1e-9, atol=1e-9)


def test_what_is_frozen_is_multiplied_and_cast_once() -> None:
    model = backbone(frozen_stages=1, norm_requires_grad=False).float()
    pairs, img = fold_norms(model), torch.rand(2, 3, 32, 48)
    with torch.autocast("cpu", torch.bfloat16):
        before = model(img)
        for pair in pairs:
            pair.keep(torch.bfloat16)
        after = model(img)
    assert all(torch.equal(a, b) for a, b in zip(before, after))
    kept = [pair for pair in pairs if pair.kept is not None]
    assert len(kept) == 1 + 2 * 2  # stem and first stage; the others learn
    assert {t.dtype for pair in kept for t in pair.kept} == {torch.bfloat16}
