"""The plan that gives way: slower on its own way, never beside it, for who is tracked there and for nobody else."""

from __future__ import annotations

import numpy as np
import pytest

from uniad.postprocess.giving_way import give_way

SIZES = {"car": (1.9, 4.6), "pedestrian": (0.7, 0.7), "barrier": (2.5, 0.5)}
FRONT_M = 0.397 + 4.08 / 2  # of the car, from the lidar
SPEED = 7.0
STRAIGHT = np.stack([np.zeros(6), 3.5 * np.arange(1, 7)], -1)
LEFT_TURN = np.array([[0.0, 3.3], [-0.6, 6.2], [-2.2, 8.7], [-4.5, 10.5], [-7.1, 11.6], [-9.8, 12.0]])


def box(kind: str, x: float, y: float, course_deg: float = 90.0, v: float = 0.0) -> np.ndarray:
    """box9; course: counter-clockwise from the car's right, so that 90 is its own direction."""
    course = np.radians(course_deg)
    return np.array([x, y, -1.0, *SIZES[kind], 1.7, -course - np.pi / 2, v * np.cos(course), v * np.sin(course)])


def given(plan: np.ndarray, *boxes: np.ndarray, speed: float = SPEED) -> np.ndarray:
    return give_way(plan, speed, np.array(boxes).reshape(-1, 9))


@pytest.mark.parametrize("beside", [
    [box("car", -2.4, y) for y in (-3.0, 3.0, 9.0, 15.0)],  # parked: upstream's optimiser pushes the plan aside by 0.6 m
    [box("barrier", -2.1, y, 180.0) for y in (1.0, 4.0, 7.0)],  # whose long side is along the street, a metre from the car
    [box("car", -3.4, 14.0, 270.0, 8.0)],  # oncoming
    [box("pedestrian", 2.6, 8.0, 90.0, 1.4)],  # along the kerb
    [box("car", 0.0, -6.0, 90.0, 9.0)],  # behind
    [],
])  # fmt: skip
def test_what_is_beside_the_way_leaves_the_plan_as_it_is(beside: list[np.ndarray]):
    assert given(STRAIGHT, *beside) is STRAIGHT


@pytest.mark.parametrize("plan", [STRAIGHT, LEFT_TURN])
def test_who_stands_on_the_way_is_stopped_for_without_leaving_it(plan: np.ndarray):
    found = given(plan, box("car", *plan[4], 90.0 if plan is STRAIGHT else 160.0))
    points = np.concatenate([[[0.0, 0.0]], plan])
    dense = np.concatenate([np.linspace(a, b, 50) for a, b in zip(points, points[1:])])
    aside = np.linalg.norm(found[:, None] - dense, axis=-1).min(1)
    assert aside.max() < 0.15, "the way is the plan's"
    steps = np.linalg.norm(np.diff(found, axis=0, prepend=[[0.0, 0.0]]), axis=1)
    assert (steps <= np.linalg.norm(np.diff(points, axis=0), axis=1) + 0.05).all(), "and it is nowhere hurried on"
    assert steps[-1] < 0.6 and np.linalg.norm(found[-1] - plan[4]) > FRONT_M + 2.3


def test_a_leader_is_followed_and_one_that_goes_on_is_not_braked_for():
    slow = given(STRAIGHT, box("car", 0.0, 14.0, 90.0, 3.0))
    assert slow[-1, 1] + FRONT_M < 14.0 - 2.3 + 3 * 3.0
    assert slow[-1, 1] > 12.0
    assert np.allclose(given(STRAIGHT, box("car", 0.0, 20.0, 90.0, 8.0)), STRAIGHT, atol=0.5)


def test_who_walks_into_the_way_is_given_way_to_and_who_walks_out_of_it_is_not():
    into = given(STRAIGHT, box("pedestrian", 2.0, 9.0, 180.0, 1.4))
    assert into[-1, 1] + FRONT_M < 9.0
    assert given(STRAIGHT, box("pedestrian", -1.7, 9.0, 180.0, 1.4)) is STRAIGHT


def test_nobody_stands_for_ever_for_a_box_on_the_car_itself():
    assert given(STRAIGHT, box("pedestrian", 0.3, 0.5)) is STRAIGHT


def test_a_standing_plan_stays_where_it_is():
    noise = np.random.default_rng(1).normal(0, 0.02, (6, 2))
    assert np.abs(given(noise, box("car", 0.0, 7.0), speed=0.0)).max() < 0.2


def test_who_crosses_long_before_the_car_is_there_is_not_braked_for():
    assert given(STRAIGHT, box("pedestrian", 2.0, 20.0, 180.0, 1.4)) is STRAIGHT


def test_who_comes_towards_the_car_is_met_where_they_will_be():
    found = given(STRAIGHT, box("car", 0.0, 18.0, 270.0, 5.0))
    assert found[2, 1] + FRONT_M < 18.0 - 2.3 - 1.5 * 5.0, "the car would be in theirs after 1.5 s"


@pytest.mark.parametrize("x, leaves", [(2.0, False), (2.25, True)])
def test_a_quarter_of_a_metre_is_kept_to_the_sides(x: float, leaves: bool):
    """Between the sides of two cars that are 1.85 and 1.9 m wide: 0.125 and 0.375 m."""
    assert (given(STRAIGHT, box("car", x, 12.0)) is STRAIGHT) == leaves


def test_who_stands_behind_the_end_of_a_short_plan_is_kept_away_from():
    short = 0.3 * STRAIGHT
    found = given(short, box("car", 0.0, short[-1, 1] + FRONT_M + 2.3 + 0.8))
    assert found[-1, 1] < short[-1, 1] - 0.5


def test_a_plan_that_hardly_moves_leads_nowhere_aside():
    creeps = np.cumsum([[0.12, 0.02]] * 6, 0)
    assert given(creeps, box("car", 3.5, 0.4), speed=0.0) is creeps
