"""Track slots: births, deaths, selection and motion, against plain loops and against recorded numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.recorded import Recorded
from helpers.specs import tiny_spec
from helpers.tolerances import close
from uniad.interface.types import EGO_ID, FREE_ID
from uniad.models.track import (
    compact,
    count_before,
    empty_tracks,
    invert_3x3,
    move_reference_points,
    release,
    select_training_tracks,
    stack_rows,
    take_rows,
    take_tracks,
    update_ids,
)

TRACK = tiny_spec().model.track


@pytest.fixture(scope="module", params=["golden", "extract"])
def recorded(request: pytest.FixtureRequest) -> Recorded:
    if request.param == "extract":
        return Recorded.extract("track")
    return Recorded.golden(request.getfixturevalue("golden"), "tiny_stage2", ("forward", "modules"))


def _loop_tracker(ids: list[int], sleep: list[int], scores: list[float], next_id: int) -> int:
    """Upstream's rule, one row at a time."""
    for i, score in enumerate(scores):
        if score >= TRACK.score_thresh:
            sleep[i] = 0
        if ids[i] == FREE_ID and score >= TRACK.score_thresh:
            ids[i], next_id = next_id, next_id + 1
        elif ids[i] >= 0 and score < TRACK.filter_score_thresh:
            sleep[i] += 1
            if sleep[i] >= TRACK.miss_tolerance:
                ids[i] = FREE_ID
    return next_id


def test_ids_follow_the_row_by_row_rule_in_every_batch_element() -> None:
    g = torch.Generator().manual_seed(0)
    batch, rows = 3, 40
    obj_id = torch.full((batch, rows), FREE_ID, dtype=torch.int32)
    obj_id[:, 7] = EGO_ID
    sleep = torch.zeros(batch, rows, dtype=torch.int32)
    next_id = torch.tensor([0, 5, 100], dtype=torch.int32)
    want_id, want_sleep, want_next = obj_id.tolist(), sleep.tolist(), next_id.tolist()
    for _ in range(30):
        score = torch.rand(batch, rows, generator=g) * 0.45  # most rows fall asleep, some die, some are born again
        obj_id, sleep, next_id = update_ids(obj_id, sleep, score, torch.ones_like(obj_id, dtype=torch.bool), next_id, TRACK)
        for b in range(batch):
            want_next[b] = _loop_tracker(want_id[b], want_sleep[b], score[b].tolist(), want_next[b])
        assert obj_id.tolist() == want_id and sleep.tolist() == want_sleep and next_id.tolist() == want_next
    assert obj_id.dtype == sleep.dtype == next_id.dtype == torch.int32


def test_an_empty_slot_is_never_born() -> None:
    obj_id = torch.full((1, 3), FREE_ID, dtype=torch.int32)
    valid = torch.tensor([[True, False, True]])
    zeros = torch.zeros_like(obj_id)
    ids, _, next_id = update_ids(obj_id, zeros, torch.full((1, 3), 0.9), valid, zeros[:, 0], TRACK)
    assert ids.tolist() == [[0, FREE_ID, 1]] and next_id.tolist() == [2]


def test_tracker_life_cycle_equals_the_recorded_one(golden) -> None:
    with np.load(golden / "metrics.npz") as data:
        scores, ids, sleep = (torch.from_numpy(data[f"tracker/{k}"]) for k in ("scores", "obj_idxes", "disappear_time"))
    got_id = torch.full((1, 12), FREE_ID, dtype=torch.int32)
    got_id[:, 11] = EGO_ID
    got_sleep, next_id = torch.zeros_like(got_id), torch.zeros(1, dtype=torch.int32)
    for frame in range(12):
        got_id, got_sleep, next_id = update_ids(
            got_id, got_sleep, scores[frame][None], torch.ones(1, 12, dtype=torch.bool), next_id, TRACK
        )
        assert torch.equal(got_id[0].long(), ids[frame]) and torch.equal(got_sleep[0].long(), sleep[frame])


