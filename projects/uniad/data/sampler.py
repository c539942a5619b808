"""Which samples a process gets."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from uniad.data.table import InfoTable


class TrainSampler:
    """Shuffled indices of one process for one epoch: upstream's ``DistributedGroupSampler``, index by index.

    The order follows from (seed, epoch); it is padded with its own beginning until every process gets the same number of full
    batches, and each process takes one contiguous part.
    """

    def __init__(self, length: int, samples_per_gpu: int = 1, rank: int = 0, world_size: int = 1, seed: int = 0) -> None:
        self.length, self.samples_per_gpu = length, samples_per_gpu
        self.rank, self.world_size, self.seed = rank, world_size, seed
        self.epoch = 0
        self.num_samples = math.ceil(length / samples_per_gpu / world_size) * samples_per_gpu

    def set_epoch(self, epoch: int) -> None:
        """Shuffle anew for this epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_samples

    def __iter__(self) -> Iterator[int]:
        if not self.length:
            return iter(())
        generator = torch.Generator()
        generator.manual_seed(self.epoch + self.seed)
        order = torch.randperm(self.length, generator=generator).numpy()
        total = self.num_samples * self.world_size
        order = np.resize(order, total).reshape(-1, self.samples_per_gpu)
        # Batches are shuffled once more, as in upstream: without it the padding would always come last.
        order = order[torch.randperm(len(order), generator=generator).numpy()].ravel()
        part = order[self.num_samples * self.rank : self.num_samples * (self.rank + 1)]
        return iter(part.tolist())


def scenes_of_rank(table: InfoTable, rank: int, world_size: int) -> list[int]:
    """Whole scenes for one process: consecutive ones, about equal numbers of frames; together each scene exactly once."""
    middle = (table.scene_frames[:-1] + table.scene_frames[1:]) / 2
    owner = np.minimum((middle * world_size / len(table)).astype(np.int64), world_size - 1)
    return np.flatnonzero(owner == rank).tolist()
