from __future__ import annotations

import numpy as np
import pytest
import torch

from uniad.data.sampler import TrainSampler, scenes_of_rank


def order(length=23, samples=2, world=3, epoch=5, seed=7):
    found = []
    for rank in range(world):
        sampler = TrainSampler(length, samples, rank, world, seed)
        sampler.set_epoch(epoch)
        found.append(list(sampler))
    return found


def test_every_index_is_drawn_and_every_process_gets_as_many():
    parts = order()
    assert {len(part) for part in parts} == {8}
    assert set(np.concatenate(parts)) == set(range(23))


def test_the_order_is_the_upstream_samplers():
    # Spelled out once: shuffle, pad with the beginning, shuffle the batches, cut into contiguous parts.
    generator = torch.Generator()
    generator.manual_seed(5 + 7)
    shuffled = torch.randperm(23, generator=generator).tolist()
    padded = shuffled + shuffled[:1]
    batches = [padded[2 * i : 2 * i + 2] for i in torch.randperm(12, generator=generator).tolist()]
    flat = [index for batch in batches for index in batch]
    assert order() == [flat[:8], flat[8:16], flat[16:]]


def test_epochs_differ_and_repeat_exactly():
    assert order(epoch=1) != order(epoch=2)
    assert order(epoch=1) == order(epoch=1)


class _Table:
    def __init__(self, sizes):
        self.scene_frames = np.concatenate(([0], np.cumsum(sizes)))

    def __len__(self):
        return int(self.scene_frames[-1])


@pytest.mark.parametrize("sizes", [[40] * 10, [1, 40, 3, 40, 2, 39], [5]])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_evaluation_gives_every_scene_to_exactly_one_process(sizes, world):
    parts = [scenes_of_rank(_Table(sizes), rank, world) for rank in range(world)]
    assert sorted(sum(parts, [])) == list(range(len(sizes)))
