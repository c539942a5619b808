"""Reported objects are matched by class and place, so that a row that moved is no error and a lost object is one."""

from __future__ import annotations

import numpy as np

from uniad.verify.objects import align

ROWS = 8


def outputs(*objects: tuple[int, float, int], ego: int = ROWS - 1) -> dict[str, np.ndarray]:
    """objects: (row, x of the centre, label). Other rows are queries that are no objects."""
    made = {
        "boxes": np.zeros((1, ROWS, 9), np.float32),
        "cls_logits": np.zeros((1, ROWS, 3), np.float32),
        "score": np.zeros((1, ROWS), np.float32),
        "label": np.zeros((1, ROWS), np.int32),
        "obj_id": np.full((1, ROWS), -1, np.int32),
        "valid": np.ones((1, ROWS), np.int32),
        "active": np.zeros((1, ROWS), np.int32),
    }
    made["obj_id"][0, ego] = -2
    for number, (row, x, label) in enumerate(objects):
        made["boxes"][0, row, 0], made["label"][0, row] = x, label
        made["obj_id"][0, row], made["active"][0, row] = number, 1
    made["agent_row"] = np.array([[row for row, _, _ in objects] + [ego, -1]], np.int32)
    return made


def test_objects_that_moved_to_other_rows_stand_where_they_were() -> None:
    want = outputs((2, 10.0, 0), (3, 20.0, 1), (4, 30.0, 0))
    found = align(outputs((3, 10.1, 0), (4, 20.1, 1), (5, 30.1, 0)), want)
    assert found.unmatched == 0
    assert np.abs(found.outputs["boxes"] - want["boxes"])[0, [2, 3, 4], 0].max() < 0.11
    assert found.comparable[[2, 3, 4]].all() and found.comparable[[0, 1, ROWS - 1]].all()
    assert found.outputs["agent_row"].tolist() == [[2, 3, 4, ROWS - 1, -1]]


def test_an_object_that_only_one_reports_is_unmatched_and_is_compared_with_nothing() -> None:
    want = outputs((2, 10.0, 0), (3, 20.0, 1))
    found = align(outputs((2, 20.0, 1), (3, 40.0, 0)), want)
    assert found.unmatched == 2
    assert found.comparable[3] and not found.comparable[2]
    assert found.outputs["boxes"][0, 3, 0] == 20.0


def test_another_class_or_another_place_is_another_object() -> None:
    want = outputs((2, 10.0, 0))
    assert align(outputs((2, 10.0, 1)), want).unmatched == 2
    assert align(outputs((2, 12.5, 0)), want).unmatched == 2
    assert align(outputs(), want).unmatched == 1 == align(want, outputs()).unmatched


def test_neighbours_are_paired_so_that_all_find_their_own() -> None:
    want = outputs((0, 0.0, 0), (1, 1.0, 0), (2, 2.0, 0))
    found = align(outputs((0, 0.9, 0), (1, 1.9, 0), (2, -0.1, 0)), want)
    assert found.unmatched == 0
    assert np.allclose(found.outputs["boxes"][0, :3, 0], [-0.1, 0.9, 1.9])


def test_a_replay_of_the_same_is_left_as_it_is() -> None:
    want = outputs((2, 10.0, 0), (5, 20.0, 1))
    found = align(want, want)
    assert found.unmatched == 0 and found.comparable.all()
    assert all((found.outputs[name] == want[name]).all() for name in want)
