"""The boxes that the documented stack gets from third_party/uniad_mmdet3d are those of mmdet3d 0.17."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).parents[2]
EXACT = 1e-5  # metres and radians: float32 arithmetic of other libraries, in another order


@pytest.fixture(scope="module")
def bbox():
    """The package's box module; it needs no mm library."""
    sys.path.insert(0, str(ROOT / "third_party/uniad_mmdet3d"))
    try:
        import mmdet3d.core.bbox as module

        yield module
    finally:
        sys.path.pop(0)
        for name in [name for name in sys.modules if name.split(".")[0] == "mmdet3d"]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def recorded():
    """Boxes and what mmdet3d 0.17 made of them."""
    with np.load(ROOT / "tests/golden/data.npz") as archive:
        return {key.removeprefix("box/"): archive[key] for key in archive.files if key.startswith("box/")}


@pytest.fixture
def boxes(bbox, recorded):
    return bbox.LiDARInstance3DBoxes(recorded["tensor"], box_dim=9)


def assert_same(actual, expected):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=0, atol=EXACT * max(1, np.abs(expected).max()))


@pytest.mark.parametrize("name", ["corners", "nearest_bev", "gravity_center", "bottom_center"])
def test_derived_quantities_are_as_recorded(boxes, recorded, name):
    assert_same(getattr(boxes, name), recorded[name])


def test_a_box_given_by_its_middle_is_stored_by_its_bottom(bbox, recorded):
    made = bbox.LiDARInstance3DBoxes(recorded["tensor"], box_dim=9, origin=(0.5, 0.5, 0.5))
    assert_same(made.tensor, recorded["tensor_when_origin_is_gravity_centre"])


@pytest.mark.parametrize("as_array", [np.asarray, torch.as_tensor])
def test_turning_by_a_matrix_turns_centre_yaw_and_velocity(boxes, recorded, as_array):
    boxes.rotate(as_array(recorded["rotate_mat"]))
    assert_same(boxes.tensor, recorded["after_rotate"])


def test_turning_by_an_angle_is_turning_by_its_matrix(bbox, recorded):
    one, other = (bbox.LiDARInstance3DBoxes(recorded["tensor"], box_dim=9) for _ in range(2))
    cos, sin = np.cos(0.3), np.sin(0.3)
    one.rotate(0.3)
    other.rotate(np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]))
    assert_same(one.tensor, other.tensor.numpy())


def test_shifting_leaves_all_but_the_centre(bbox, recorded):
    boxes = bbox.LiDARInstance3DBoxes(recorded["after_rotate"], box_dim=9)
    boxes.translate(np.array([1.0, 2.0, 3.0]))
    assert_same(boxes.tensor, recorded["after_translate_123"])


def test_yaw_is_limited_as_recorded(boxes, recorded):
    boxes.limit_yaw(offset=0.5, period=2 * np.pi)
    assert_same(boxes.tensor, recorded["limit_yaw"])


def test_range_keeps_the_recorded_boxes(boxes, recorded):
    assert boxes.in_range_bev([-20, -20, 20, 20]).tolist() == recorded["in_range_bev_-20_-20_20_20"].tolist()


def test_choosing_boxes_always_gives_a_set_of_its_own(boxes):
    assert len(boxes[0]) == len(boxes[-1]) == 1
    mask = np.arange(len(boxes)) % 2 == 0
    chosen = boxes[mask]
    assert chosen.tensor.tolist() == boxes.tensor[torch.as_tensor(mask)].tolist()
    chosen.translate([1.0, 0.0, 0.0])
    assert chosen.tensor[0, 0] != boxes.tensor[0, 0]


def test_no_box_is_a_set_too(bbox):
    none = bbox.LiDARInstance3DBoxes(np.zeros((0, 9)), box_dim=9)
    assert len(none) == 0
    assert none.corners.shape == (0, 8, 3)
    assert none.nearest_bev.shape == (0, 4)
    none.rotate(np.eye(3))


def test_other_frames_are_known_but_not_converted_to(bbox, boxes):
    kind, mode = bbox.get_box_type("LiDAR")
    assert boxes.convert_to(mode) is boxes
    assert kind is bbox.LiDARInstance3DBoxes
    with pytest.raises(NotImplementedError, match="conversion"):
        boxes.convert_to(bbox.Box3DMode.CAM)
    with pytest.raises(ValueError, match="LiDAR, Camera or Depth"):
        bbox.get_box_type("radar")


def test_rows_of_another_width_are_refused(bbox):
    with pytest.raises(ValueError, match=r"not \[N, 9\]"):
        bbox.LiDARInstance3DBoxes(np.zeros((2, 7)), box_dim=9)
