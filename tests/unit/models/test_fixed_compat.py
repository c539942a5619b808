"""What nano does otherwise than upstream: known faults fixed, and a stage 1 that stage 2 leaves alone."""

from __future__ import annotations

import torch

from helpers.specs import config_path, edit, nano_spec, tiny_spec
from uniad.config.read import load_spec
from uniad.models.bev_encoder import BevEncoder
from uniad.models.uniad import UniAD


def test_the_previous_bev_turns_about_its_middle():
    assert tiny_spec().model.bev.rotate_center == (100, 100)
    fixed = load_spec(config_path("tiny"), ["native.compat=dict(rotate_center='fixed')"])
    assert fixed.model.bev.rotate_center == (25.0, 25.0) == nano_spec().model.bev.rotate_center


def test_temporal_attention_looks_for_a_cell_where_each_bev_shows_it():
    """The car moved by a tenth of the BEV: the previous one shows a cell's place a tenth away, the current one in the cell."""
    spec = edit(nano_spec().model.bev, height=4, width=4)
    shift = torch.tensor([[0.1, 0.0]])
    for shift_now, current in ((True, 0.1), (False, 0.0)):
        encoder, seen = BevEncoder(edit(spec, shift_now=shift_now)), []

        class Stop(Exception):
            pass

        def watch(query, temporal, spatial, grid_hw, seen=seen):
            seen.append(temporal[-1])
            raise Stop

        encoder.layers[0].forward = watch
        cells, dim = spec.height * spec.width, spec.embed_dims
        zeros = torch.zeros(1, cells, dim)
        try:
            encoder(
                zeros, zeros, zeros, torch.ones(1, dtype=torch.bool), shift, torch.zeros(1, 6, 1, dim), ((1, 1),),
                torch.eye(4).expand(1, 6, 4, 4), (8, 8),
            )  # fmt: skip
        except Stop:
            pass
        offset = (seen[0] - encoder.cells_S2[None, :, None])[..., 0].expand(1, cells, 2)
        torch.testing.assert_close(offset, torch.tensor([0.1, current]).expand(1, cells, 2))


def test_stage_2_of_nano_trains_its_own_heads_alone():
    spec = nano_spec(2).model
    heads = {"occ_head", "motion_head", "planning_head"}
    model = UniAD(spec, torch.zeros(4, 6, 12, 2))
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad} == heads
    free = UniAD(edit(spec, freeze__stage1=False), torch.zeros(4, 6, 12, 2))
    assert {name.split(".")[0] for name, p in free.named_parameters() if p.requires_grad} > heads


def test_nano_stays_small_enough_to_ship():
    model = UniAD(nano_spec(2).model, torch.zeros(4, 6, 12, 2))
    assert sum(p.numel() for p in model.parameters()) < 8e6
