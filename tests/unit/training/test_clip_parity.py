"""The recorded stage-1 training iteration of UniAD-tiny, end to end: losses, matches, tracks and gradients."""

import runpy

import numpy as np
import pytest
import torch

from helpers import train_clip, weights
from helpers.specs import tiny_spec
from helpers.tolerances import CLIP_GRAD_NORM, CLIP_LOSS, CLIP_LOSS_CARRIED_BOXES, CLIP_TOTAL_GRAD_NORM
from uniad.losses.criterion import Criterion, total_loss
from uniad.models.uniad import UniAD
from uniad.training.clip import forward_clip
from uniad.training.regularisation import without_dropout

pytestmark = pytest.mark.slow

NOISE = 1e-6  # gradient norms below this are rounding, in a total of 4e4
RANDOM_OFF = {"model__use_grid_mask": False, "model__track__random_drop": 0.0, "model__track__fp_ratio": 0.0}


@pytest.fixture(scope="module")
def iteration():
    """Record, losses, what the clip left behind, and the model with its gradients."""
    # Twelve slots are enough for this clip and spare the decoder rows.
    spec = tiny_spec(**RANDOM_OFF, model__track__capacity=12).model
    model = weights.fill(UniAD(spec), kind="train").train()
    without_dropout(model)
    record = train_clip.record()
    losses, out = forward_clip(model, train_clip.clip(record), Criterion(spec))
    total_loss(losses).backward()
    return record, {name: value.item() for name, value in losses.items()}, out, model


def test_every_recorded_loss(iteration):
    record, losses, _, _ = iteration
    names = [str(name) for name in record["loss_names"]]
    assert set(losses) == set(names)
    for name, wanted in zip(names, record["losses"].tolist()):
        carried = name in ("track.frame_3_loss_bbox_5", "track.frame_4_loss_bbox_5")
        assert losses[name] == pytest.approx(wanted, rel=CLIP_LOSS_CARRIED_BOXES if carried else CLIP_LOSS), name
    assert sum(losses.values()) == pytest.approx(float(record["total"]), rel=CLIP_LOSS)


def test_every_recorded_match_id_and_overlap(iteration):
    record, _, out, _ = iteration
    train_clip.check_matches(record, out)


def test_recorded_bevs_with_and_without_gradient(iteration):
    record, _, out, _ = iteration
    train_clip.check_bevs(record, out, train_clip.FRAMES)


def test_every_recorded_gradient(iteration):
    record, _, _, model = iteration
    parameters = dict(model.named_parameters())
    wanted = dict(zip(record["grad_names"].tolist(), record["grad_norms"].tolist()))
    assert {name for name, p in parameters.items() if p.requires_grad} == set(wanted) | set(record["grad_none"].tolist())
    assert all(parameters[name].grad is None for name in record["grad_none"].tolist())
    for name, norm in wanted.items():
        assert parameters[name].grad.norm().item() == pytest.approx(norm, rel=CLIP_GRAD_NORM, abs=NOISE), name
    total = torch.stack([p.grad.norm() for p in parameters.values() if p.grad is not None]).norm().item()
    assert total == pytest.approx(float(record["grad_norm_total"]), rel=CLIP_TOTAL_GRAD_NORM)


def test_the_extract_is_what_was_recorded(golden):

    make_stage1_train = runpy.run_path(str(train_clip.COMPACT.with_name("make_stage1_train.py")))

    fresh = make_stage1_train["compact"](golden)
    kept = train_clip.record()
    assert fresh.keys() == kept.keys()
    for name, value in fresh.items():
        assert np.array_equal(value, kept[name]), name
