"""The auxiliary head on the BEV, for short trainings."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.clips import small_clip, small_model, small_spec
from uniad.errors import UserError
from uniad.geometry.boxes import encode_boxes
from uniad.models.uniad import UniAD
from uniad.training.checkpoint import DENSE_BEV, load_state
from uniad.training.dense import DenseBev, add_dense_bev, heat_map


def alone(values: Tensor) -> Tensor:
    return values


def one_car(spec, x: float, y: float) -> tuple[Tensor, Tensor, Tensor]:
    """boxes [1, 2, 9], labels, valid [1, 2]: a car, and a slot of padding."""
    boxes = torch.zeros(1, 2, 9)
    boxes[0, 0] = torch.tensor([x, y, -1.0, 2.0, 4.5, 1.6, 0.3, 1.0, -2.0])
    return boxes, torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[True, False]])


def test_heat_is_one_in_the_cell_of_a_centre_and_of_no_other_class():
    column, row = torch.tensor([[3.0, 7.0]]), torch.tensor([[1.0, 1.0]])
    heat = heat_map(column, row, torch.tensor([[2, 2]]), torch.tensor([[True, False]]), (1, 4, 6, 9))
    assert heat[0, 2, 1, 3] == 1
    assert heat[0, 2, 1, 7] < 1e-4, "a slot of padding gives no heat"
    assert heat[0, [0, 1, 3]].abs().max() == 0
    assert heat[0, 2, 1, 4] == heat[0, 2, 0, 3] == heat[0, 2, 2, 3] < 1


def test_the_right_answer_loses_next_to_nothing_and_the_cell_next_to_it_much():
    spec = small_spec()
    head = DenseBev(spec)
    boxes, labels, valid = one_car(spec, 12.0, -7.0)
    side = spec.decoder.pc_range[3] - spec.decoder.pc_range[0]
    place = (torch.tensor([12.0, -7.0]) - spec.decoder.pc_range[0]) / side * 10
    column, row = (int(v) for v in place.floor())
    box = torch.zeros(1, 10, 10, 10)
    box[0, :, row, column] = torch.cat([place - place.floor() - 0.5, encode_boxes(boxes[0, 0])[2:]])

    def losses(at_column: int) -> dict[str, float]:
        heat = torch.full((1, 10, 10, 10), -9.0)
        heat[0, 0, row, at_column] = 9.0
        shifted = box.roll(at_column - column, dims=3)
        return {k: v.item() for k, v in head.losses(heat, shifted, boxes, labels, valid, alone).items()}

    right, beside = losses(column), losses(column + 1)
    assert right["dense.loss_heat"] < 0.01 and right["dense.loss_box"] < 1e-5
    assert beside["dense.loss_heat"] > 1 and beside["dense.loss_box"] > 0.5


def test_what_lies_outside_the_grid_or_in_padding_does_not_count():
    spec = small_spec()
    head = DenseBev(spec)
    heat, box = torch.randn(1, 10, 10, 10), torch.randn(1, 10, 10, 10)
    boxes, labels, valid = one_car(spec, 12.0, -7.0)
    inside = head.losses(heat, box, boxes, labels, valid, alone)
    boxes[0, 1, :2] = 1000.0
    valid[0, 1] = True
    far = head.losses(heat, box, boxes, labels, valid, alone)
    assert all(torch.equal(inside[k], far[k]) for k in inside)
    nothing = head.losses(heat, box, boxes, labels, torch.zeros_like(valid), alone)
    assert all(v.isfinite() for v in nothing.values()) and nothing["dense.loss_box"] == 0


def test_its_gradient_reaches_the_bev_of_every_frame_and_only_valid_numbers():
    spec, clip = small_spec(), small_clip()
    head = DenseBev(spec)
    bev = torch.randn(*clip.targets.labels.shape[:2], 100, 32, requires_grad=True)
    torch.stack(list(head(bev, clip.targets, alone).values())).sum().backward()
    assert bev.grad.isfinite().all() and (bev.grad.flatten(2).abs().amax(-1) > 0).all()


def test_weights_of_a_run_with_the_head_fit_a_model_without_it_and_the_reverse():
    spec = small_spec()
    learnt, plain = small_model(spec, 1), UniAD(spec)
    add_dense_bev(learnt, spec)
    report = load_state(plain, learnt.state_dict(), path="with")
    assert all(name.startswith(DENSE_BEV) for name in report.unexpected) and report.unexpected
    assert torch.equal(plain.query_embedding.weight, learnt.query_embedding.weight)
    report = load_state(learnt, plain.state_dict(), path="without")
    assert all(name.startswith(DENSE_BEV) for name in report.missing) and report.missing


def test_a_frozen_bev_encoder_has_nothing_to_learn_from_it(tmp_path):
    from helpers.specs import tiny_spec
    from uniad.training.options import TrainOptions
    from uniad.training.run import RunOptions, train

    options = RunOptions(train=TrainOptions(work_dir=tmp_path / "work"), device="cpu", dense_bev=True)
    with pytest.raises(UserError, match="freezes"):
        train(tiny_spec(2), options)
