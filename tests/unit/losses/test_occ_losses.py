"""Occupancy losses: against plain loops, against recorded values, and where there is little or nothing to learn from."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers.specs import nano_spec, tiny_spec
from helpers.stage2_clip import targets as stage2_targets
from uniad.config.spec import OccSpec
from uniad.interface.types import Agents, MotionOutput, Stage2Targets, Targets
from uniad.losses.occ import occ_losses
from uniad.models.occ import OccHead, OccRaw

SPEC = replace(nano_spec(2).model.stage2.occ, weight_aux=0.5, draw_boxes=False)
STEPS, H, W = SPEC.n_future + 1, 6, 7


class Case:
    """``matched[b]``: the objects of sample b's agents, -1 none; the slots after them are empty. Objects: slots 0 to 3."""

    def __init__(self, matched: list[list[int]], slots: int = 4, seed: int = 0) -> None:
        g = torch.Generator().manual_seed(seed)
        batch = len(matched)
        rows = [row + [2] * (slots - len(row)) for row in matched]  # what an empty slot names must not matter
        self.matched = torch.tensor(rows)
        valid = torch.arange(slots) < torch.tensor([len(row) for row in matched])[:, None]
        logits, masks = (torch.randn(batch, slots, STEPS, H, W, generator=g) * 3 for _ in range(2))
        self.raw = OccRaw(logits.requires_grad_(), masks.requires_grad_(), valid)
        ids = torch.tensor([3, 255, 17, 4]).expand(batch, 2, 4).clone()
        ids[:, 0] = 99  # only the last frame's count
        instance = torch.tensor([0, 3, -20, 17, 4])[torch.randint(0, 5, (batch, 7, H, W), generator=g)]
        exists = torch.ones(batch, 9, dtype=torch.bool)
        ahead = Stage2Targets(**dict.fromkeys(Stage2Targets._fields) | {"instance": instance, "occ_img_is_valid": exists})
        self.targets = Targets(**dict.fromkeys(Targets._fields) | {"ids": ids, "stage2": ahead})

    def losses(self, **options) -> dict[str, Tensor]:
        return occ_losses(self.raw, self.matched, self.targets, SPEC, **options)


def literal(case: Case, b: int, spec: OccSpec) -> dict[str, float]:
    """What upstream's rules give for one sample alone, agent by agent and frame by frame."""
    exists, instance = case.targets.stage2.occ_img_is_valid[b], case.targets.stage2.instance[b]
    frames = [t for t in range(STEPS) if exists[:3].all() and exists[2 + t]]
    agents = [a for a in range(case.matched.shape[1]) if case.raw.valid[b, a]]
    out = {}
    for name, logits, weight in (("", case.raw.logits, 1.0), ("aux_", case.raw.mask_logits, spec.weight_aux)):
        dice, entropy = 0.0, 0.0
        for a in agents:
            if case.matched[b, a] < 0 or (instance[:STEPS] == 255).all():
                continue
            number = int(case.targets.ids[b, -1, case.matched[b, a]])
            overlap = size = 0.0
            for t in frames:
                mask = (instance[t] == (-20 if number == 255 else number)).double()
                prob = logits[b, a, t].detach().double().sigmoid()
                overlap += (prob * mask).sum()
                size += (prob + mask).sum()
                likelihood = mask * prob.log() + (1 - mask) * (1 - prob).log()
                worst = (-likelihood).flatten().sort(descending=True).values
                entropy += spec.future_discount**t * worst[: int(spec.top_k_ratio * H * W)].mean()
            if frames:
                dice += 1 - (2 * overlap + spec.dice_eps) / (size + spec.dice_eps)
        count = max(len(agents), 1)
        out[f"occ.loss_{name}dice"] = weight * spec.weight_dice * float(dice / count)
        out[f"occ.loss_{name}mask"] = weight * spec.weight_mask * float(entropy / (count * STEPS))
    return out


def mean_of_samples(case: Case) -> dict[str, float]:
    samples = [literal(case, b, SPEC) for b in range(len(case.matched))]
    return {name: sum(s[name] for s in samples) / len(samples) for name in samples[0]}


def check(case: Case) -> None:
    got = case.losses()
    want = mean_of_samples(case)
    assert got.keys() == want.keys() == {"occ.loss_dice", "occ.loss_mask", "occ.loss_aux_dice", "occ.loss_aux_mask"}
    for name in want:
        assert got[name].item() == pytest.approx(want[name], rel=1e-5, abs=1e-7), name


def test_every_agent_is_compared_with_its_object() -> None:
    check(Case([[0, 3, 2, 1]]))


def test_an_unmatched_agent_is_ignored_but_counted() -> None:
    case = Case([[0, -1, 3]])
    check(case)
    sum(case.losses().values()).backward()
    assert not case.raw.logits.grad[0, 1].any() and case.raw.logits.grad[0, 0].any()


