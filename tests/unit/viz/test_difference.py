"""Two runs in one picture: what both have, what one has alone, and cameras once."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.pictures import BEARING_DEG, EMPTY, NAMES, NOBODY, RANGE, STEPS, camera, car, future, painted
from uniad.viz.difference import ROW, TILE_H, WIDTH, difference, render_pair
from uniad.viz.page import VIEW, WALL, Content
from uniad.viz.palette import FIRST, SECOND


def content(boxes: np.ndarray, ids: list[int], **changes) -> Content:
    cells = np.zeros((25, 25))
    made = Content(
        images={name: np.zeros((900, 1600, 3), np.uint8) for name in WALL},
        lidar2img={name: camera(bearing) for name, bearing in BEARING_DEG.items()},
        boxes=boxes, labels=np.zeros(len(boxes), int), ids=np.array(ids, int), drivable=cells, lanes=np.zeros((3, 25, 25)),
        gt_boxes=EMPTY, gt_labels=np.zeros(0, int), gt_drivable=cells, gt_lanes=np.zeros((3, 25, 25)), caption="a run",
        future=future(**NOBODY),
    )  # fmt: skip
    for name, value in changes.items():
        setattr(made, name, value)
    return made


BOTH, MOVED, ALONE, OTHER = car(0, 20), car(0.5, 20), car(-15, 0), car(15, 0)


def test_objects_are_matched_by_class_and_place():
    a, b = content(np.concatenate([BOTH, ALONE]), [1, 2]), content(np.concatenate([OTHER, MOVED]), [3, 7])
    output = difference(a, b)
    assert output.both.tolist() == [[0, 1]] and output.first.tolist() == [1] and output.second.tolist() == [0]
    assert output.shift_m == pytest.approx(0.5) and output.ids == 1
    b.labels[:] = 1
    assert len(difference(a, b).both) == 0, "a truck in its place is another object"


def test_equal_runs_have_no_difference_and_empty_ones_can_be_compared():
    same = content(BOTH, [1])
    output = difference(same, same)
    assert (output.shift_m, output.ids, output.map_cells, output.occupied_cells, output.plan_m) == (0, 0, 0, 0, 0)
    assert len(difference(content(EMPTY, []), same).second) == 1
    image = render_pair(same, same, NAMES, RANGE)[TILE_H : TILE_H + VIEW, 2 * VIEW :]
    assert not len(painted(image[60:], FIRST)), "the plans coincide, the second drawn over the first"


def test_cells_and_plans_are_counted():
    a, b = content(EMPTY, []), content(EMPTY, [], future=future(**NOBODY, plan=STEPS * np.array([0.0, 8.0]) + [3.0, 0.0]))
    a.drivable = np.ones((25, 25))
    b.future.occupancy[0, :5] = True
    output = difference(a, b)
    assert output.map_cells == pytest.approx(1 / 4) and output.occupied_cells == pytest.approx(1 / 25)
    assert output.plan_m == pytest.approx(3.0)


def test_the_picture_has_six_cameras_once_and_each_run_in_a_view_of_its_own():
    a, b = content(np.concatenate([BOTH, ALONE]), [1, 2]), content(np.concatenate([BOTH, OTHER]), [1, 3])
    image = render_pair(a, b, NAMES, RANGE)
    assert image.shape[1] == WIDTH == 3 * VIEW
    row, views = image[:TILE_H], image[TILE_H : TILE_H + VIEW]
    width = WIDTH // len(ROW)
    seen = {name: row[:, i * width : (i + 1) * width] for i, name in enumerate(ROW)}
    assert len(painted(seen["CAM_FRONT_LEFT"], FIRST)) + len(painted(seen["CAM_BACK_LEFT"], FIRST)) > 0
    assert len(painted(seen["CAM_FRONT_RIGHT"], SECOND)) + len(painted(seen["CAM_BACK_RIGHT"], SECOND)) > 0
    assert not len(painted(seen["CAM_FRONT"], SECOND)), "what both have is neither's"
    apart = views[60:, 2 * VIEW :]
    assert painted(apart, FIRST)[:, 1].mean() < VIEW / 2 < painted(apart, SECOND)[:, 1].max()


def test_runs_of_stage_1_have_no_plan_to_compare():
    one = content(BOTH, [1], future=None)
    output = difference(one, one)
    assert output.plan_m is None and output.occupied_cells is None and "plans" not in output.lines()[0]
    assert render_pair(one, one, NAMES, RANGE).shape[1] == WIDTH
