"""Submission entries of boxes worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from pyquaternion import Quaternion

from helpers.specs import nano_spec
from uniad.postprocess.submission import class_ranges, to_annotations

NAMES = nano_spec().data.class_names
# The lidar looks along the ego's y axis (x of the lidar is the car's right) from 1 m ahead and 2 m up;
# the car stands at (100, 200) and faces north, along y of the world.
INFO = {
    "token": "t",
    "lidar2ego_translation": [1.0, 0.0, 2.0],
    "lidar2ego_rotation": Quaternion(axis=[0, 0, 1], degrees=-90).elements.tolist(),
    "ego2global_translation": [100.0, 200.0, 0.0],
    "ego2global_rotation": Quaternion(axis=[0, 0, 1], degrees=90).elements.tolist(),
}


def entries(*boxes: tuple[str, float, float, float, float, float], ids: bool = False) -> list[dict]:
    """Boxes as (class, x, y, yaw, vx, vy) in the lidar frame, 2 m wide, 4 m long, 1.6 m high, bottom 2 m under the lidar."""
    box9 = np.array([[x, y, -2.0, 2.0, 4.0, 1.6, yaw, vx, vy] for _, x, y, yaw, vx, vy in boxes])
    labels = np.array([NAMES.index(name) for name, *_ in boxes])
    scores = np.linspace(0.9, 0.5, len(boxes))
    return to_annotations(box9, scores, labels, INFO, NAMES, class_ranges(), np.arange(len(boxes)) + 7 if ids else None)


def heading_deg(entry: dict) -> float:
    """Direction of the box's length in the world, counter-clockwise from x."""
    forward = Quaternion(entry["rotation"]).rotate([1.0, 0.0, 0.0])
    return math.degrees(math.atan2(forward[1], forward[0]))


def test_a_box_ahead_that_drives_away_lies_and_moves_north():
    # 10 m ahead of the lidar; its yaw of -pi is what the stored convention calls the lidar's y axis
    (entry,) = entries(("car", 0.0, 10.0, -math.pi, 0.0, 5.0))
    np.testing.assert_allclose(entry["translation"], [100.0, 211.0, 0.8], atol=1e-9)  # 10 m and the lidar's 1 m ahead
    assert entry["size"] == [2.0, 4.0, 1.6]  # width, length, height
    assert heading_deg(entry) == pytest.approx(90.0)
    np.testing.assert_allclose(entry["velocity"], [0.0, 5.0], atol=1e-9)
    assert entry["sample_token"] == "t" and entry["detection_score"] == 0.9


def test_a_box_on_the_right_that_drives_to_the_right_lies_and_moves_east():
    (entry,) = entries(("car", 20.0, 0.0, -math.pi / 2, 3.0, 0.0))
    np.testing.assert_allclose(entry["translation"], [120.0, 201.0, 0.8], atol=1e-9)
    assert heading_deg(entry) == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(entry["velocity"], [3.0, 0.0], atol=1e-9)


def test_growing_yaw_turns_clockwise():
    before, after = entries(("car", 0, 10, 0.0, 0, 0), ("car", 0, 10, 0.1, 0, 0))
    assert heading_deg(after) - heading_deg(before) == pytest.approx(-math.degrees(0.1))


@pytest.mark.parametrize(
    ("name", "moving", "standing"),
    [
        ("car", "vehicle.moving", "vehicle.parked"),
        ("bus", "vehicle.moving", "vehicle.stopped"),
        ("bicycle", "cycle.with_rider", "cycle.without_rider"),
        ("pedestrian", "pedestrian.moving", "pedestrian.standing"),
        ("barrier", "", ""),
    ],
)
def test_attributes_follow_speed(name, moving, standing):
    fast, slow = entries((name, 0, 5, 0, 0.15, 0.15), (name, 0, 5, 0, 0.1, 0.1))  # 0.21 and 0.14 m/s
    assert (fast["attribute_name"], slow["attribute_name"]) == (moving, standing)


def test_boxes_beyond_the_range_of_their_class_are_left_out_as_the_ego_measures_it():
    # 48.5 m ahead of the lidar is 49.5 m from the ego, 49.5 m is 50.5 m
    kept = entries(
        ("car", 0, 48.5, 0, 0, 0), ("car", 0, 49.5, 0, 0, 0), ("pedestrian", 0, 45, 0, 0, 0), ("barrier", 0, 28, 0, 0, 0)
    )
    assert [(e["detection_name"], round(e["translation"][1] - 200, 3)) for e in kept] == [("car", 49.5), ("barrier", 29.0)]


def test_tracks_carry_ids_and_only_classes_that_the_tracking_protocol_knows():
    tracks = entries(("car", 0, 5, 0, 0, 0), ("traffic_cone", 0, 5, 0, 0, 0), ("barrier", 0, 5, 0, 0, 0),
                     ("construction_vehicle", 0, 5, 0, 0, 0), ("pedestrian", 0, 5, 0, 0, 0), ids=True)  # fmt: skip
    assert [(t["tracking_name"], t["tracking_id"], t["tracking_score"]) for t in tracks] == [
        ("car", "7", 0.9),
        ("pedestrian", "11", 0.5),
    ]
    assert "tracking_id" not in entries(("car", 0, 5, 0, 0, 0))[0]
