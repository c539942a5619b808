"""The optimizer does what upstream's recipe does, with fewer groups and without waiting for the device."""

from __future__ import annotations

import copy
import hashlib

import pytest
import torch
from torch import nn

from helpers.specs import full_spec, tiny_spec
from helpers.toy_training import ToyModel, toy_spec
from uniad.errors import UserError
from uniad.models.uniad import UniAD
from uniad.training import optim


def schedule(**changes) -> optim.Schedule:
    values = {"warmup_iters": 500, "warmup_ratio": 1 / 3, "min_lr_ratio": 1e-3, "by_epoch": True, "epoch_len": 400,
              "max_epochs": 6, "max_iters": 2400}  # fmt: skip
    return optim.Schedule(**{**values, **changes})


@pytest.mark.parametrize(
    ("iteration", "by_hand"),
    [
        (0, 1 / 3),  # epoch 0: cosine 1; warm-up 1 - (1 - 0) * 2/3
        (250, 2 / 3),  # half of the warm-up
        (399, 1 - (1 - 399 / 500) * 2 / 3),
        (400, (0.001 + 0.999 * (1 + 0.8660254037844387) / 2) * (1 - 0.2 * 2 / 3)),  # epoch 1, cos(30 deg), warm-up not over
        (500, 0.001 + 0.999 * (1 + 0.8660254037844387) / 2),
        (799, 0.001 + 0.999 * (1 + 0.8660254037844387) / 2),  # constant inside an epoch
        (1200, 0.001 + 0.999 / 2),  # epoch 3 of 6: half way
        (2399, 0.001 + 0.999 * (1 - 0.8660254037844387) / 2),  # the last epoch never reaches the minimum
    ],
)
def test_schedule_by_epoch_matches_hand_worked_values(iteration, by_hand):
    assert schedule().factor(iteration) == pytest.approx(by_hand, rel=1e-12)


def test_schedule_by_iteration_anneals_to_the_minimum():
    s = schedule(by_epoch=False)
    assert s.factor(1200) == pytest.approx(0.001 + 0.999 / 2, rel=1e-12)
    assert s.factor(2400) == pytest.approx(0.001, rel=1e-9)


def test_one_group_per_learning_rate_and_frozen_parameters_stay_out():
    model, spec = ToyModel(), toy_spec(train__backbone_lr_mult=0.1)
    optimizer = optim.build_optimizer(model, spec.train)
    assert [g["lr"] for g in optimizer.param_groups] == [pytest.approx(2e-5), pytest.approx(2e-4)]
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert all((id(p) in held) == p.requires_grad for p in model.parameters())


def test_nothing_to_train_is_a_clear_error():
    model = ToyModel().requires_grad_(False)
    with pytest.raises(UserError, match="every parameter is frozen"):
        optim.build_optimizer(model, toy_spec().train)


def reference_optimizer(model: nn.Module, spec) -> torch.optim.AdamW:
    """One group per parameter, as the upstream stack builds it."""
    groups = []
    for name, parameter in model.named_parameters():
        groups.append({"params": [parameter], "lr": optim.learning_rate_of(name, spec) if parameter.requires_grad else spec.lr})
    return torch.optim.AdamW(groups, lr=spec.lr, weight_decay=spec.weight_decay, foreach=False)


def give_gradients(model: nn.Module, seed: int, scale: float) -> None:
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.grad = scale * torch.randn_like(parameter) if parameter.requires_grad and "unused" not in name else None


@pytest.mark.parametrize("scale", [0.01, 100.0], ids=["unclipped", "clipped"])
def test_update_equals_clip_and_adamw_of_the_upstream_recipe(scale):
    spec = toy_spec(train__backbone_lr_mult=0.1).train
    ours, theirs = ToyModel(), None
    theirs = copy.deepcopy(ours)
    optimizer, reference = optim.build_optimizer(ours, spec), reference_optimizer(theirs, spec)
    for k in range(5):
        for model in (ours, theirs):
            give_gradients(model, k, scale)
        norm = optim.global_norm(optim.gradients(optimizer))
        optim.step(optimizer, optim.clip_divisor(norm, spec.clip_norm), torch.zeros(()))
        expected = nn.utils.clip_grad_norm_([p for p in theirs.parameters() if p.grad is not None], spec.clip_norm)
        reference.step()
        torch.testing.assert_close(norm, expected, rtol=1e-6, atol=0)
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters()):
        # five updates of 2e-4 each; the two orders of multiplication differ in the last bits of float32
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8, msg=name)


