"""Occupancy metrics against recorded values and cases worked by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.recorded import Recorded
from uniad.evaluation.occupancy import OccupancyMetric, areas, consecutive, panoptic_sums

BOUNDS = {"tiny": (-12.5, 12.5, 0.5), "base": (-50.0, 50.0, 0.5)}
SMALL = (-5.0, 5.0, 1.0)


@pytest.fixture(scope="module", params=["golden", "extract"])
def recorded(request: pytest.FixtureRequest) -> Recorded:
    if request.param == "extract":
        return Recorded.extract("occ")
    return Recorded([request.getfixturevalue("golden") / "metrics.npz"])


def fed(metric: OccupancyMetric, pred: np.ndarray, gt: np.ndarray) -> OccupancyMetric:
    """One sample whose segmentation is where its instances are."""
    metric.update(pred > 0, pred, gt > 0, gt)
    return metric


@pytest.mark.parametrize("name", ["tiny", "base"])
def test_iou_and_panoptic_quality_are_the_recorded_ones(recorded: Recorded, name: str) -> None:
    metric = OccupancyMetric(BOUNDS[name], BOUNDS[name])
    for pred, gt in zip(recorded.arrays[f"occ_{name}/pred_instance"], recorded.arrays[f"occ_{name}/gt_instance"]):
        fed(metric, pred[0], gt[0])
    for i, area in enumerate(metric.areas):
        for key, got in metric.scores(i).items():
            assert got == pytest.approx(recorded.arrays[f"occ_{name}/{area.name}_{key}"], rel=1e-6), (area.name, key)
    assert metric.compute()[f"occ_iou_{metric.areas[0].name}"] == metric.scores(0)["iou"][1]


@pytest.mark.parametrize(
    "bound, want",
    [
        ((-50.0, 50.0, 0.5), [("30x30", 70, 130), ("100x100", 0, 200)]),  # upstream, full
        ((-12.5, 12.5, 0.5), [("8x8", 17, 33), ("25x25", 0, 50)]),  # upstream, tiny
        ((-50.0, 50.0, 4.0), [("28x28", 9, 16), ("100x100", 0, 25)]),  # 30 m would be seven and a half cells
        ((-2.0, 2.0, 1.0), [("2x2", 1, 3), ("4x4", 0, 4)]),
    ],
)
def test_areas_follow_from_the_grid(bound, want) -> None:
    assert [(a.name, a.columns.start, a.columns.stop) for a in areas(bound, bound)] == want


def test_areas_of_an_oblong_grid_name_x_first() -> None:
    near, far = areas((-50.0, 50.0, 0.5), (-12.5, 12.5, 0.5))
    assert (near.name, far.name) == ("30x8", "100x25")
    assert (near.columns, near.rows) == (slice(70, 130), slice(17, 33))


def worked_out() -> tuple[np.ndarray, np.ndarray]:
    """Three frames; vehicle 5 is seen as 1, then as 2, then as 2; vehicle 9 never; prediction 3 is nothing."""
    pred, gt = np.zeros((3, 10, 10), int), np.zeros((3, 10, 10), int)
    gt[:, 4, 2:6] = 5  # four cells
    gt[1, 9, 9] = 9
    pred[0, 4, 2:5] = 1  # IoU 3/4
    pred[1:, 4, 2:6] = 2  # IoU 1
    pred[2, 0, :2] = 3
    return pred, gt


def test_a_case_worked_by_hand() -> None:
    metric = fed(OccupancyMetric(SMALL, SMALL), *worked_out())
    far = metric.panoptic[1, 1]
    # Frame 0 matches, frame 1 changes identity (missed and false, and vehicle 9 missed), frame 2 matches again; 3 is false.
    assert far.tolist() == [0.75 + 1.0, 2, 2, 2]
    scores = {k: v[1] for k, v in metric.scores(1).items()}
    assert scores["pq"] == 1.75 / 4 and scores["sq"] == 1.75 / 2 and scores["rq"] == 2 / 4 and scores["denominator"] == 4
    assert metric.cells[1, 1].tolist() == [11, 2, 2] and scores["iou"] == 11 / 15
    assert metric.panoptic[1, 0, 1:].tolist() == [3, 0, 0]


def test_near_judges_only_the_middle() -> None:
    pred, gt = worked_out()
    near = OccupancyMetric(SMALL, SMALL).areas[0]
    assert (near.name, near.rows, near.columns) == ("4x4", slice(3, 7), slice(3, 7))
    metric = fed(OccupancyMetric(SMALL, SMALL), pred, gt)
    assert metric.cells[0, 1].tolist() == [8, 0, 1]  # the corner's false and missed cells lie outside


def test_an_overlap_of_one_half_is_no_match() -> None:
    gt, pred = np.zeros((2, 1, 1, 4), int)
    gt[0, 0, :2], pred[0, 0, 1] = 1, 1
    assert panoptic_sums(pred, gt)[1].tolist() == [0, 0, 1, 1]


def test_names_of_the_ids_do_not_matter() -> None:
    pred, gt = worked_out()
    want = panoptic_sums(pred, gt)
    assert np.array_equal(panoptic_sums(np.choose(pred, (0, 7, 3, 40)), np.where(gt == 5, -20, gt)), want)
    assert consecutive([[0, 7], [-20, 7]]).tolist() == [[0, 2], [1, 2]]


def test_merged_processes_score_what_one_scores() -> None:
    generator = np.random.RandomState(0)
    samples = [(generator.randint(0, 4, (2, 10, 10)), generator.randint(0, 4, (2, 10, 10))) for _ in range(5)]
    whole, parts = OccupancyMetric(SMALL, SMALL), [OccupancyMetric(SMALL, SMALL) for _ in range(3)]
    for i, sample in enumerate(samples):
        fed(whole, *sample)
        fed(parts[i % 2], *sample)  # the third process has nothing
    parts[2].merge(parts[1])
    parts[2].merge(parts[0])
    assert parts[2].compute() == pytest.approx(whole.compute(), rel=1e-12)


def test_samples_with_a_missing_frame_are_counted_and_left_out() -> None:
    metric = OccupancyMetric(SMALL, SMALL)
    pred, gt = worked_out()
    metric.update(pred > 0, pred, np.full_like(gt, 255), np.full_like(gt, 255), valid=False)
    assert not metric.cells.any() and metric.compute()["occ_left_out"] == 1
    assert all(math.isnan(v) for k, v in metric.compute().items() if "x" in k)
    assert fed(metric, pred, gt).compute()["occ_samples"] == 1


def test_a_sample_counts_if_all_frames_of_its_labels_exist() -> None:
    pred, gt = worked_out()
    blank = np.full((7, 10, 10), 255)
    labels = np.stack([np.concatenate([gt, blank[:4]]), blank])
    valid = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 1, 1, 1, 1]]).bool()
    targets = SimpleNamespace(
        segmentation=torch.from_numpy(np.where(labels == 255, 255, labels > 0)), instance=torch.from_numpy(labels),
        occ_img_is_valid=valid,
    )  # fmt: skip
    metric = OccupancyMetric(SMALL, SMALL)
    for b in range(2):
        one = SimpleNamespace(**{name: part[b : b + 1] for name, part in vars(targets).items()})
        metric.update_sample(pred > 0, pred, SimpleNamespace(stage2=one))
    want = fed(OccupancyMetric(SMALL, SMALL), pred, gt)
    assert np.array_equal(metric.cells, want.cells) and np.array_equal(metric.panoptic, want.panoptic)
    assert metric.samples.tolist() == [1, 1]


def test_a_wrong_shape_is_refused() -> None:
    metric = OccupancyMetric(SMALL, SMALL)
    pred, gt = worked_out()
    with pytest.raises(ValueError, match=r"gt_instance is \[2, 10, 10\], expected \[3, 10, 10\]"):
        metric.update(pred, pred, gt, gt[:2])
