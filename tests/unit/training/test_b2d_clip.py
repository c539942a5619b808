"""Training iterations of Bench2Drive's two stages: losses, matches, ids and gradients, as Bench2DriveZoo's code gave them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from helpers import b2d, motion_data, train_clip, weights
from helpers.tolerances import CLIP_GRAD_NORM, CLIP_LOSS
from uniad.losses.criterion import Criterion, total_loss
from uniad.models.uniad import UniAD
from uniad.training.clip import forward_clip

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def record() -> b2d.Numbers:
    return b2d.Numbers("clip")


@pytest.fixture(scope="module", params=[1, 2])
def iteration(request, record: b2d.Numbers) -> SimpleNamespace:
    stage = request.param
    spec = b2d.clip_spec(stage)
    model = UniAD(spec, b2d.Numbers("frames")["anchors"] if stage == 2 else None)
    model = motion_data.without_dropout(weights.fill(model, kind="b2d-train"))
    given = {k.removeprefix("in/"): record[k] for k in record.arrays if k.startswith("in/")}
    losses, out = forward_clip(model, b2d.clip(given, stage), Criterion(spec))
    total_loss(losses).backward()
    at = f"stage{stage}/"
    wanted = {k: dict(zip(record.arrays[f"{at}{k}_names"].tolist(), record.arrays[at + v].tolist()))
              for k, v in (("loss", "losses"), ("grad", "grad_norms"))}  # fmt: skip
    return SimpleNamespace(
        at=at, stage=stage, losses={name: value.item() for name, value in losses.items()}, out=out, model=model, **wanted
    )


def test_every_recorded_loss(iteration: SimpleNamespace) -> None:
    assert set(iteration.losses) == set(iteration.loss)
    for name, value in iteration.loss.items():
        assert iteration.losses[name] == pytest.approx(value, rel=CLIP_LOSS, abs=1e-6), name
    assert iteration.loss["map.loss_mask_things"] > 0 and (iteration.stage == 1 or iteration.loss["motion.loss_traj"] > 0)


def test_every_recorded_match_id_and_overlap(record: b2d.Numbers, iteration: SimpleNamespace) -> None:
    train_clip.check_matches_by_row(record, iteration.out, iteration.at)


def test_recorded_gradients(iteration: SimpleNamespace) -> None:
    parameters = dict(iteration.model.named_parameters())
    learns = ("", "pts_bbox_head.transformer.encoder.", "planning_head.navi_embed.")[iteration.stage]
    assert any(name.startswith(learns) for name in iteration.grad)
    for name, norm in iteration.grad.items():
        assert parameters[name].grad.norm().item() == pytest.approx(norm, rel=CLIP_GRAD_NORM, abs=1e-5), name
