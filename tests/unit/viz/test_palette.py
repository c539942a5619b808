"""Colours that a person tells apart: from each other, and from what they are drawn on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from helpers.specs import CONFIGS, nano_spec
from uniad.config.read import load_spec
from uniad.config.spec import BENCH2DRIVE_WORDS, NUSCENES_WORDS
from uniad.viz.palette import (
    CLASS_COLOURS,
    DRIVABLE,
    EGO,
    FIRST,
    GROUND,
    MAP_COLOURS,
    OCCUPIED,
    PLAN,
    SECOND,
    TOWN_COLOURS,
    class_colour,
    occupied,
)

# Distances in CIE Lab (1976). 2.3 is just noticeable side by side; small boxes far from their legend need ten times that.
CLASSES_APART, FROM_THE_ROAD, ROAD_APART = 30.0, 23.0, 20.0
BACKGROUNDS = {"ground": GROUND, "drivable": DRIVABLE}


def lab(colour: tuple[int, int, int]) -> np.ndarray:
    """sRGB 0..255 -> L*, a*, b* (D65)."""
    value = np.asarray(colour, float) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
    x, y, z = (to_xyz @ linear) / (0.95047, 1.0, 1.08883)
    f = [np.cbrt(v) if v > 216 / 24389 else (24389 / 27 * v + 16) / 116 for v in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def apart(a: tuple[int, int, int], b: tuple[int, int, int]) -> float:
    return float(np.linalg.norm(lab(a) - lab(b)))


def too_near(first: dict, second: dict, least: float) -> dict:
    pairs = {(a, b): apart(first[a], second[b]) for a in first for b in second}
    return {pair: round(distance, 1) for pair, distance in pairs.items() if distance < least}


def test_the_distance_is_that_of_known_colours():
    assert lab((255, 255, 255)) == pytest.approx([100, 0, 0], abs=0.01)
    assert lab((255, 0, 0)) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    assert apart((213, 94, 0), (213, 94, 0)) == 0


def test_every_class_has_a_colour_of_its_own_far_from_every_other():
    for spec in (nano_spec(), load_spec(CONFIGS / "stage2_e2e/b2d-tiny_e2e.py")):
        assert set(spec.data.class_names) <= set(CLASS_COLOURS)
    moving = {**CLASS_COLOURS, "plan": PLAN, "ego": EGO}
    near = {(a, b): round(apart(moving[a], moving[b]), 1) for a, b in itertools.combinations(moving, 2)}
    # a grey barrier and the white car differ in brightness and size
    assert {pair: d for pair, d in near.items() if d < CLASSES_APART} == {}


def test_classes_and_the_plan_stand_out_from_what_they_are_drawn_on():
    moving = {**CLASS_COLOURS, "plan": PLAN, "ego": EGO}
    assert too_near(moving, BACKGROUNDS, 40.0) == {}
    assert too_near(moving, MAP_COLOURS, FROM_THE_ROAD) == {} == too_near(moving, TOWN_COLOURS, FROM_THE_ROAD)


@pytest.mark.parametrize(("colours", "words"), [(MAP_COLOURS, NUSCENES_WORDS), (TOWN_COLOURS, BENCH2DRIVE_WORDS)])
def test_parts_of_the_road_differ_from_each_other_and_from_the_ground(colours, words):
    assert tuple(colours) == words.map_things
    assert too_near(colours, BACKGROUNDS, ROAD_APART) == {}
    assert all(apart(*pair) >= ROAD_APART for pair in itertools.combinations(colours.values(), 2))


def test_times_of_occupancy_and_the_two_runs_of_a_comparison_differ():
    colours = [occupied(step, len(OCCUPIED)) for step in range(len(OCCUPIED))]
    assert all(apart(*pair) >= ROAD_APART for pair in itertools.combinations(colours, 2))
    assert all(apart(colour, ground) >= 20 for colour in colours for ground in BACKGROUNDS.values())
    assert np.diff([lab(colour)[0] for colour in colours]).max() < 0, "darker with time"
    assert apart(FIRST, SECOND) > 60


def test_a_class_of_another_vocabulary_is_drawn_too():
    assert class_colour("tram") not in CLASS_COLOURS.values()
