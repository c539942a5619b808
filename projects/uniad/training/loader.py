"""Clips for training: an endless stream over epochs that can start at any iteration.

The stream is positional: which samples iteration k gets, and how they are augmented, follows from (seed, k) alone. Resuming is
starting the stream at another k; nothing is drawn and thrown away. One stream spans all epochs, so workers never run dry.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from uniad.data.arena import Arena
from uniad.data.workers import PREFETCH, TAKEN, TIMEOUT_S, Failure, batches, guarded_loader
from uniad.errors import UserError
from uniad.training.seeding import sample_seed, seed_all, seed_host

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
        return self._made(index, lambda: self.dataset[index])

    def write(self, index: Position, place: Any) -> Any:
        """The same, with what is large written to ``place``, a sample, where the dataset knows how."""
        if not hasattr(self.dataset, "write"):
            return self[index]
        return self._made(index, lambda: self.dataset.write(index, place))

    def _made(self, index: Position, make: Callable[[], Any]) -> Any:
        seed = seed_all if get_worker_info() is None else seed_host
        seed(sample_seed(self.seed, index.epoch, index.index))
        try:
            return make()
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

    def on_device(self, batch: Any, device: torch.device, /) -> Any: ...


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
        finish: Callable[[Any], Any] = lambda clip: clip,
        in_slots: bool = False,
        decode: Callable[[Any, Any], Any] | None = None,
    ):
        """collate: a list of samples -> a batch.

        finish: makes what is trained on of a batch, on the device.
        decode: makes pixels of a batch's files, given it on the host and on the device; before ``finish``.
        in_slots: loader processes write batches into memory that is allocated once (``data.arena``). Samples must all have the
        same shapes, and ``collate`` do no more than stack them. A dataset's ``write(position, place)`` makes a sample whose large
        tensors are those of ``place``; what else it has is copied.
        """
        if len(sampler) == 0:
            raise UserError("the training set is empty: check the info file and data root")
        self.batch_size, self.workers = batch_size, workers
        self.epoch_len = -(-len(sampler) // batch_size)
        self.batches = Batches(sampler, batch_size, self.epoch_len)
        self.timeout_s, self._finish, self._decode, self.pin_memory = timeout_s, finish, decode, pin_memory
        self.dataset, self.collate = _Positioned(dataset, seed), collate
        self.slots = workers * PREFETCH + TAKEN if in_slots and workers else 0
        self.arena: Arena | None = None
        if not self.slots:
            self.loader = self._loader(self.dataset, collate, self.batches, pin_memory=pin_memory)

    def _loader(self, dataset: Any, collate: Any, sampler: Any, **options: Any) -> DataLoader:
        return guarded_loader(dataset, workers=self.workers, collate=collate, batch_sampler=sampler, **options)

    def stream(self, start: int = 0) -> Generator[Any, None, None]:
        """Batches of iteration ``start``, ``start`` + 1, ... without end, for ``on_device``; closing it ends the workers.

        A batch may be written over when two more have been taken after it.
        """
        self.batches.start = start
        if self.slots:
            return self._from_slots()
        return batches(self.loader, self.timeout_s, _IF_SLOW)

    def on_device(self, batch: Any, device: torch.device) -> Any:
        """What is trained on of a batch of ``stream``; does not wait for the copy."""
        if self.arena is not None and device.type == "cuda":
            moved = self.arena.copy_to(device, batch)
        else:
            moved = to_device(batch, device)
        return self._finish(moved if self._decode is None else self._decode(batch, moved))

    def _from_slots(self) -> Generator[Any, None, None]:
        if self.arena is None:
            # shapes are those of the first sample; what it draws is drawn again by the process that makes it
            sample = self.dataset[next(iter(self.batches))[0]]
            if isinstance(sample, Failure):
                raise UserError(sample.message)
            self.arena = Arena(sample, self.batch_size, self.slots)
            samples, numbered = _Slotted(self.dataset, self.arena), _Numbered(self.batches, self.slots)
            self.loader = self._loader(samples, _Fill(self.arena), numbered, multiprocessing_context="fork")
        arena = self.arena
        with closing(batches(self.loader, self.timeout_s, _IF_SLOW)) as numbers:
            try:
                for number in numbers:
                    if self.pin_memory:
                        arena.pin()  # here, when all processes have been forked
                    yield arena.batches[number]
            finally:
                if self.pin_memory:
                    torch.cuda.synchronize()
                    arena.unpin()


_IF_SLOW = "give a longer --loader-timeout"


class _Numbered:
    """Batches of positions with the slot that each goes to. One is taken again only when those after it fill all others."""

    def __init__(self, positions: Batches, slots: int) -> None:
        self.positions, self.slots = positions, slots

    def __iter__(self) -> Iterator[list[tuple[int, int, Position]]]:
        for number, chosen in enumerate(self.positions):
            yield [(number % self.slots, row, position) for row, position in enumerate(chosen)]


class _Slotted(Dataset):
    """Samples with the slot of their batch, what is large of them already in it."""

    def __init__(self, dataset: _Positioned, arena: Arena) -> None:
        self.dataset, self.arena = dataset, arena

    def __getitem__(self, index: tuple[int, int, Position]) -> Any:
        slot, row, position = index
        sample = self.dataset.write(position, self.arena.row(slot, row))
        return sample if isinstance(sample, Failure) else (slot, sample)


class _Fill:
    """Writes a batch to its slot; the slot's number is what travels."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena

    def __call__(self, placed: list[tuple[int, Any]]) -> int:
        slot = placed[0][0]
        self.arena.fill(slot, [sample for _, sample in placed])
        return slot


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


def prefetch(
    stream: Generator[Any], device: torch.device, on_device: Callable[[Any, torch.device], Any] = to_device
) -> Generator[tuple[Any, Any], None, None]:
    """(host batch, clip on the device) pairs; on a GPU the copy does not wait for the iteration before."""
    with closing(stream):
        if device.type != "cuda":
            for host in stream:
                yield host, on_device(host, device)
            return
        side = torch.cuda.Stream(device)
        copied: deque[Any] = deque(maxlen=TAKEN - 1)
        for host in stream:
            # the device still computes the iteration queued last, so this copy runs beside it
            with torch.cuda.stream(side):
                clip = on_device(host, device)
                copied.append(side.record_event())
            torch.cuda.current_stream(device).wait_stream(side)
            record_stream(clip, torch.cuda.current_stream(device))
            yield host, clip
            # what the next batch may be written over has been read
            copied[0].synchronize()