def test_heads_are_clipped_by_their_own_norm():
    """Each as clip_grad_norm_ clips it alone: a steep head does not shorten the step of a calm one."""
    ours, theirs = nn.Module(), nn.Module()
    for model in (ours, theirs):
        model.steep, model.calm, model.idle = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(2, 2)
    theirs.load_state_dict(ours.state_dict())
    for a, b in zip(ours.parameters(), theirs.parameters()):
        if a.shape[-1] == 4:
            a.grad = torch.randn_like(a)
            b.grad = a.grad.clone()
    for model in (ours, theirs):
        for p in model.steep.parameters():
            p.grad *= 1e4
        for p in model.calm.parameters():
            p.grad *= 0.1
    scale = torch.tensor(64.0)
    torch._foreach_mul_([p.grad for p in ours.parameters() if p.grad is not None], scale)
    optim.clip_by_head(ours, scale, 35.0)
    for head in ("steep", "calm"):
        nn.utils.clip_grad_norm_(getattr(theirs, head).parameters(), 35.0)
        for a, b in zip(getattr(ours, head).parameters(), getattr(theirs, head).parameters()):
            torch.testing.assert_close(a.grad / scale, b.grad, rtol=1e-5, atol=1e-7)


def test_a_suppressed_update_changes_neither_weights_nor_moments_nor_count():
    model, spec = ToyModel(), toy_spec().train
    optimizer = optim.build_optimizer(model, spec)
    give_gradients(model, 0, 1.0)
    optim.step(optimizer, torch.ones(()), torch.zeros(()))
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()["state"]))
    give_gradients(model, 1, float("nan"))
    optim.step(optimizer, torch.ones(()), torch.ones(()))
    after = (model.state_dict(), optimizer.state_dict()["state"])
    for name, value in before[0].items():
        assert torch.equal(value, after[0][name])
    for index, moments in before[1].items():
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(after[1][index][k])) for k, v in moments.items())


def test_optimizer_state_goes_to_the_upstream_layout_and_back():
    spec = toy_spec(train__backbone_lr_mult=0.1).train
    ours = ToyModel()
    optimizer = optim.build_optimizer(ours, spec)
    for k in range(3):
        give_gradients(ours, k, 1.0)
        optim.step(optimizer, torch.ones(()), torch.zeros(()))
    saved = optim.upstream_state(optimizer, ours, spec)
    assert len(saved["param_groups"]) == len(list(ours.parameters()))
    assert all(g["initial_lr"] > 0 for g in saved["param_groups"])  # without it an upstream resume anneals twice

    theirs, back = copy.deepcopy(ours), copy.deepcopy(ours)
    reference = reference_optimizer(theirs, spec)
    reference.load_state_dict(copy.deepcopy(saved))
    restored = optim.build_optimizer(back, spec)
    optim.load_upstream_state(restored, back, saved)
    for model in (ours, theirs, back):
        give_gradients(model, 9, 1.0)
    optim.step(optimizer, torch.ones(()), torch.zeros(()))
    optim.step(restored, torch.ones(()), torch.zeros(()))
    reference.step()
    for (name, a), b, c in zip(ours.named_parameters(), theirs.parameters(), back.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8, msg=name)
        assert torch.equal(a, c), name


def test_optimizer_state_of_another_model_is_refused():
    spec = toy_spec().train
    small, big = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    saved = optim.upstream_state(optim.build_optimizer(small, spec), small, spec)
    with pytest.raises(UserError, match="written for another model"):
        optim.load_upstream_state(optim.build_optimizer(big, spec), big, saved)


def test_loss_scale_halves_on_overflow_and_doubles_after_clean_iterations():
    scale = optim.LossScale(True, torch.device("cpu"), growth_interval=3)
    seen = []
    for overflow in (1, 0, 0, 0, 0, 1):
        scale.update(torch.tensor(float(overflow)))
        seen.append(float(scale.scale))
    assert seen == [32768, 32768, 32768, 65536, 65536, 32768]
    other = optim.LossScale(True, torch.device("cpu"))
    other.load_state_dict(scale.state_dict())
    assert float(other.scale) == 32768


@pytest.mark.parametrize(
    ("spec", "digest"),
    [(tiny_spec, "f236d117da42b1f5"), (full_spec, "2047ed5e428776ea")],
    ids=["tiny", "full"],
)
def test_parameters_are_numbered_as_in_the_upstream_stack(spec, digest):
    """Digests are of the recorded order of all parameters (state_dict_{tiny,base}_stage1.json)."""
    with torch.device("meta"):
        model = UniAD(spec().model)
    names = [name for name, _ in optim.upstream_parameters(model)]
    assert hashlib.sha256("\n".join(names).encode()).hexdigest()[:16] == digest
