"""Planning losses: the recorded values, what they mean, and that padding counts for nothing."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from helpers.recorded import Recorded
from helpers.specs import tiny_spec
from uniad.config.spec import CompatSpec, PlanSpec
from uniad.interface.types import PlanOutput, Stage2Targets
from uniad.losses.planning import plan_losses

SPEC = tiny_spec(2).model.stage2.plan
FIXED = CompatSpec(collision_loss="fixed")
BARE = PlanSpec(32, (6, 5), 6, False, True, ((0.0, 1.0),))


def targets(planned: Tensor, mask: Tensor, boxes: Tensor, valid: Tensor) -> Stage2Targets:
    """Only what planning reads: planned [B, 6, 3], mask [B, 6], boxes [B, 7, G, 9], valid [B, 7, G]."""
    rest = dict.fromkeys(Stage2Targets._fields)
    return Stage2Targets(**rest)._replace(
        sdc_planning=planned[:, None], sdc_planning_mask=mask[:, None, :, None].repeat(1, 1, 1, 2),
        future_boxes=boxes, future_boxes_valid=valid,
    )  # fmt: skip


def one_box(step: int = 1, centre: tuple[float, float] = (0.0, 0.0), yaw: float = 0.0, batch: int = 1) -> Stage2Targets:
    """A car of 2 m by 4 m at one step, and a driver who stands still looking ahead."""
    boxes, valid = torch.zeros(batch, 7, 3, 9), torch.zeros(batch, 7, 3, dtype=torch.bool)
    boxes[:, step, 1] = torch.tensor([*centre, 0, 2, 4, 1.5, yaw, 0, 0])
    valid[:, step, 1] = True
    return targets(torch.zeros(batch, 6, 3), torch.ones(batch, 6), boxes, valid)


def recorded_clip(slots: int = 5) -> tuple[PlanOutput, Stage2Targets, dict[str, float]]:
    source = Recorded.extract("planning")
    boxes, valid = torch.zeros(1, 7, slots, 9), torch.zeros(1, 7, slots, dtype=torch.bool)
    for t in range(7):
        found = source[f"train/gt_future_boxes/{t}"]
        boxes[0, t, : len(found)], valid[0, t, : len(found)] = found, True
    gt = targets(
        source["train/sdc_planning"].float(), source["train/sdc_planning_mask"][..., 0].float(), boxes, valid
    )
    losses = {k.removeprefix("train/"): float(v) for k, v in source.arrays.items() if k.startswith("train/planning.")}
    return PlanOutput(source["train/traj"]), gt, losses


def test_recorded_losses_under_their_recorded_names() -> None:
    plan, gt, recorded = recorded_clip()
    found = plan_losses(plan, gt, SPEC)
    assert set(found) == set(recorded) and len(found) == 4
    for name, value in recorded.items():
        assert found[name].item() == pytest.approx(value, rel=1e-5), name


def test_more_slots_and_more_samples_change_nothing() -> None:
    plan, gt, recorded = recorded_clip(slots=40)
    gt.future_boxes[~gt.future_boxes_valid] = float("nan")
    twice = Stage2Targets(*(None if x is None else torch.cat([x, x]) for x in gt))
    found = plan_losses(PlanOutput(plan.traj.repeat(2, 1, 1)), twice, SPEC)
    for name, value in recorded.items():
        assert found[name].item() == pytest.approx(value, rel=1e-5), name


def test_distance_is_the_mean_over_valid_steps() -> None:
    gt = one_box()
    gt.sdc_planning_mask[:, :, 2:] = 0
    gt.sdc_planning[:, :, 2:] = float("nan")
    plan = torch.zeros(1, 6, 2)
    plan[0, :, 0], plan[0, 1, 1] = 3.0, 4.0
    assert plan_losses(PlanOutput(plan), gt, BARE)["planning.loss_ade"].item() == pytest.approx((3 + 5) / 2, rel=1e-5)


def test_overlap_is_the_shared_area_at_that_step() -> None:
    loss = "planning.loss_collision_0"
    still = PlanOutput(torch.zeros(1, 6, 2))
    assert plan_losses(still, one_box(1), BARE)[loss].item() == pytest.approx(1.85 * 4)
    assert plan_losses(still, one_box(6), BARE)[loss].item() == pytest.approx(1.85 * 4)
    assert plan_losses(still, one_box(0), BARE)[loss].item() == 0  # step 0 is now, not a planned step
    assert plan_losses(still, one_box(1, (0.925, 2.042)), BARE)[loss].item() == pytest.approx(1 * 2)
    assert plan_losses(still, one_box(1, (9.0, 0.0)), BARE)[loss].item() == 0
    assert plan_losses(still, one_box(1, yaw=math.pi / 2), BARE)[loss].item() == pytest.approx(1.85 * 2, rel=1e-4)


def test_only_the_fixed_overlap_teaches_the_trajectory() -> None:
    for compat, learns in ((CompatSpec(), False), (FIXED, True)):
        traj = torch.full((1, 6, 2), 0.3, requires_grad=True)
        losses = plan_losses(PlanOutput(traj), one_box(2), SPEC, compat)
        overlap = sum(v for k, v in losses.items() if "collision" in k)
        assert overlap.item() > 0
        assert overlap.requires_grad == learns
        if learns:
            overlap.backward()
            assert traj.grad[0, 1].abs().sum() > 0 and traj.grad[0, 0].abs().sum() == 0


@pytest.mark.parametrize("compat", [CompatSpec(), FIXED])
def test_finite_with_no_box_no_future_and_a_perfect_plan(compat: CompatSpec) -> None:
    empty = one_box(batch=2)
    empty.future_boxes_valid[:] = False
    empty.sdc_planning_mask[:] = 0
    for gt, traj in ((empty, torch.randn(2, 6, 2)), (one_box(batch=2), torch.zeros(2, 6, 2))):
        traj.requires_grad_()
        losses = plan_losses(PlanOutput(traj), gt, SPEC, compat)
        total = torch.stack(list(losses.values())).sum()
        total.backward()
        assert total.isfinite() and traj.grad.isfinite().all()
        assert losses["planning.loss_ade"].item() == 0


def ways() -> tuple[Tensor, Tensor]:
    """Who drives straight on, 2 m a step, and who turns right; [2, 6, 2]"""
    ahead = torch.stack([torch.zeros(6), 2.0 * torch.arange(1, 7)], -1)
    right = torch.tensor([[0.0, 2], [0, 4], [2, 4], [4, 4], [6, 4], [8, 4]])
    return ahead, right


def weighed(plan: Tensor, driven: Tensor, weight: float | None) -> Tensor:
    """The distance loss of plan and driven [6, 2]."""
    planned, nobody = torch.cat([driven, torch.zeros(6, 1)], 1)[None], torch.zeros(1, 7, 0, 9)
    gt = targets(planned, torch.ones(1, 6), nobody, nobody[..., 0].bool())
    return plan_losses(PlanOutput(plan[None]), gt, replace(BARE, across_weight=weight))["planning.loss_ade"]


def test_what_is_across_the_way_has_its_own_weight() -> None:
    ahead, right = ways()
    aside, before = torch.tensor([0.5, 0.0]), torch.tensor([0.0, 3.0])
    for weight in (1.0, 4.0):
        assert weighed(ahead + aside, ahead, weight).item() == pytest.approx(0.5 * weight, rel=1e-4)
        assert weighed(ahead + before, ahead, weight).item() == pytest.approx(3.0, rel=1e-4)
        assert weighed(ahead + aside + before, ahead, weight).item() == pytest.approx(3 + 0.5 * weight, rel=1e-4)
    # Half way round a corner the way leads half ahead, half to the right; behind it, what is ahead is across.
    found = weighed(right + torch.tensor([0.0, 1.0]), right, 4.0).item()
    corner = math.sqrt(0.5) + 4 * math.sqrt(0.5)
    assert found == pytest.approx((1.0 + corner + 4 * 4.0) / 6, rel=1e-4)


def test_beside_metres_ahead_what_is_aside_keeps_its_gradient() -> None:
    ahead, _ = ways()
    slopes = []
    for weight in (None, 1.0):
        plan = (ahead + torch.tensor([0.1, 3.0])).requires_grad_()
        weighed(plan, ahead, weight).backward()
        slopes.append(plan.grad[:, 0].sum().item())
    assert slopes[0] == pytest.approx(0.1 / math.hypot(0.1, 3.0), rel=1e-3) and slopes[1] == pytest.approx(1.0, rel=1e-3)


def test_who_stands_has_a_way_ahead_and_masked_steps_have_none() -> None:
    still = torch.zeros(6, 2)
    assert weighed(still + torch.tensor([0.2, 0.1]), still, 3.0).item() == pytest.approx(0.1 + 3 * 0.2, rel=1e-4)
    gt = one_box()
    gt.sdc_planning_mask[:, :, 2:] = 0
    gt.sdc_planning[:, :, 2:] = float("nan")
    plan = torch.ones(1, 6, 2, requires_grad=True)
    loss = plan_losses(PlanOutput(plan), gt, replace(BARE, across_weight=3.0))["planning.loss_ade"]
    loss.backward()
    assert loss.item() == pytest.approx(1 + 3, rel=1e-4) and plan.grad.isfinite().all() and (plan.grad[:, 2:] == 0).all()
