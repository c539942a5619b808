"""Planning metrics: the recorded values, both definitions by hand, and merging."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.recorded import Recorded
from uniad.config.spec import UPSTREAM
from uniad.evaluation.planning import (
    PlanningMetric,
    box_hits,
    constant_velocity_plan,
    ego_velocity,
    ego_velocity_from_can_bus,
)

FULL_GRID = ((-50.0, 50.0, 0.5), (-50.0, 50.0, 0.5))
TINY_GRID = ((-12.5, 12.5, 0.5), (-12.5, 12.5, 0.5))  # of tiny's labels; upstream evaluates every config on it
GRIDS = {"tiny": TINY_GRID, "base": FULL_GRID}


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded.extract("planning")


def samples(recorded: Recorded, name: str) -> list[tuple[np.ndarray, ...]]:
    parts = ("trajs", "gt_trajs", "gt_mask", "segmentation")
    return list(zip(*(recorded.arrays[f"metrics/planning_{name}/{part}"] for part in parts)))


def empty(steps: int = 6) -> np.ndarray:
    return np.zeros((steps, 50, 50), np.uint8)


@pytest.mark.parametrize("name", GRIDS)
def test_recorded_sums_and_rates(name: str, recorded: Recorded) -> None:
    metric, at = PlanningMetric(GRIDS[name]), f"metrics/planning_{name}/"
    running = recorded.arrays[at + "running_obj_col_boxcol_L2"]
    for sample, (obj_col, obj_box_col, l2) in zip(samples(recorded, name), running, strict=True):
        metric.update(*sample)
        np.testing.assert_array_equal(metric.sums[1:], [obj_col, obj_box_col])
        np.testing.assert_allclose(metric.sums[0], l2, rtol=1e-5)
    assert running[-1].any(1).all(), "the recording has collisions of both kinds"
    for key, values in metric.per_step().items():
        np.testing.assert_allclose(values, recorded.arrays[f"{at}out_{key}"], rtol=1e-5)


def test_both_definitions_by_hand() -> None:
    metric = PlanningMetric(TINY_GRID)
    plan = np.zeros((6, 2))
    plan[:, 0] = [1, 2, 3, 4, 5, 6]
    metric.update(plan, np.zeros((6, 3)), np.ones(6), empty())
    found = metric.compute()
    assert [found[f"L2_{t}s"] for t in (1, 2, 3)] == [2, 4, 6]
    assert [found[f"L2_avg_{t}s"] for t in (1, 2, 3)] == [1.5, 2.5, 3.5]
    assert {k: v for k, v in found.items() if "col" in k} == {
        f"{kind}{how}_{t}s": 0 for kind in ("obj_col", "obj_box_col") for how in ("", "_avg") for t in (1, 2, 3)
    }


def test_collisions_of_centre_and_footprint_where_the_driver_has_none() -> None:
    occupied = empty()
    occupied[1, 29, 25] = 1  # 2.25 m ahead, at 1 s: under the bonnet, not under the centre
    occupied[3, 24, 24] = 1  # where upstream's cell index puts the origin, at 2 s
    occupied[5] = 1  # everywhere at 3 s: the driver collides too
    driver = np.tile([8.0, 0.0], (6, 1))
    metric = PlanningMetric(TINY_GRID)
    metric.update(np.zeros((6, 2)), driver, np.ones((6, 2)), occupied)
    found = metric.compute()
    assert [found[f"obj_col_{t}s"] for t in (1, 2, 3)] == [0, 1, 0]
    assert [found[f"obj_box_col_{t}s"] for t in (1, 2, 3)] == [1, 1, 0]
    assert [found[f"obj_box_col_avg_{t}s"] for t in (1, 2, 3)] == [1 / 2, 2 / 4, 2 / 6]
    standing = PlanningMetric(TINY_GRID)
    standing.update(np.zeros((6, 2)), np.zeros((6, 2)), np.ones((6, 2)), occupied)
    assert not standing.sums.any(), "the driver stood there too"
    told = PlanningMetric(TINY_GRID)
    hits = told.driver_hits(driver, occupied)
    assert hits.tolist() == [False] * 5 + [True]
    told.update(np.zeros((6, 2)), driver, np.ones((6, 2)), occupied, driver=hits)
    assert np.array_equal(told.sums, metric.sums)


def test_steps_without_ground_truth_count_as_in_upstream_or_not_at_all() -> None:
    mask = np.array([1, 1, 0, 0, 0, 0])
    gt = np.where(mask[:, None], 0.0, np.nan) * np.ones((6, 2))
    plan = np.tile([3.0, 4.0], (6, 1))
    values = {}
    for compat in (UPSTREAM, "fixed"):
        metric = PlanningMetric(TINY_GRID, compat=compat)
        metric.update(plan, gt, mask, empty())
        metric.update(plan, np.zeros((6, 2)), np.ones(6), empty())
        values[compat] = metric.compute()
    assert [values[UPSTREAM][f"L2_{t}s"] for t in (1, 2, 3)] == [5, 2.5, 2.5]
    assert [values["fixed"][f"L2_{t}s"] for t in (1, 2, 3)] == [5, 5, 5]
    nothing = PlanningMetric(TINY_GRID, compat="fixed")
    nothing.update(plan, gt, np.zeros(6), empty())
    assert all(np.isnan(v) for v in nothing.compute().values())
    assert all(np.isnan(v) for v in PlanningMetric(FULL_GRID).compute().values())


def test_a_step_without_ground_truth_is_left_out_where_upstream_leaves_it_out() -> None:
    # The plan collides at 2 and at 3 s, where nothing is known of the driver. The path given there collides at 2 s and does
    # not at 3 s, though the place that stands for "nothing known", the origin, is occupied then.
    occupied = empty()
    occupied[3, 40:, :] = 1  # far ahead
    occupied[5, 20:30, 20:30] = 1  # around the origin
    plan = np.zeros((6, 2))
    plan[3] = 0, 10
    driver = np.zeros((6, 2))
    driver[3], driver[5] = (5, 10), (-10, -10)
    mask = np.array([1, 1, 1, 0, 1, 0])
    found = {}
    for compat in (UPSTREAM, "fixed"):
        metric = PlanningMetric(TINY_GRID, compat=compat)
        metric.update(plan, driver, mask, occupied)
        found[compat] = metric.sums[2].tolist()
    assert found == {UPSTREAM: [0, 0, 0, 0, 0, 1], "fixed": [0] * 6}


def turned(x: float, y: float, width: float, length: float, yaw: float) -> np.ndarray:
    return np.array([[x, y, 0, width, length, 1.5, yaw, 0, 0]], np.float32)


STRAIGHT = np.arange(1, 7)[:, None] * np.array([[0.0, 4.0]], np.float32)  # 4 m a step, along y
NONE = np.zeros((0, 9), np.float32)


@pytest.mark.parametrize(
    ("box", "hit"),
    [
        (turned(0, 12, 2, 4, 0), (True, True)),  # on the third place
        (turned(1.8, 12, 2, 4, 0), (False, True)),  # beside it by less than both half widths, 1.925 m
        (turned(2.1, 12, 2, 4, 0), (False, False)),
        (turned(2.1, 12, 2, 4, np.pi / 2), (False, True)),  # across: it is 4 m wide now
        (turned(0, 15.4, 2, 2, 0), (False, True)),  # its rear at 14.4 m, the car's front at 12 + 0.5 + 2.042
        (turned(0, 15.7, 2, 2, 0), (False, False)),
        (turned(0, 9.7, 2, 2, 0), (False, True)),  # its front at 10.7 m, the car's rear at 10.458
        (turned(0, 9.3, 2, 2, 0), (False, False)),
    ],
)
def test_fixed_collisions_are_of_the_boxes_themselves(box: np.ndarray, hit: tuple[bool, bool]) -> None:
    assert box_hits(STRAIGHT, [NONE, NONE, box, NONE, NONE, NONE]).tolist() == [[t == 2 and h for t in range(6)] for h in hit]


def test_the_footprint_turns_with_the_path_and_stays_turned_where_it_stands() -> None:
    right = np.array([[4, 0], [8, 0], [8, 0.05], [8, 0.05], [8, 0.05], [8, 0.05]], np.float32)
    beside = turned(10.2, 0, 1, 1, 0)  # 2.2 m along x: under the front of a car that looks that way, 0.5 + 2.042 ahead
    assert box_hits(right, [NONE, *[beside] * 5])[1].tolist() == [False, True, True, True, True, True]


@pytest.mark.parametrize("cell", [0.5, 2.0])
def test_a_collision_counts_on_any_grid_unless_the_driver_collides_too(cell: float) -> None:
    grid = ((-50.0, 50.0, cell), (-50.0, 50.0, cell))
    rows = round(100 / cell)
    boxes = [NONE, NONE, turned(0, 12, 2, 4, 0), NONE, turned(3, 20, 2, 4, 0), NONE]
    metric = PlanningMetric(grid, compat="fixed")
    driver = STRAIGHT + np.array([[3.0, 0.0]], np.float32)
    metric.update(STRAIGHT, driver, np.ones((6, 2)), np.zeros((6, rows, rows)), boxes)
    metric.update(driver, driver, np.ones((6, 2)), np.zeros((6, rows, rows)), boxes)  # on the fifth place, as the driver
    assert metric.per_step()["obj_box_col"].tolist() == metric.per_step()["obj_col"].tolist() == [0, 0, 0.5, 0, 0, 0]


def test_two_processes_add_up_to_one(recorded: Recorded) -> None:
    whole, parts = PlanningMetric(TINY_GRID), [PlanningMetric(TINY_GRID) for _ in range(2)]
    for i, sample in enumerate(samples(recorded, "tiny")):
        whole.update(*sample)
        parts[i % 2].update(*sample)
    parts[1].merge(parts[0])
    assert parts[1].samples == whole.samples
    for key, value in whole.compute().items():
        assert parts[1].compute()[key] == pytest.approx(value, rel=1e-12), key


def test_inputs_are_left_as_they_are_and_wrong_shapes_are_named(recorded: Recorded) -> None:
    sample = samples(recorded, "tiny")[0]
    copies = [x.copy() for x in sample]
    PlanningMetric(TINY_GRID).update(*sample)
    assert all(np.array_equal(a, b) for a, b in zip(sample, copies))
    with pytest.raises(ValueError, match="200 x 200 cells"):
        PlanningMetric(FULL_GRID).update(*sample)


def test_constant_velocity_follows_the_car_on_any_heading() -> None:
    # A car that turned left by 30 degrees drives 5 m along its own y axis in half a second.
    turn = np.radians(30)
    global_from_lidar = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    now = np.array([600.0, 1700.0, 2.0])
    before = now - global_from_lidar @ [0, 5, 0]
    velocity = ego_velocity(global_from_lidar.T, now, before, 0.5)
    np.testing.assert_allclose(velocity, [0, 10], atol=1e-9)
    np.testing.assert_allclose(constant_velocity_plan(velocity)[[1, 3, 5]], [[0, 10], [0, 20], [0, 30]], atol=1e-5)
    can_bus = np.zeros(18)
    can_bus[13:15] = 10, 1  # forward, left
    np.testing.assert_allclose(ego_velocity_from_can_bus(can_bus), [-1, 10])
    with pytest.raises(ValueError, match="older"):
        ego_velocity(np.eye(3), now, before, 0.0)