def test_ids_of_recorded_frames_are_reproduced(recorded: Recorded) -> None:
    next_id = torch.zeros(1, dtype=torch.int32)
    for frame in range(3):
        at = f"f{frame}/trk/"
        before, sleep = (recorded[at + k].int()[None] for k in ("before_obj_idxes", "before_disappear_time"))
        score = recorded[at + "before_scores"][None]
        ids, sleep, next_id = update_ids(before, sleep, score, torch.ones_like(before, dtype=torch.bool), next_id, TRACK)
        assert torch.equal(ids[0].long(), recorded[at + "after_obj_idxes"].long())
        assert torch.equal(sleep[0].long(), recorded[at + "after_disappear_time"].long())
        active = (ids >= 0) & (score >= TRACK.filter_score_thresh)
        assert torch.equal(active[0], recorded[at + "active_index"].bool())


def test_reference_points_move_as_recorded(recorded: Recorded) -> None:
    for frame in (1, 2):
        at = f"f{frame}/velo/"
        moved = move_reference_points(
            recorded[at + "ref_pts"][None], recorded[at + "velocity"][None], recorded[at + "l2g_r1"], recorded[at + "l2g_t1"],
            recorded[at + "l2g_r2"], recorded[at + "l2g_t2"], recorded[at + "time_delta"].float(), TRACK.pc_range,
        )  # fmt: skip
        close(moved, recorded[at + "out"], "moved_reference")


def test_a_standing_object_keeps_its_global_position_while_the_car_turns() -> None:
    def pose(yaw: float, x: float, y: float) -> tuple[torch.Tensor, torch.Tensor]:
        c, s = np.cos(yaw), np.sin(yaw)
        return torch.tensor([[[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]]], dtype=torch.float32), torch.tensor([[x, y, 1.8]])

    point = torch.tensor([[[10.0, -4.0, 0.5]]])
    (r1, t1), (r2, t2) = pose(0.3, 600.0, 1600.0), pose(0.5, 603.0, 1601.0)
    unit = (point + torch.tensor([51.2, 51.2, 5.0])) / torch.tensor([102.4, 102.4, 8.0])
    moved = move_reference_points(unit.logit(), torch.zeros(1, 1, 2), r1, t1, r2, t2, torch.ones(1), TRACK.pc_range)
    here = moved.sigmoid() * torch.tensor([102.4, 102.4, 8.0]) - torch.tensor([51.2, 51.2, 5.0])
    torch.testing.assert_close(here @ r2 + t2, point @ r1 + t1, atol=5e-4, rtol=0)


def test_inverse_of_any_matrix() -> None:
    m = torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(invert_3x3(m), torch.linalg.inv(m))


def test_count_before_is_the_exclusive_running_count() -> None:
    mask = torch.rand(4, 33, generator=torch.Generator().manual_seed(2)) < 0.3
    assert torch.equal(count_before(mask), (mask.int().cumsum(1) - mask.int()).int())


def test_compaction_keeps_row_order_and_drops_the_weakest() -> None:
    selected = torch.tensor([[True, False, True, True, False, True], [False, False, False, True, False, False]])
    score = torch.tensor([[0.9, 1.0, 0.1, 0.5, 1.0, 0.7], [0.9, 1.0, 0.1, 0.5, 1.0, 0.7]])
    selection = compact(selected, score, capacity=3)
    assert selection.index[0].tolist() == [0, 3, 5] and selection.valid[0].all()
    assert selection.dropped.tolist() == [1, 0]
    assert selection.valid[1].tolist() == [True, False, False] and selection.index[1, 0] == 3
    everything = compact(selected, score, capacity=9)
    assert everything.index[0][everything.valid[0]].tolist() == [0, 2, 3, 5] and everything.valid.shape == (2, 9)


