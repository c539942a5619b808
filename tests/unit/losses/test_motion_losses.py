"""Motion losses against recorded ones, and their promises for empty sets."""

from __future__ import annotations

import math
import runpy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from helpers import motion_data, stage2_clip
from helpers.recorded import EXTRACTS, Recorded
from uniad.config.spec import MotionSpec
from uniad.interface.types import Agents, MotionOutput, Targets
from uniad.losses.criterion import total_loss
from uniad.losses.motion import matched_futures, motion_losses, negative_log_likelihood, trajectory_terms
from uniad.training.loader import map_tensors

SPEC: MotionSpec = motion_data.SPECS["tiny"]
# Trajectories that our own model made of the recorded images: their noise is 1e-5 (see tests/golden/make_motion.py)
LOSS = 5e-5


@pytest.fixture(scope="module")
def extract() -> Recorded:
    return Recorded.extract("motion")


@pytest.fixture(scope="module")
def case(extract: Recorded) -> tuple[MotionOutput, Agents, Tensor, Targets]:
    """The recorded clip's agents, eight of them, with their predictions."""
    given, _ = motion_data.clip_inputs(extract.arrays, "train/in/")
    matched = extract["train/motion_all_matched_idxes"].clone()[None]
    matched[:, -1] = -1
    boxes = extract["train/boxes"]
    count = boxes.shape[1]
    some = torch.zeros(1, count)
    agents = Agents(some[..., None], boxes, some.int(), some, matched.int(), some == 0, matched, some[:, 0])
    out = MotionOutput(extract["train/traj"], extract["train/score"], some, some, some)
    return out, agents, matched, stage2_clip.targets(given)


def test_every_recorded_motion_loss(extract: Recorded, case: tuple) -> None:
    losses = motion_losses(*case, SPEC)
    names = extract.arrays["train/loss_names"].tolist()
    assert set(losses) == set(names)
    for name, want in zip(names, extract["train/losses"].tolist()):
        assert losses[name].item() == pytest.approx(want, rel=LOSS), name


def test_futures_are_the_recorded_ones(extract: Recorded, case: tuple) -> None:
    _, agents, matched, targets = case
    future, known, valid = matched_futures(agents, matched, targets, SPEC)
    mask = extract["train/motion_matched_gt_mask"]
    assert torch.equal(known[0], mask) and valid.all()
    want = extract["train/motion_matched_gt_traj"].float()
    torch.testing.assert_close(future[0][mask], want[mask], rtol=0, atol=1e-3)  # our boxes are 1e-3 m off the recorded ones


def test_a_batch_is_the_mean_of_its_samples_and_empty_slots_do_not_matter(case: tuple) -> None:
    out, agents, matched, targets = case
    fewer = agents._replace(valid=torch.tensor([[True] * 2 + [False] * 5 + [True]]))
    one, two = motion_losses(out, agents, matched, targets, SPEC), motion_losses(out, fewer, matched, targets, SPEC)
    both = motion_losses(
        MotionOutput(*(torch.cat([x, x], 1 if x.dim() > 3 else 0) for x in out)),
        Agents(*(torch.cat(pair) for pair in zip(agents, fewer))),
        torch.cat([matched] * 2),
        map_tensors(lambda x: torch.cat([x, x]), targets),
        SPEC,
    )
    for name, value in both.items():
        torch.testing.assert_close(value, (one[name] + two[name]) / 2)
    keep = [0, 1, 7]
    short = MotionOutput(out.traj[:, :, keep], out.score[:, :, keep], *out[2:])
    left = Agents(*(x[:, keep] if x.dim() > 1 else x for x in agents))
    for name, value in motion_losses(short, left, matched[:, keep], targets, SPEC).items():
        torch.testing.assert_close(value, two[name])


