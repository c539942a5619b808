"""Boxes, occupancy labels, map rasters and images equal what upstream recorded."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from helpers import specs
from helpers.tolerances import close
from uniad.data.maps import Vector, rasterise
from uniad.data.occupancy import occupancy_labels, vehicle_labels
from uniad.data.transforms import Resampler, finish, scaled_projection
from uniad.geometry import boxes as bx
from uniad.geometry.grid import BevGrid
from uniad.geometry.transforms import from_rotation

OCC_BOUNDS = {"tiny": (-12.5, 12.5, 0.5), "base": (-50.0, 50.0, 0.5)}
# cv2 4.7 moved the pixel that a polygon edge through a cell's corner paints; the recording used 4.6
CV2_PIXELS = 1


@pytest.fixture
def box(ops):
    return lambda name: torch.from_numpy(ops[f"box/{name}"])


def test_corners_and_centres_follow_the_recorded_convention(box):
    tensor = box("tensor")
    assert torch.equal(bx.corners(tensor), box("corners"))
    assert torch.equal(bx.bottom_from_gravity(tensor), box("tensor_when_origin_is_gravity_centre"))


def test_moving_and_limiting_boxes_equals_the_recording(box):
    rotated = bx.rotate_boxes(box("tensor"), box("rotate_mat"))
    close(rotated, box("after_rotate"), "exact")
    moved = bx.translate_boxes(box("after_rotate"), torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(moved, box("after_translate_123"))
    limited = box("tensor").clone()
    limited[:, 6] = bx.limit_period(limited[:, 6], 0.5, 2 * math.pi)
    assert torch.equal(limited, box("limit_yaw"))
    assert torch.equal(bx.in_bev_range(box("tensor"), (-20, -20, 0, 20, 20, 0)), box("in_range_bev_-20_-20_20_20"))


def test_the_networks_box_code_equals_the_recording_and_round_trips(box):
    close(bx.encode_boxes(box("tensor")), box("normalize_bbox"), "exact")
    close(bx.decode_boxes(box("normalize_bbox")), box("denormalize_bbox"), "exact")


def test_overlap_from_above_equals_the_recording_for_pairs_and_for_all(box):
    a, b = box("tensor"), box("tensor2")
    assert torch.equal(bx.nearest_bev(a), box("nearest_bev"))
    assert torch.equal(bx.nearest_bev_iou(a[:, None], b[None]), box("iou_nearest_3d"))
    assert torch.equal(bx.nearest_bev_iou(a, b), box("iou_nearest_3d").diagonal())


@pytest.mark.parametrize("grid", OCC_BOUNDS)
def test_occupancy_labels_equal_the_recording(ops, grid):
    name = f"occlab_{grid}"

    def pose(frame: int, kind: str) -> torch.Tensor:
        return torch.from_numpy(from_rotation(ops[f"{name}/f{frame}_{kind}_r"], ops[f"{name}/f{frame}_{kind}_t"]))

    boxes, here = [], (pose(0, "e2g"), pose(0, "l2e"))
    for frame in range(6):
        source = torch.from_numpy(ops[f"{name}/f{frame}_boxes"])
        moved = bx.reframe_boxes(source, pose(frame, "e2g"), pose(frame, "l2e"), *here)
        close(moved, torch.from_numpy(ops[f"{name}/out_future_boxes{frame}"]), "exact")
        boxes.append(moved.numpy())
    labels, ids = [ops[f"{name}/labels"]] * 6, [ops[f"{name}/inds"]] * 6
    area, vehicles = BevGrid.from_bounds(OCC_BOUNDS[grid], OCC_BOUNDS[grid]), vehicle_labels(specs.tiny_spec().data.class_names)
    got = occupancy_labels(area, [*boxes, None], [*labels, None], [*ids, None], vehicles)
    for found, kind in zip(got, ("segmentation", "instance")):
        want = ops[f"{name}/out_gt_{kind}"]
        assert found.shape == want.shape
        assert (found != want).sum() <= CV2_PIXELS
    assert (got[0][6] == 255).all() and (got[1][6] == 255).all()


@pytest.mark.parametrize(
    ("name", "cells", "thickness"), [("tiny", 50, 1), ("base", 200, 1), ("upstream_base_thickness2", 200, 2)]
)
def test_map_rasters_equal_the_recording_pixel_by_pixel(ops, name, cells, thickness):
    vectors = [Vector(ops[f"map/vec{i}_pts"], int(ops[f"map/vec{i}_type"])) for i in range(9)]
    got = rasterise(vectors, (102.4, 102.4), (cells, cells), thickness)
    assert np.array_equal(got, ops[f"map/{name}_instance_masks_after_rot90"])


def test_images_are_normalised_scaled_and_padded_as_recorded(ops):
    image = ops["img/in_bgr_uint8"]
    for spec, want, step in (
        (specs.tiny_spec().data.image, ops["img/tiny_padded"], 1),
        (specs.full_spec().data.image, ops["img/base_padded_every4"], 4),
    ):
        scaler = Resampler(image.shape[:2], spec.scale)
        height, width = (-(-size // 32) * 32 for size in scaler.hw)
        got = np.full((3, height, width), np.nan, dtype=np.float32)
        finish(scaler.pick(image), spec, scaler, None, got)
        # In grey levels: a weight of the resampling may differ in its last bits.
        assert np.abs(got.transpose(1, 2, 0)[::step, ::step] - want).max() * min(spec.std) < 2e-3


def test_projections_follow_the_nominal_scale(ops):
    assert np.array_equal(scaled_projection(ops["img/lidar2img_in"], 0.25), ops["img/tiny_lidar2img_after"])
