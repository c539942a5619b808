"""A training iteration of UniAD v2.0's second stage: every loss, match and id, and gradients, from recorded boxes of its own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from helpers import motion_data, train_clip, weights
from helpers.specs import edit
from helpers.tolerances import CLIP_GRAD_NORM, CLIP_LOSS, close
from helpers.v2 import FRAMES, RecordedV2, anchors, clip_of, small_spec
from uniad.config.spec import CompatSpec
from uniad.losses.criterion import Criterion, total_loss
from uniad.losses.planning import collision_losses
from uniad.models.uniad import UniAD
from uniad.training.clip import forward_clip

pytestmark = [pytest.mark.slow, pytest.mark.long]

@pytest.fixture(scope="module")
def record() -> RecordedV2:
    return RecordedV2("clip")


def given(record: RecordedV2) -> dict[str, torch.Tensor]:
    return {k.removeprefix("in/"): record[k] for k in record.arrays if k.startswith("in/")}


@pytest.fixture(scope="module")
def iteration(record):
    spec = edit(small_spec(**motion_data.RANDOM_OFF), model__queue_length=FRAMES).model
    model = motion_data.without_dropout(weights.fill(UniAD(spec, anchors()), kind="train"))
    losses, out = forward_clip(model, clip_of(given(record), int(record["in/image_seed"])), Criterion(spec))
    total_loss(losses).backward()
    return SimpleNamespace(losses={name: value.item() for name, value in losses.items()}, out=out, model=model)


def test_every_recorded_loss(record, iteration):
    wanted = dict(zip(record.arrays["loss_names"].tolist(), record.arrays["losses"].tolist()))
    assert set(iteration.losses) == set(wanted)
    for name, value in wanted.items():
        assert iteration.losses[name] == pytest.approx(value, rel=CLIP_LOSS, abs=1e-6), name
    assert wanted["motion.loss_traj"] > 0


def test_every_recorded_match_id_and_overlap(record, iteration):
    train_clip.check_matches_by_row(record, iteration.out)


def test_recorded_plan_and_gradients(record, iteration):
    close(iteration.out.ahead.plan.traj, record["planning_sdc_traj"], "frame")
    parameters = dict(iteration.model.named_parameters())
    names = record.arrays["grad_names"].tolist()
    assert "pts_bbox_head.reg_branches.5.4.weight" in names
    for name, norm in zip(names, record.arrays["grad_norms"].tolist()):
        assert parameters[name].grad.norm().item() == pytest.approx(norm, rel=CLIP_GRAD_NORM, abs=1e-5), name


def test_the_ego_box_lies_across_its_way_as_in_v2(record):
    """CollisionLoss was not adapted to v2's yaw; ``fixed`` and v1 have it along."""
    inputs, spec = given(record), small_spec().model
    targets = clip_of(inputs, int(record["in/image_seed"])).targets.stage2
    traj = record["planning_sdc_traj"].float()
    wanted = dict(zip(record.arrays["loss_names"].tolist(), record.arrays["losses"].tolist()))
    found = collision_losses(traj, targets.sdc_planning[:, 0, :, 2].float(), targets, spec.stage2.plan, spec.compat)
    for name, value in found.items():
        assert value.item() == pytest.approx(wanted[name], rel=1e-4), name
    v1 = collision_losses(traj, targets.sdc_planning[:, 0, :, 2].float(), targets, spec.stage2.plan, CompatSpec())
    assert all(abs(v1[name].item() - wanted[name]) > 0.01 * wanted[name] for name in found)