@pytest.mark.parametrize("slots", [12, 0])
def test_no_object_and_no_ego_future_give_no_regression_and_finite_gradients(case: tuple, slots: int) -> None:
    out, agents, matched, targets = case
    traj, score = out.traj.clone().requires_grad_(), out.score.clone().requires_grad_()
    ahead = targets.stage2
    ahead = ahead._replace(
        sdc_fut_traj_mask=torch.zeros_like(ahead.sdc_fut_traj_mask), fut_traj=ahead.fut_traj[:, :slots],
        fut_traj_mask=ahead.fut_traj_mask[:, :slots],
    )  # fmt: skip
    targets = targets._replace(boxes=targets.boxes[:, :, :slots], stage2=ahead)
    ego_only = agents._replace(valid=torch.tensor([[False] * 7 + [True]]))
    losses = motion_losses(out._replace(traj=traj, score=score), ego_only, torch.full_like(matched, -1), targets, SPEC)
    for name in ("l_reg", "min_ade", "min_fde", "mr"):
        assert losses[f"motion.{name}"] == 0
    total_loss(losses).backward()
    assert (traj.grad == 0).all() and score.grad.isfinite().all()


def test_gradients_stay_finite_where_a_prediction_is_exact_or_saturated(case: tuple) -> None:
    out, agents, matched, targets = case
    future, known, valid = matched_futures(agents, matched, targets, SPEC)
    traj = out.traj.clone()
    traj[..., :2] = future[:, :, None]
    traj[..., 4] = 1.0
    traj[0, ..., 2] = math.inf
    traj.requires_grad_()
    terms = trajectory_terms(traj, out.score, future, known, valid, replace(SPEC, weight_minade=1.0))
    terms["loss_traj"].sum().backward()
    assert terms["loss_traj"].isfinite().all() and traj.grad.isfinite().all()


def test_the_likelihood_is_that_of_a_bivariate_normal_with_inverse_deviations() -> None:
    mean, place, rho = torch.tensor([1.0, -2.0]), torch.tensor([1.5, -1.0]), 0.3
    inverse = torch.tensor([2.0, 0.5])
    deviation = 1 / inverse
    covariance = torch.diag(deviation**2) + rho * deviation.prod() * (1 - torch.eye(2))
    want = -MultivariateNormal(mean, covariance).log_prob(place)
    got = negative_log_likelihood(torch.cat([mean, inverse, torch.tensor([rho])]), place)
    # Upstream's constant has four digits; inverse deviations make the cross term the normal's own.
    assert got.item() == pytest.approx(want.item(), abs=1e-4)


def test_a_mode_is_chosen_by_average_and_scored_by_its_end() -> None:
    traj = torch.zeros(1, 1, 1, 2, 12, 5)
    traj[..., 2:4] = 1.0
    traj[..., 0, :, 0], traj[..., 1, :, 0] = 1.0, 2.5
    future, known = torch.zeros(1, 1, 12, 2), torch.ones(1, 1, 12, dtype=torch.bool)
    known[..., 6:] = False
    score = torch.tensor([0.25, 0.75]).log().view(1, 1, 1, 2)
    terms = trajectory_terms(traj, score, future, known, torch.ones(1, 1, dtype=torch.bool), SPEC)
    assert terms["min_ade"].item() == pytest.approx(1.0, rel=1e-4)
    assert terms["min_fde"].item() == pytest.approx(1.0, rel=1e-4)
    assert terms["l_class"].item() == pytest.approx(-math.log(0.25), rel=1e-4)
    assert terms["mr"].item() == 0.0
    assert trajectory_terms(traj + 3, score, future, known, torch.ones(1, 1, dtype=torch.bool), SPEC)["mr"].item() == 1.0


def test_the_extract_is_what_was_recorded(golden) -> None:
    kept = Recorded.extract("motion").arrays
    for name, value in runpy.run_path(str(EXTRACTS / "make_motion.py"))["forward"](golden).items():
        assert np.array_equal(kept[name], value), name
    with np.load(golden / "tiny_stage2_train_inputs.npz") as data:
        for name in data.files:
            assert np.array_equal(kept[f"train/in/{name}"], data[name]), name
