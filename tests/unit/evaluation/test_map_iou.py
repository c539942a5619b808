"""Map IoU against recorded values and cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from helpers import TESTS
from uniad.evaluation.map_iou import LAYERS, MapIoU, frame_layers, intersection_and_union, iou

EXTRACT = TESTS / "golden" / "map.npz"


@pytest.fixture(scope="module", params=["golden", "extract"])
def recorded(request: pytest.FixtureRequest) -> dict[str, np.ndarray]:
    if request.param == "extract":
        files = [EXTRACT]
    else:
        folder = request.getfixturevalue("golden")
        files = [folder / f"{n}.npz" for n in ("metrics", "tiny_stage2_forward", "tiny_stage2_inputs")]
    out = {}
    for file in files:
        with np.load(file) as data:
            wanted = [k for k in data.files if k.startswith("map/") or "/seg/" in k or "/lane_" in k]
            out |= {k: data[k] for k in wanted}
    return out


def test_iou_is_the_recorded_one(recorded: dict[str, np.ndarray]) -> None:
    for i, (pred, gt) in enumerate(zip(recorded["map/pred"], recorded["map/gt"])):
        assert intersection_and_union(pred, gt) == (recorded["map/intersection"][i], recorded["map/union"][i])
        assert iou(pred, gt) == pytest.approx(recorded["map/iou"][i], rel=1e-6)


@pytest.mark.parametrize("frame", range(3))
def test_layers_of_a_frame_are_the_recorded_ones(recorded: dict[str, np.ndarray], frame: int) -> None:
    masks, labels = recorded[f"f{frame}/lane_masks"][0], recorded[f"f{frame}/lane_labels"][0]
    f = f"f{frame}/seg/"
    got = frame_layers(recorded[f + "r_lane"], recorded[f + "r_drivable"], masks[:-1], labels[:-1], masks[-1])
    for layer in LAYERS:
        want = (int(recorded[f"{f}iou_{layer}_intersection"][0]), int(recorded[f"{f}iou_{layer}_union"][0]))
        assert got[layer] == want, layer


def one_frame() -> tuple[np.ndarray, ...]:
    lanes = np.zeros((3, 2, 3))
    lanes[0, 0], lanes[2, 1, 0] = 1, 1
    masks = np.zeros((2, 2, 3))
    masks[0, 0, :2], masks[1, 0, 2] = 1, 1  # two dividers
    return lanes, np.ones((2, 3)), masks, np.array([0, 0]), np.eye(2, 3)


def test_a_case_worked_by_hand() -> None:
    metric = MapIoU()
    metric.update(*one_frame())
    got = metric.compute()
    assert got["divider_iou"] == 1.0 and got["lanes_iou"] == 3 / 4 and got["drivable_iou"] == 2 / 6
    assert got["contour_iou"] == 0.0  # predicted, never there
    assert math.isnan(got["crossing_iou"])  # never there and never predicted


def test_padding_slots_count_for_nothing() -> None:
    lanes, drivable, masks, labels, gt = one_frame()
    padded = np.concatenate([masks, np.ones((3, 2, 3))]), np.concatenate([labels, [-1, -1, -1]])
    assert frame_layers(lanes, drivable, *padded, gt) == frame_layers(lanes, drivable, masks, labels, gt)


def test_a_frame_without_elements_has_no_ground_truth() -> None:
    counts = frame_layers(np.zeros((3, 2, 2)), np.ones((2, 2)), np.zeros((0, 2, 2)), np.zeros(0, int), np.ones((2, 2)))
    assert counts["lanes"] == (0, 0) and counts["drivable"] == (4, 4)


def test_processes_merge_to_the_result_of_one() -> None:
    generator = np.random.RandomState(0)
    frames = [(generator.rand(3, 4, 4) > 0.5, generator.rand(4, 4) > 0.5, generator.rand(5, 4, 4) > 0.7,
               generator.randint(0, 3, 5), generator.rand(4, 4) > 0.5) for _ in range(6)]  # fmt: skip
    whole, parts = MapIoU(), [MapIoU(), MapIoU()]
    for i, frame in enumerate(frames):
        whole.update(*frame)
        parts[i % 2].update(*frame)
    parts[1].merge(parts[0])
    assert parts[1].compute() == whole.compute()


def test_masks_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[2, 2\], ground truth \[3, 3\]"):
        iou(np.ones((2, 2)), np.ones((3, 3)))
