"""Batches that loader processes write where the main process reads them: one piece of memory, allocated once.

Shapes never change, so each batch has a slot of one size in memory that processes share, and all that is sent for a batch is its
slot's number. Nothing is copied on the way, no file is opened, and ``/dev/shm`` is not used: the memory is anonymous, and forked
processes inherit it. On a GPU it is page-locked once, and every copy to the device is made from it.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

ALIGN = 64  # bytes: a vector register, and any element


class Arena:
    """``slots`` batches of ``batch_size`` samples like ``sample``: nested tuples, lists and dictionaries of tensors.

    Other values of a sample are those of the first; a list of dictionaries is what a batch cannot hold, and is left empty.
    """

    def __init__(self, sample: Any, batch_size: int, slots: int) -> None:
        self.batch_size = batch_size
        self.slot_bytes = 0
        self.template = self._visit(sample, lambda tensor: torch.empty_like(tensor, device="meta"))
        self._visit(sample, self._take)
        self.memory = mmap.mmap(-1, max(1, self.slot_bytes * slots))
        self.flat = flat = torch.frombuffer(self.memory, dtype=torch.uint8)
        self.batches = [self._batch(self.template, flat[k * self.slot_bytes :][: self.slot_bytes]) for k in range(slots)]
        self.rows: dict[tuple[int, int], tuple[Any, list[Tensor]]] = {}
        self.pinned = self.refused = False

    def _take(self, tensor: Tensor) -> None:
        self.slot_bytes += self._room(tensor)[1]

    def _room(self, tensor: Tensor) -> tuple[int, int]:
        """Bytes of a batch of such tensors, and those until the next one begins."""
        size = tensor.numel() * tensor.element_size() * self.batch_size
        return size, -(-size // ALIGN) * ALIGN

    def _batch(self, sample: Any, slot: Tensor) -> Any:
        place = 0

        def view(tensor: Tensor) -> Tensor:
            nonlocal place
            size, room = self._room(tensor)
            part, place = slot[place : place + size], place + room
            return part.view(tensor.dtype).view(self.batch_size, *tensor.shape)

        return self._visit(sample, view)

    def _visit(self, value: Any, change: Callable[[Tensor], Any]) -> Any:
        if isinstance(value, Tensor):
            return change(value)
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*(self._visit(v, change) for v in value))
        if isinstance(value, tuple):
            return tuple(self._visit(v, change) for v in value)
        if isinstance(value, list):
            return [] if any(isinstance(v, dict) for v in value) else [self._visit(v, change) for v in value]
        if isinstance(value, dict):
            return {k: self._visit(v, change) for k, v in value.items()}
        return value

    def row(self, slot: int, row: int) -> Any:
        """Where a sample of a batch belongs, like the sample: what is written there need not be copied by ``fill``."""
        return self._row(slot, row)[0]

    def _row(self, slot: int, row: int) -> tuple[Any, list[Tensor]]:
        """The same, and its tensors one after the other."""
        if (slot, row) not in self.rows:
            place = self._visit(self.batches[slot], lambda tensor: tensor[row])
            self.rows[slot, row] = place, self._tensors(place)
        return self.rows[slot, row]

    def fill(self, slot: int, samples: Sequence[Any]) -> None:
        """Writes what does not stand there yet of a batch. Raises ValueError where a sample has other shapes than the first."""
        for row, sample in enumerate(samples):
            for tensor, place in zip(self._tensors(sample), self._row(slot, row)[1], strict=True):
                if tensor.shape != place.shape or tensor.dtype != place.dtype:
                    found = f"{tensor.dtype}{list(tensor.shape)}"
                    raise ValueError(f"a sample has {found} for {place.dtype}{list(place.shape)}")
                if tensor.data_ptr() != place.data_ptr():
                    place.copy_(tensor)

    def _tensors(self, value: Any) -> list[Tensor]:
        found: list[Tensor] = []
        self._visit(value, found.append)
        return found

    def copy_to(self, device: torch.device, batch: Any) -> Any:
        """One of ``batches`` on a device: its slot in one copy, which the host does not wait for."""
        number = next(k for k, one in enumerate(self.batches) if one is batch)
        slot = self.flat[number * self.slot_bytes :][: self.slot_bytes]
        return self._batch(self.template, slot.to(device, non_blocking=True))

    def pin(self) -> None:
        """Page-locks the memory, so that a GPU copies from it while the host goes on. Where that is refused, copies only wait."""
        if self.pinned or self.refused:
            return
        runtime: Any = torch.cuda.cudart()
        self.pinned = int(runtime.cudaHostRegister(self.flat.data_ptr(), self.flat.numel(), 0)) == 0
        self.refused = not self.pinned
        if self.refused:
            with suppress(RuntimeError):  # the refusal is told by the next kernel, whatever that is
                torch.zeros(1, device="cuda")

    def unpin(self) -> None:
        if self.pinned:
            runtime: Any = torch.cuda.cudart()
            runtime.cudaHostUnregister(self.flat.data_ptr())
            self.pinned = False
