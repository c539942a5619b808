"""Batches in memory that is allocated once: what is written there is what is read, and nothing is overwritten too early."""

from __future__ import annotations

import random
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from uniad.data.arena import Arena
from uniad.data.workers import PREFETCH, TAKEN
from uniad.errors import UserError
from uniad.training.loader import ClipLoader, Position
from uniad.training.seeding import sample_seed, seed_all


class Sample(NamedTuple):
    img: Tensor
    parts: dict[str, Tensor]
    absent: None
    meta: list


def sample(number: int) -> Sample:
    parts = {"a": torch.tensor(number), "b": torch.tensor([number % 2 == 0]), "c": torch.full((3,), number / 2)}
    return Sample(torch.full((2, 5), number, dtype=torch.uint8), parts, None, [{"token": str(number)}])


def test_a_batch_is_its_samples_stacked_in_one_piece_of_memory():
    arena = Arena(sample(0), 2, 3)
    arena.fill(1, [sample(4), sample(5)])
    batch = arena.batches[1]
    assert batch.img[:, 0, 0].tolist() == [4, 5] and batch.img.dtype == torch.uint8
    assert batch.parts["a"].tolist() == [4, 5] and batch.parts["b"].tolist() == [[True], [False]]
    assert batch.parts["c"][1].tolist() == [2.5] * 3 and batch.absent is None and batch.meta == []
    tensors = (batch.img, *batch.parts.values())
    assert all(t.untyped_storage().data_ptr() == arena.flat.untyped_storage().data_ptr() for t in tensors)
    assert all(t.data_ptr() % 64 == 0 for t in tensors) and arena.batches[0].img.eq(0).all()
    copy = arena.copy_to(torch.device("cpu"), batch)
    assert torch.equal(copy.parts["c"], batch.parts["c"])


def test_a_sample_of_another_shape_is_refused():
    arena = Arena(sample(0), 1, 1)
    with pytest.raises(ValueError, match=r"uint8\[3, 5\] for torch.uint8\[2, 5\]"):
        arena.fill(0, [sample(0)._replace(img=torch.zeros(3, 5, dtype=torch.uint8))])


class Numbers:
    """Samples that tell their number."""

    def __init__(self, bad: int = -1) -> None:
        self.bad = bad

    def __len__(self) -> int:
        return 12

    def __getitem__(self, position: Position) -> Sample:
        if position.index == self.bad:
            raise UserError(f"sample {self.bad} is damaged")
        return sample(position.index)


class Placed(Numbers):
    """Samples that write their image where it belongs, and tell whether all was drawn as in the main process."""

    def write(self, position: Position, place: Sample) -> Sample:
        place.img.fill_(position.index)
        drawn = torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])
        made = self[position]
        return made._replace(img=place.img, parts=made.parts | {"c": drawn})


class Order(list):
    def set_epoch(self, epoch: int) -> None:
        pass


def loader(workers: int, dataset: Numbers) -> ClipLoader:
    return ClipLoader(
        dataset, Order(range(12)), batch_size=2, workers=workers, collate=lambda samples: samples, seed=0, in_slots=True
    )


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_arrive_in_order_and_stay_until_two_more_were_taken(workers: int):
    clips = loader(workers, Numbers())
    for start in (0, 3):  # a stream can be begun again
        stream, held = clips.stream(start), []
        for k in range(2 * (workers * PREFETCH + TAKEN)):
            held = [*held, (2 * ((start + k) % 6), next(stream))][-TAKEN:]
            for first, batch in held:
                assert batch.img[:, 0, 0].tolist() == [first, first + 1]
        stream.close()


def test_a_sample_that_writes_its_image_draws_what_the_main_process_would():
    stream = loader(2, Placed()).stream()
    for k in range(8):
        batch = next(stream)
        assert batch.img[:, 1, 4].tolist() == [2 * k % 12, 2 * k % 12 + 1]
        for row, index in enumerate((2 * k % 12, 2 * k % 12 + 1)):
            seed_all(sample_seed(0, k // 6, index))
            assert batch.parts["c"][row].tolist() == torch.tensor([random.random(), np.random.rand(), torch.rand(())]).tolist()
    stream.close()


def test_a_mistake_in_a_sample_is_one_line():
    for bad in (0, 5):  # met before processes are started, and in one of them
        stream = loader(1, Numbers(bad)).stream()
        with pytest.raises(UserError, match=f"sample {bad} is damaged"):
            for _ in range(6):
                next(stream)
