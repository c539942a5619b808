"""How training measures whether a row holds its object, and in which frames."""

from __future__ import annotations

import pytest
import torch

from helpers.specs import edit, nano_spec, tiny_spec
from uniad.config.spec import UPSTREAM
from uniad.geometry.boxes import decode_boxes, nearest_bev_iou
from uniad.losses.matcher import FrameTargets, _select_carried, overlaps

BY_IOU = tiny_spec().model.track_loss
BY_DISTANCE = nano_spec().model.track_loss


def box10(x: float, y: float, size: float = 0.6) -> torch.Tensor:
    """An upright box of equal sides, metres."""
    log = torch.tensor(size).log().item()
    return torch.tensor([x, y, log, log, 0.0, log, 0.0, 1.0, 0.0, 0.0])


def test_upstream_measures_iou_and_nano_distance():
    assert (BY_IOU.overlap, BY_IOU.stale_overlap) == ("iou", UPSTREAM)
    assert (BY_DISTANCE.overlap, BY_DISTANCE.stale_overlap) == ("distance", "fixed")


def test_distance_falls_from_one_to_nothing_at_four_metres_whatever_the_size():
    truth = box10(10.0, -3.0)
    for away, wanted in ((0.0, 1.0), (1.0, 0.75), (2.0, 0.5), (4.0, 0.0), (9.0, 0.0)):
        for size in (0.6, 4.0):
            got = overlaps(box10(10.0 + away * 0.6, -3.0 - away * 0.8, size), truth, BY_DISTANCE)
            assert got.item() == pytest.approx(wanted, abs=1e-6)
    pair = torch.stack([box10(0.3, 0.0), box10(0.1, 0.2)]), torch.stack([box10(0.0, 0.0), box10(0.0, 0.0)])
    assert torch.equal(overlaps(*pair, BY_IOU), nearest_bev_iou(*map(decode_boxes, pair)))
    assert overlaps(*pair, BY_IOU)[0] < 0.5 < overlaps(*pair, BY_DISTANCE)[0]  # a pedestrian 0.3 m off


@pytest.mark.parametrize(("stale", "wanted"), [(UPSTREAM, 0.9), ("fixed", 0.75)])
def test_only_upstream_keeps_an_overlap_for_want_of_a_new_object(stale, wanted):
    """One row that holds the only object, already tracked, 1 m off; its overlap of earlier was 0.9."""
    gt = FrameTargets(
        boxes=box10(0.0, 0.0)[None, None], labels=torch.zeros(1, 1, dtype=torch.int64), ids=torch.tensor([[7]]),
        valid=torch.ones(1, 1, dtype=torch.bool), past_traj=torch.zeros(1, 1, 8, 2), past_traj_mask=torch.zeros(1, 1, 8, 2),
        sdc_box=box10(0.0, 0.0)[None], sdc_label=torch.zeros(1, dtype=torch.int64),
    )  # fmt: skip
    spec = edit(BY_DISTANCE, stale_overlap=stale)
    boxes, ids, iou = box10(1.0, 0.0)[None, None], torch.tensor([[7]]), torch.tensor([[0.9]])
    untracked = torch.zeros(1, 1, dtype=torch.bool)
    after, measured = _select_carried(boxes, ids, iou, torch.zeros(1, 1, dtype=torch.int64), untracked, gt, spec)
    assert after.tolist() == [[7]] and measured.item() == pytest.approx(wanted)
