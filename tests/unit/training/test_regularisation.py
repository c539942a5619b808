"""Training without dropout, grid mask and photometric distortion."""

from __future__ import annotations

import torch

from helpers.clips import small_clip, small_spec
from helpers.specs import tiny_spec
from uniad.losses.criterion import Criterion, total_loss
from uniad.models.uniad import UniAD
from uniad.training.clip import forward_clip
from uniad.training.regularisation import plain_images, without_dropout


def test_a_config_without_regularisation_keeps_all_else():
    spec = tiny_spec()
    plain = plain_images(spec)
    assert spec.model.use_grid_mask and spec.data.image.photometric
    assert not plain.model.use_grid_mask and not plain.data.image.photometric
    assert plain.model.decoder == spec.model.decoder and plain.data.canvas_hw == spec.data.canvas_hw


def test_without_dropout_an_iteration_repeats_itself():
    spec = small_spec(bev__dropout=0.3, decoder__dropout=0.3, decoder__ffn_dropout=0.3, map__dropout=0.3)
    model, clip, criterion = UniAD(spec).train(), small_clip(), Criterion(spec)

    def loss(seed: int) -> float:
        torch.manual_seed(seed)
        return total_loss(forward_clip(model, clip, criterion, torch.Generator().manual_seed(0))[0]).item()

    assert loss(0) != loss(1)
    assert without_dropout(model) > 0
    assert without_dropout(model) == 0
    assert loss(0) == loss(1)
