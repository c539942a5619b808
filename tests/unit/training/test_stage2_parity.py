"""The recorded stage-2 training iteration of UniAD-tiny, end to end: losses of all five tasks, matches and every gradient."""

from __future__ import annotations

import runpy
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers import motion_data, stage2_clip, train_clip, weights
from helpers.recorded import EXTRACTS, Recorded
from helpers.specs import tiny_spec
from helpers.tolerances import CLIP_GRAD_NORM, CLIP_LOSS, CLIP_TOTAL_GRAD_NORM, close
from uniad.losses.criterion import Criterion, total_loss
from uniad.models.uniad import UniAD
from uniad.training.clip import forward_clip

pytestmark = pytest.mark.slow

EXTRACT = EXTRACTS / "stage2_train.npz"
make = SimpleNamespace(**runpy.run_path(str(EXTRACTS / "make_stage2_train.py")))
NOISE = 1e-5  # gradient norms below this are rounding (a bias before a norm), in a total of 2e4


@pytest.fixture(scope="module")
def record():
    with np.load(EXTRACT) as data:
        return {k: data[k] for k in data.files}


@pytest.fixture(scope="module")
def iteration(record):
    """Losses, what the clip left behind, and the model with its gradients."""
    motion = Recorded.extract("motion")
    spec = tiny_spec(2, **motion_data.RANDOM_OFF, model__track__capacity=12, model__stage2__agent_capacity=12).model
    model = motion_data.without_dropout(weights.fill(UniAD(spec, motion["anchors"]), kind="train"))
    clip = stage2_clip.clip(*motion_data.clip_inputs(motion.arrays, "train/in/"))
    losses, out = forward_clip(model, clip, Criterion(spec))
    total_loss(losses).backward()
    return {name: value.item() for name, value in losses.items()}, out, model


def test_every_recorded_loss(record, iteration):
    losses, _, _ = iteration
    names = [str(name) for name in record["loss_names"]]
    assert set(losses) == set(names)
    for name, wanted in zip(names, record["losses"].tolist()):
        assert losses[name] == pytest.approx(wanted, rel=CLIP_LOSS), name
    total = sum(value for name, value in losses.items() if "loss" in name)
    assert total == pytest.approx(float(record["total"]), rel=CLIP_LOSS)


def test_every_recorded_match_id_and_overlap(record, iteration):
    _, out, _ = iteration
    train_clip.check_matches(record, out)


def test_recorded_bevs_with_and_without_gradient(record, iteration):
    _, out, _ = iteration
    train_clip.check_bevs(record, out, stage2_clip.FRAMES)


def test_recorded_agents_occupancy_and_plan(record, iteration):
    """Which objects the agents stand for, which of them occupancy is about, and the outputs of the heads."""
    ahead = iteration[1].ahead
    matched, valid, vehicle = ahead.matched_gt[0], ahead.agents.valid[0], ahead.occ.valid[0]
    assert valid[-1] and matched[-1] == -1, "the last slot is the ego car"
    everyone, vehicles = (record[f"motion_{name}_matched_idxes"].tolist() for name in ("all", "veh"))
    ours = matched[:-1][valid[:-1]].tolist()
    assert sorted(ours) == sorted(everyone[:-1])
    assert sorted(matched[vehicle].tolist()) == sorted(vehicles)
    slots = [matched.tolist().index(gt) for gt in vehicles]  # ours stand in order of score
    for name, logits in (("occ_mask_preds", ahead.occ.mask_logits), ("occ_ins_logits", ahead.occ.logits)):
        close(logits[:, slots].flatten()[:: make.OCC_STRIDE], torch.from_numpy(record[name]), "frame")
    close(ahead.plan.traj, torch.from_numpy(record["planning_sdc_traj"]), "frame")


def test_every_recorded_gradient(record, iteration):
    _, _, model = iteration
    parameters = dict(model.named_parameters())
    wanted = dict(zip(record["grad_names"].tolist(), record["grad_norms"].tolist()))
    assert {name for name, p in parameters.items() if p.requires_grad} == set(wanted) | set(record["grad_none"].tolist())
    assert not [name for name in record["grad_none"].tolist() if parameters[name].grad is not None]
    for name, norm in wanted.items():
        assert parameters[name].grad.norm().item() == pytest.approx(norm, rel=CLIP_GRAD_NORM, abs=NOISE), name
    total = torch.stack([p.grad.norm() for p in parameters.values() if p.grad is not None]).norm().item()
    assert total == pytest.approx(float(record["grad_norm_total"]), rel=CLIP_TOTAL_GRAD_NORM)


def test_norms_of_occupancy_keep_the_recorded_statistics(record, iteration):
    state = iteration[2].state_dict()
    kept = [name for name in record if name.startswith("bn_after/")]
    assert kept
    for name in kept:
        close(state[name.removeprefix("bn_after/")], torch.from_numpy(record[name]), "frame")


def test_the_extract_is_what_was_recorded(golden, record):
    fresh = make.compact(golden)
    assert fresh.keys() == record.keys()
    for name, value in fresh.items():
        assert np.array_equal(value, record[name]), name