def test_carried_rows_take_all_their_fields_and_empty_slots_take_none() -> None:
    tracks = empty_tracks(2, 5, 8, 4)
    tracks = tracks._replace(
        query=torch.arange(2 * 5 * 16.0).view(2, 5, 16),
        obj_id=torch.tensor([[0, -1, 2, 3, 4], [-1, -1, 7, -1, -1]], dtype=torch.int32),
        mem_padding=torch.zeros(2, 5, 4, dtype=torch.bool), save_period=torch.full((2, 5), 3.0),
    )  # fmt: skip
    selection = compact(tracks.obj_id >= 0, torch.ones(2, 5), capacity=5)
    taken = take_tracks(tracks, selection)
    assert taken.obj_id.tolist() == [[0, 2, 3, 4, -1], [7, -1, -1, -1, -1]]
    assert torch.equal(taken.query[0, :4], tracks.query[0, [0, 2, 3, 4]]) and torch.equal(taken.query[1, 0], tracks.query[1, 2])
    empty = taken.obj_id < 0
    assert taken.mem_padding[empty].all() and not taken.mem_padding[~empty].any() and not taken.save_period[empty].any()


def test_take_rows_gathers_per_batch_element() -> None:
    x = torch.arange(2 * 4 * 3).view(2, 4, 3)
    got = take_rows(x, torch.tensor([[3, 0], [1, 1]], dtype=torch.int32))
    assert torch.equal(got, torch.stack([x[0, [3, 0]], x[1, [1, 1]]]))


def test_released_slots_are_not_rows() -> None:
    carried = empty_tracks(1, 3, 8, 4)._replace(obj_id=torch.tensor([[4, 5, -1]], dtype=torch.int32))
    freed = release(carried, torch.tensor([[True, False, False]]))
    rows = stack_rows(empty_tracks(1, 2, 8, 4), freed)
    assert rows.valid.tolist() == [[True, True, False, True, False]]


def _training_rows() -> dict[str, torch.Tensor]:
    #            track  track  low-iou ego   free  free  padding
    return {
        "obj_id": torch.tensor([[3, 8, 9, -2, -1, -1, -1]], dtype=torch.int32),
        "iou": torch.tensor([[0.9, 0.6, 0.5, 0.9, 0.9, 0.0, 0.9]]),
        "score": torch.tensor([[0.2, 0.3, 0.9, 0.1, 0.5, 0.8, 1.0]]),
        "valid": torch.tensor([[True] * 6 + [False]]),
    }


@pytest.mark.parametrize(
    ("drop", "fp", "want"),
    [
        ([0.5] * 7, [0.9] * 7, [0, 1]),  # nothing drawn: the overlapping tracks
        ([0.5, 0.05, 0, 0, 0, 0, 0], [0.9] * 7, [0]),  # the second is dropped
        ([0.5] * 7, [0.1, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1], [0, 1, 5]),  # one false positive: the best-scored free row
        ([0.5] * 7, [0.1] * 7, [0, 1, 4, 5]),  # two
        ([0.0] * 7, [0.0] * 7, []),  # all dropped: no one to admit false positives
    ],
)
def test_training_selection(drop: list[float], fp: list[float], want: list[int]) -> None:
    selection = select_training_tracks(**_training_rows(), drop_rand=torch.tensor([drop]), fp_rand=torch.tensor([fp]), spec=TRACK)
    assert selection.index[0][selection.valid[0]].tolist() == want
    assert selection.index.shape == (1, TRACK.capacity)


def test_training_selection_admits_no_more_false_positives_than_there_are() -> None:
    rows = _training_rows()
    rows["obj_id"] = torch.tensor([[3, 8, 9, 1, 2, -1, -1]], dtype=torch.int32)
    rows["iou"] = torch.ones(1, 7)
    selection = select_training_tracks(**rows, drop_rand=torch.ones(1, 7), fp_rand=torch.zeros(1, 7), spec=TRACK)
    assert selection.index[0][selection.valid[0]].tolist() == [0, 1, 2, 3, 4, 5]  # the padded row never is one
