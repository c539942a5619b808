"""Which tracks become agents, in which slot, at inference and in training."""

from __future__ import annotations

import torch
from torch import Tensor

from helpers.specs import tiny_spec
from uniad.config.spec import TrackSpec
from uniad.interface.types import DetOutput, TrackOutput
from uniad.models.agents import select_agents, select_training_agents

SPEC: TrackSpec = tiny_spec(model__track__num_query=4).model.track
EGO = 4  # row of the ego query


def report(scores: list[float], ids: list[int], x: list[float] | None = None, batch: int = 1) -> TrackOutput:
    count = len(scores)
    boxes = torch.zeros(batch, count, 9)
    boxes[..., 0] = torch.tensor(x or [0.0] * count)
    score = torch.tensor(scores).expand(batch, -1)
    label = (torch.arange(count) % 10).int().expand(batch, -1)
    obj_id = torch.tensor(ids, dtype=torch.int32).expand(batch, -1)
    rows = torch.arange(count, dtype=torch.float32)
    return TrackOutput(
        boxes=boxes, cls_logits=torch.zeros(batch, count, 10), score=score, label=label,
        obj_id=obj_id, valid=obj_id > -9, active=(obj_id >= 0) & (score >= SPEC.filter_score_thresh),
        embedding=rows[:, None].expand(batch, count, 3), dropped=torch.zeros(batch, dtype=torch.int32),
    )  # fmt: skip


TRACKS = report([0.9, 0.5, 0.2, 0.4, 0.95, 0.8, 0.7, 0.36], [-1, 3, 7, 5, -2, 6, 1, 2], [0, 0, 0, 0, 0, 0, 99, 0], batch=2)


def test_active_tracks_come_best_first_and_the_ego_car_last() -> None:
    agents = select_agents(TRACKS, 5, SPEC)
    assert agents.row[0].tolist()[:3] == [5, 1, 3] and agents.row[0, -1] == EGO
    assert agents.obj_id.tolist() == [[6, 3, 5, 2, -1, -2]] * 2
    assert agents.valid.tolist() == [[True] * 4 + [False, True]] * 2
    assert agents.score[0, [0, 1, 2, 3, 5]].tolist() == torch.tensor([0.8, 0.5, 0.4, 0.36, 0.95]).tolist()
    assert torch.equal(agents.query[..., 0].long(), agents.row)
    assert agents.dropped.tolist() == [0, 0]


def test_too_many_tracks_keep_the_best_and_count_the_rest() -> None:
    agents = select_agents(TRACKS, 2, SPEC)
    assert agents.obj_id.tolist() == [[6, 3, -2]] * 2
    assert agents.dropped.tolist() == [2, 2]


def test_a_track_out_of_range_is_left_out_after_the_best_were_taken_as_in_upstream() -> None:
    narrow = tiny_spec(model__track__num_query=4, model__track__max_num=2).model.track
    agents = select_agents(TRACKS, 5, narrow)
    assert agents.obj_id[0].tolist() == [6, -1, -1, -1, -1, -2], "row 6 took the second place and fell out"


def test_a_scene_without_tracks_has_the_ego_car() -> None:
    agents = select_agents(report([0.1] * 6, [-1] * 4 + [-2, -1]), 9, SPEC)
    assert agents.valid.tolist() == [[False] * 9 + [True]]
    assert agents.obj_id[0, -1] == -2


def detections(batch: int, rows: int) -> DetOutput:
    g = torch.Generator().manual_seed(0)
    cls = torch.randn(1, batch, rows, 10, generator=g)
    boxes = torch.randn(1, batch, rows, 10, generator=g).requires_grad_()
    query = torch.randn(1, batch, rows, 3, generator=g).requires_grad_()
    return DetOutput(cls, boxes, torch.zeros(1, batch, rows, 8, 2), torch.zeros(batch, rows, 3), query)


def training(gt: list[int], ids: list[int], iou: list[float]) -> tuple:
    def one(x: list, dtype: torch.dtype) -> Tensor:
        return torch.tensor([x], dtype=dtype)

    det = detections(1, len(gt))
    valid = torch.ones(1, len(gt), dtype=torch.bool)
    valid[0, -1] = False
    args = valid, one(ids, torch.int64), one(iou, torch.float32), one(gt, torch.int64)
    return (det, *select_training_agents(det, *args, 4, SPEC))


def test_training_takes_rows_that_overlap_an_object_that_is_there() -> None:
    iou = SPEC.gt_iou_threshold
    #                                  ok  absent poor  no id  ego   ok  empty slot
    det, agents, matched = training([2, -1, 0, 3, -1, 0, 1], [5, 6, 7, -1, -2, 8, 9], [iou, 0.9, iou - 0.01, 0.9, 0.9, 0.9, 0.9])
    chosen = agents.row[0][agents.valid[0]].tolist()
    assert sorted(chosen[:-1]) == [0, 5] and chosen[-1] == EGO
    assert [{0: 2, 5: 0}[row] for row in chosen[:-1]] == matched[0, :2].tolist()
    assert matched[0, 2:].tolist() == [-1, -1, -1]
    score = det.cls[-1].sigmoid().amax(-1)[0]
    assert score[chosen[0]] >= score[chosen[1]]
    (agents.query.sum() + agents.boxes.sum()).backward()
    touched = det.query_feat.grad[0, 0].abs().sum(-1)[chosen] > 0
    assert touched.all() and (det.boxes.grad[0, 0, chosen].abs().sum(-1) > 0).all()


def test_nothing_matched_leaves_the_ego_car_without_an_object() -> None:
    _, agents, matched = training([-1] * 7, [-1] * 4 + [-2, -1, -1], [0.0] * 7)
    assert agents.valid.tolist() == [[False] * 4 + [True]] and matched.tolist() == [[-1] * 5]
