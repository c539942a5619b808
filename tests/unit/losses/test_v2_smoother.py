"""What training does in UniAD v2.0's way: smoothing of futures."""

from __future__ import annotations

import math

import torch

from helpers.v2 import RecordedV2, box9_of_v2
from uniad.geometry.boxes import limit_period
from uniad.losses.smoother import smooth_trajectories


def test_smoothing_starts_as_in_v2():
    """From each generation's own numbers; agents that head for more than pi/2 tell them apart."""
    ops = RecordedV2("ops")
    gt, boxes = (box9_of_v2(ops[f"smoother/{name}"].float()) for name in ("gt", "boxes"))
    boxes[:, 6] = limit_period(boxes[:, 6], 0.5, 2 * math.pi)  # as it is read off a sine and a cosine
    traj, mask, want = ops["smoother/traj"].float(), ops["smoother/mask"][..., 0].float(), ops["smoother/out"].float()
    known = mask > 0
    found = smooth_trajectories(gt, traj, mask, boxes, wrapped=True)
    assert (found - want)[known].abs().max() < 2e-3
    as_v1 = smooth_trajectories(gt, traj, mask, boxes)
    apart = (as_v1 - want).abs().amax(-1).masked_fill(~known, 0).amax(-1)
    backwards = ops["smoother/boxes"][:, 6] > math.pi / 2
    assert torch.equal(apart > 0.01, backwards), apart
