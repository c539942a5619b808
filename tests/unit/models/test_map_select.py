"""Merging map elements: the parallel rounds against the sequential rule, and that against recorded results."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from helpers.recorded import Recorded
from helpers.specs import tiny_spec
from uniad.interface.contract import contract_for
from uniad.models.map_select import Lanes, best_pairs, mask_quality, merge_lanes
from uniad.postprocess.map_merge import finish_lanes
from uniad.postprocess.map_paint import merge_masks

THRESHOLD, QUALITY = 0.4, 0.1


@pytest.fixture(scope="module", params=["golden", "extract"])
def recorded(request: pytest.FixtureRequest) -> Recorded:
    if request.param == "extract":
        return Recorded.extract("map")
    return Recorded.golden(request.getfixturevalue("golden"), "tiny_stage2", ("forward",))


def parallel(mask: np.ndarray, score: np.ndarray, label: np.ndarray, rounds: int) -> Lanes:
    kept = torch.from_numpy(score)[None] >= QUALITY
    return merge_lanes(torch.from_numpy(mask)[None], torch.from_numpy(label)[None], kept, 3, THRESHOLD, rounds)


@pytest.mark.parametrize("frame", range(3))
def test_recorded_masks_merge_to_the_recorded_map(recorded: Recorded, frame: int) -> None:
    results = {n: recorded[f"f{frame}/seg/r_{n}"].numpy() for n in ("segm", "bbox", "labels", "lane", "panoptic")}
    mask, score, label = results["segm"].astype(np.float32), results["bbox"][:, 4].copy(), results["labels"].astype(np.int64)
    want = merge_masks(mask, score, label)
    assert np.array_equal(want.lanes, results["lane"])
    assert np.array_equal(np.stack([want.label, want.instance], -1), results["panoptic"])
    got = parallel(mask, score, label, rounds=8)
    assert got.settled.all()
    assert np.array_equal(got.lanes[0].numpy(), want.lanes)
    assert np.array_equal(got.accepted[0].numpy(), want.accepted)


def blobs(generator: np.random.RandomState, count: int = 40, size: int = 24) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rectangles that overlap a lot, scores down to below the threshold, labels of all classes; some masks are empty."""
    mask = np.zeros((count, size, size), np.float32)
    for values in mask:
        y, x = generator.randint(0, size - 4, 2)
        h, w = generator.randint(0, 9, 2)
        values[y : y + h, x : x + w] = generator.uniform(0.3, 1.5)
    return mask, np.sort(generator.uniform(0, 1, count).astype(np.float32))[::-1].copy(), generator.randint(0, 3, count)


def test_settled_rounds_are_the_sequential_rule() -> None:
    generator = np.random.RandomState(0)
    settled = 0
    for _ in range(60):
        mask, score, label = blobs(generator)
        want = merge_masks(mask, score, label)
        for rounds in (4, 8):
            got = parallel(mask, score, label, rounds)
            if got.settled.item():
                settled += 1
                assert np.array_equal(got.lanes[0].numpy(), want.lanes)
                assert np.array_equal(got.accepted[0].numpy(), want.accepted)
    assert settled > 60  # eight rounds settle all of these


def chain(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each element covers half of the one after it, so every second one is dropped, and each waits for the one before."""
    mask = np.zeros((length, 1, length + 1), np.float32)
    for i in range(length):
        mask[i, 0, i : i + 2] = 1.0
    return mask, np.linspace(1.0, 0.5, length, dtype=np.float32), np.ones(length, np.int64)


def test_a_chain_longer_than_the_rounds_is_reported_and_more_rounds_settle_it() -> None:
    mask, score, label = chain(20)
    want = merge_masks(mask, score, label)
    assert want.accepted.tolist() == [i % 2 == 0 for i in range(20)]
    assert not parallel(mask, score, label, 8).settled.item()
    enough = parallel(mask, score, label, 21)
    assert enough.settled.item() and np.array_equal(enough.accepted[0].numpy(), want.accepted)


def test_dividers_never_block_anything() -> None:
    mask = np.ones((3, 2, 2), np.float32)
    got = parallel(mask, np.float32([0.9, 0.8, 0.7]), np.array([0, 0, 2]), 4)
    assert got.accepted.all()
    assert got.lanes[0, 0].all() and got.lanes[0, 2].all()
    blocked = parallel(mask, np.float32([0.9, 0.8, 0.7]), np.array([2, 0, 0]), 4)
    assert blocked.accepted[0].tolist() == [True, False, False]


def test_a_mask_may_be_covered_by_exactly_the_threshold() -> None:
    mask = np.zeros((2, 1, 8), np.float32)
    mask[0, 0, :5], mask[1, 0, 3:8] = 1.0, 1.0  # two of five cells: 0.4
    got = parallel(mask, np.float32([0.9, 0.8]), np.array([1, 2]), 3)
    assert got.accepted.all()
    assert got.lanes[0, 2, 0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


def test_each_image_of_a_batch_is_merged_on_its_own() -> None:
    generator = np.random.RandomState(3)
    cases = [blobs(generator) for _ in range(3)]
    mask, score, label = (torch.from_numpy(np.stack(part)) for part in zip(*cases))
    got = merge_lanes(mask, label, score >= QUALITY, 3, THRESHOLD, 10)
    for b, case in enumerate(cases):
        assert np.array_equal(got.lanes[b].numpy(), merge_masks(*case).lanes)


def test_a_query_may_be_chosen_once_for_each_class() -> None:
    cls = torch.tensor([[[3.0, 2.0, -9.0], [1.0, -9.0, -9.0]]])
    best = best_pairs(cls, 3)
    assert best.index.tolist() == [[0, 0, 1]] and best.label.tolist() == [[0, 1, 0]]
    assert torch.allclose(best.score, torch.tensor([[3.0, 2.0, 1.0]]).sigmoid())


def test_quality_is_the_mean_inside_with_one_cell_too_many() -> None:
    mask = torch.tensor([[[[0.6, 0.8], [0.4, 0.0]], [[0.0, 0.0], [0.0, 0.5]]]])
    assert torch.allclose(mask_quality(mask), torch.tensor([[1.4 / 3, 0.0]]))


def test_host_merge_keeps_the_score_and_the_instance_of_each_cell() -> None:
    mask = np.zeros((2, 1, 4), np.float32)
    mask[0, 0, :2], mask[1, 0, 1:4] = 0.9, 0.7
    out = merge_masks(mask, np.float32([0.9, 0.8]), np.array([1, 2]))
    assert out.label.tolist() == [[1, 1, 2, 2]] and out.instance.tolist() == [[1, 1, 2, 2]]
    assert np.allclose(out.lane_score[1], [[0.9, 0.9, 0, 0]]) and np.allclose(out.lane_score[2], [[0, 0, 0.7, 0.7]])


def test_lanes_on_the_host_are_exact_even_where_the_rounds_did_not_settle() -> None:
    mask, score, label = chain(20)
    got = parallel(mask, score, label, 2)
    assert not got.settled.item()
    parts = {"map_mask": mask, "map_score": score, "map_label": label}
    outputs = {name: x[None] for name, x in parts.items()} | {"map_lanes": got.lanes.numpy(), "map_settled": got.settled.numpy()}
    want = merge_masks(mask, score, label).lanes != 0
    assert np.array_equal(finish_lanes(outputs, contract_for(tiny_spec()).map_merge)["map_lanes"][0] > 0, want)
    assert not np.array_equal(got.lanes[0].numpy() != 0, want)