def test_a_batch_loses_the_mean_of_what_its_samples_lose_alone() -> None:
    check(Case([[0, 3, 2, 1], [1], [], [-1, 2]]))


def test_missing_frames_are_left_out() -> None:
    case = Case([[0, 3], [1, 2]])
    case.targets.stage2.occ_img_is_valid[0, 4] = False
    case.targets.stage2.instance[0, 2] = 255
    case.targets.stage2.occ_img_is_valid[1, 1] = False  # a past frame: the sample teaches nothing
    check(case)
    sum(case.losses().values()).backward()
    assert not case.raw.logits.grad[1].any() and not case.raw.logits.grad[0, :, 2].any()


def test_a_label_that_is_ignored_everywhere_teaches_nothing() -> None:
    case = Case([[0, 3]])
    case.targets.stage2.instance[:] = 255
    check(case)
    assert sum(case.losses().values()) == 0


@pytest.mark.parametrize("matched", [[[], []], [[-1]]])
def test_without_a_vehicle_losses_are_zero_and_gradients_finite(matched) -> None:
    losses = (case := Case(matched)).losses()
    total = sum(losses.values())
    total.backward()
    assert total == 0 and not case.raw.logits.grad.any() and not case.raw.mask_logits.grad.any()


def test_what_empty_slots_hold_changes_nothing() -> None:
    case = Case([[0, 3], [1]])
    want = case.losses()
    with torch.no_grad():
        for x in case.raw[:2]:
            x[~case.raw.valid] = float("nan")
    got = case.losses()
    assert all(torch.equal(got[name], want[name]) for name in want)
    sum(got.values()).backward()
    assert torch.isfinite(case.raw.logits.grad).all() and not case.raw.logits.grad[~case.raw.valid].any()


def test_the_number_of_agents_is_averaged_over_processes() -> None:
    case = Case([[0, 3]])
    one, other = case.losses(), case.losses(reduce_mean=lambda counts: (counts + 6) / 2)
    assert other["occ.loss_dice"].item() == pytest.approx(one["occ.loss_dice"].item() / 2)
    assert other["occ.loss_mask"] == one["occ.loss_mask"]  # a plain mean, as in upstream


def test_no_value_visits_the_host_forward_or_back() -> None:
    spec = replace(SPEC, bev_hw=(8, 8), xbound=(-4.0, 4.0, 1.0), ybound=(-4.0, 4.0, 1.0), slice_bev=True,
                   bev_centres=(-6.0, 6.0, -6.0, 6.0))  # fmt: skip
    head, dim = OccHead(spec).train(), spec.bev_dims  # tracks are as wide as the BEV
    query = torch.randn(2, 3, dim, requires_grad=True)
    motion = MotionOutput(None, None, torch.randn(1, 2, 3, 6, dim, requires_grad=True), query, query)
    vehicle = torch.tensor([[True, True, False], [False, False, False]])
    agents = Agents(query, None, None, torch.rand(2, 3), None, vehicle, None, None)
    bev, places, case = torch.randn(2, 64, spec.bev_dims), torch.randn(1, 64, spec.bev_dims), Case([[0, 3], []], slots=3)
    ahead = case.targets.stage2
    targets = case.targets._replace(stage2=ahead._replace(instance=ahead.instance.new_ones(2, 7, 8, 8)))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        sum(occ_losses(head.predict(bev, motion, agents, vehicle, places), case.matched, targets, spec).values()).backward()
        with torch.no_grad():
            head(bev, motion, agents, vehicle, places)
    seen = {event.name for event in profile.events()}
    assert "aten::topk" in seen, "the profiler listened"
    assert not seen & {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select"}


# Against recorded values ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(golden: Path) -> dict[str, np.ndarray]:
    out = {}
    for part in ("inputs", "outputs"):
        with np.load(golden / f"tiny_stage2_train_{part}.npz") as data:
            out |= {k: data[k] for k in data.files}
    return out | json.loads((golden / "tiny_stage2_train_losses.json").read_text())


def tensors(recorded: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v) for k, v in recorded.items() if isinstance(v, np.ndarray) and v.dtype.kind != "U"}


def test_recorded_losses_of_the_recorded_logits(recorded) -> None:
    logits, masks = (torch.from_numpy(recorded[name]) for name in ("occ_ins_logits", "occ_mask_preds"))
    matched = torch.from_numpy(recorded["motion_veh_matched_idxes"])[None]
    raw = OccRaw(logits, masks, torch.ones(matched.shape, dtype=torch.bool))
    for name, value in occ_losses(raw, matched, stage2_targets(tensors(recorded)), tiny_spec(2).model.stage2.occ).items():
        assert value.item() == pytest.approx(recorded["losses"][name], rel=1e-6), name
