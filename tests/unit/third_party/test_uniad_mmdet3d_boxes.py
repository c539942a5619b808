"""The boxes that the upstream stack gets from third_party/uniad_mmdet3d are those of mmdet3d 0.17."""

from helpers import REPO
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

EXACT = 1e-5  # metres and radians: float32 arithmetic of other libraries, in another order


@pytest.fixture(scope="module")
def bbox():
    """The package's box module; it needs no mm library."""
    sys.path.insert(0, str(REPO / "third_party/uniad_mmdet3d"))
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
    with np.load(REPO / "tests/golden/data.npz") as archive:
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


@pytest.mark.parametrize("angle", [-4.0, 7.0, np.float64(-4.0), np.array([-4.0]), torch.tensor(-4.0), torch.tensor([[-4.0]])])
def test_an_angle_is_added_to_yaw_as_it_is(boxes, recorded, angle):
    """mmdet3d 0.17 adds it whole; a turn by its matrix comes back within half a turn."""
    assert boxes.rotate(angle) is None
    assert_same(boxes.yaw, recorded["tensor"][:, 6] + np.float32(np.asarray(angle).item()))


def test_a_tilted_matrix_turns_yaw_by_its_first_column(boxes, recorded):
    tilt, cos, sin = 0.1, np.cos(0.7), np.sin(0.7)
    tilted = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]) @ [
        [1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]
    ]  # fmt: skip
    boxes.rotate(tilted)
    assert_same(boxes.yaw, recorded["tensor"][:, 6] + np.arctan2(tilted[1, 0], tilted[0, 0]))


@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_points_turn_along_and_come_back_with_the_matrix(boxes, kind):
    points = kind([[1.0, 0.0, 5.0, 9.0]])
    turned, matrix = boxes.rotate(np.pi / 2, points)
    assert turned is points and isinstance(matrix, type(points)) and matrix.shape == (3, 3)
    assert_same(points, np.array([[0.0, -1.0, 5.0, 9.0]]))


def test_what_cannot_be_turned_leaves_the_boxes_alone(boxes, recorded):
    for words, error in (((0.3, [[1.0, 2.0, 3.0]]), NotImplementedError), ((np.eye(2),), ValueError)):
        with pytest.raises(error):
            boxes.rotate(*words)
    assert_same(boxes.tensor, recorded["tensor"])


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


def test_an_index_past_the_end_is_an_error_and_a_loop_ends(boxes):
    for past in (len(boxes), -len(boxes) - 1, np.int64(len(boxes))):
        with pytest.raises(IndexError):
            boxes[past]
    rows = list(boxes)
    assert len(rows) == len(boxes) and all(row.shape == (9,) for row in rows), "a loop gives rows, as mmdet3d's does"
    assert len(boxes[np.int64(1)]) == 1 and boxes[1].tensor[0].tolist() == rows[1].tolist()


def test_the_smaller_methods_are_those_of_mmdet3d(bbox):
    kind = bbox.LiDARInstance3DBoxes
    row = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.5, 7.0, 8.0]
    boxes = kind([row, [*row[:3], 0.0, *row[4:]]], box_dim=9)
    assert boxes.volume.tolist() == [120, 0] and boxes.nonempty().tolist() == [True, False] and boxes.device.type == "cpu"
    assert boxes.height[0] == 6 and boxes.bottom_height[0] == 3 and boxes.top_height[0] == 9
    assert boxes.center.tolist() == boxes.bottom_center.tolist()
    assert boxes.in_range_3d([0, 0, 0, 2, 3, 4]).tolist() == [True, True]
    assert boxes.in_range_3d([0, 0, 3, 2, 3, 4]).tolist() == [False, False], "a border is outside"
    joined = kind.cat([boxes, boxes[0]])
    assert len(joined) == 3 and joined.box_dim == 9 and len(kind.cat([])) == 0
    with pytest.raises(TypeError, match="not CameraInstance3DBoxes"):
        kind.cat([boxes, bbox.CameraInstance3DBoxes(boxes.tensor, box_dim=9)])
    assert boxes.enlarged_box(0.5).tensor[0].tolist() == [1, 2, 2.5, 5, 6, 7, 0.5, 7, 8]
    assert boxes.new_box(np.array([row])).tensor.tolist() == [row] and boxes.clone().tensor.tolist() == boxes.tensor.tolist()
    boxes.scale(2)
    assert boxes.tensor[0].tolist() == [2, 4, 6, 8, 10, 12, 0.5, 14, 16], "all but the angle"


def test_mirrored_boxes_have_mirrored_corners_and_velocities(boxes):
    for direction, axis in (("horizontal", 1), ("vertical", 0)):
        mirrored = boxes.clone()
        points = boxes.gravity_center.clone()
        assert mirrored.flip(direction) is None
        assert boxes.clone().flip(direction, points) is points
        sign = torch.tensor([-1.0 if k == axis else 1.0 for k in range(3)])
        assert_same(mirrored.corners.sort(dim=1).values, (boxes.corners * sign).sort(dim=1).values.numpy())
        assert_same(points, (boxes.gravity_center * sign).numpy())
        assert_same(mirrored.tensor[:, 7:], (boxes.tensor[:, 7:] * sign[:2]).numpy())
    with pytest.raises(ValueError, match="horizontal or vertical"):
        boxes.flip("sideways")


def test_boxes_without_yaw_lie_along_the_axes(bbox):
    boxes = bbox.LiDARInstance3DBoxes([[0.0, 0.0, 0.0, 1.0, 2.0, 3.0]], box_dim=6)
    assert boxes.tensor.shape == (1, 7) and boxes.box_dim == 7 and not boxes[0].with_yaw
    boxes.flip()
    assert boxes.yaw.tolist() == [0]
    turned = bbox.LiDARInstance3DBoxes([[0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 0.5]], 7, False)
    assert not turned.with_yaw, "the third argument, as mmdet3d has it"


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
