"""Clips for training: an endless stream over epochs that can start at any iteration.

The stream is positional: which samples iteration k gets, and how they are augmented, follows from (seed, k) alone. Resuming is
starting the stream at another k; nothing is drawn and thrown away. One stream spans all epochs, so workers never run dry.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import Dataset

from uniad.data.workers import TIMEOUT_S, Failure, batches, guarded_loader
from uniad.errors import UserError
from uniad.training.seeding import sample_seed, seed_all

SHARE_OF_GPU = 0.5  # of its free memory that data may take; a training iteration needs the rest


class EpochSampler(Protocol):
    """Indices of this process's samples, in the order of the epoch set last."""

    def set_epoch(self, epoch: int) -> None: ...

    def __iter__(self) -> Iterator[int]: ...

    def __len__(self) -> int: ...


class Position(NamedTuple):
    """A sample in the stream: what a training data set is indexed by."""

    epoch: int
    index: int


class _Positioned(Dataset):
    """The dataset, addressed by position: seeds all generators for a sample before it is made."""

    def __init__(self, dataset: Any, seed: int):
        self.dataset = dataset
        self.seed = seed

    def __getitem__(self, index: Position) -> Any:
        seed_all(sample_seed(self.seed, index.epoch, index.index))
        try:
            return self.dataset[index]
        except UserError as error:
            return Failure(str(error))


class Batches:
    """Batches of positions from iteration ``start`` on."""

    def __init__(self, sampler: EpochSampler, batch_size: int, epoch_len: int):
        self.sampler = sampler
        self.batch_size = batch_size
        self.epoch_len = epoch_len
        self.start = 0

    def __iter__(self) -> Iterator[list[Position]]:
        epoch, skip = divmod(self.start, self.epoch_len)
        while True:
            self.sampler.set_epoch(epoch)
            indices = list(self.sampler)
            for k in range(skip, self.epoch_len):
                # the last batch of an epoch is filled up from its beginning: shapes stay static
                chosen = [indices[(k * self.batch_size + j) % len(indices)] for j in range(self.batch_size)]
                yield [Position(epoch, i) for i in chosen]
            epoch, skip = epoch + 1, 0


class Loader(Protocol):
    """What a trainer takes its clips from."""

    workers: int
    batch_size: int
    epoch_len: int

    def stream(self, start: int = 0) -> Generator[Any, None, None]: ...


class ClipLoader:
    """Batches of clips for one process. ``dataset[position]`` makes a sample, from the position alone."""

    def __init__(
        self,
        dataset: Any,
        sampler: EpochSampler,
        *,
        batch_size: int,
        workers: int,
        collate: Callable[[list[Any]], Any],
        seed: int,
        pin_memory: bool = False,
        timeout_s: float = TIMEOUT_S,
    ):
        if len(sampler) == 0:
            raise UserError("the training set is empty: check the info file and data root")
        self.batch_size, self.workers = batch_size, workers
        self.epoch_len = -(-len(sampler) // batch_size)
        self.batches = Batches(sampler, batch_size, self.epoch_len)
        self.timeout_s = timeout_s
        self.loader = guarded_loader(
            _Positioned(dataset, seed), workers=workers, collate=collate, batch_sampler=self.batches, pin_memory=pin_memory
        )

    def stream(self, start: int = 0) -> Generator[Any]:
        """Clips of iteration ``start``, ``start`` + 1, ... without end; closing the generator ends the workers."""
        self.batches.start = start
        return batches(self.loader, self.timeout_s, "give a longer --loader-timeout")


def map_tensors(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """Nested tuples, lists and dictionaries with every tensor changed; other values as they are."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(change, v) for v in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_tensors(change, v) for v in value)
    if isinstance(value, dict):
        return {k: map_tensors(change, v) for k, v in value.items()}
    return value


def size_of(value: Any) -> int:
    """Bytes of all tensors in nested tuples, lists and dictionaries."""
    total = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    map_tensors(count, value)
    return total


def home(size: int, device: torch.device) -> torch.device:
    """Where ``size`` bytes that every iteration reads are kept: on a GPU that has twice as much free, else on the host."""
    roomy = device.type == "cuda" and size < SHARE_OF_GPU * torch.cuda.mem_get_info(device)[0]
    return device if roomy else torch.device("cpu")


def to_device(value: Any, device: torch.device) -> Any:
    """The same nested structure with its tensors on ``device``; does not wait for the copies."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), value)


def record_stream(value: Any, stream: torch.cuda.Stream) -> None:
    """Tells the allocator that ``stream`` uses these tensors, so their memory is not handed on too early."""
    if isinstance(value, Tensor):
        value.record_stream(stream)
    elif isinstance(value, dict):
        record_stream(list(value.values()), stream)
    elif isinstance(value, (tuple, list)):
        for v in value:
            record_stream(v, stream)


def prefetch(stream: Generator[Any], device: torch.device) -> Generator[tuple[Any, Any], None, None]:
    """(host clip, device clip) pairs; on a GPU the copy does not wait for the iteration before."""
    with closing(stream):
        if device.type != "cuda":
            for host in stream:
                yield host, to_device(host, device)
            return
        side = torch.cuda.Stream(device)
        for host in stream:
            # the device still computes the iteration queued last, so this copy runs beside it
            with torch.cuda.stream(side):
                clip = to_device(host, device)
            torch.cuda.current_stream(device).wait_stream(side)
            record_stream(clip, torch.cuda.current_stream(device))
            yield host, clip
