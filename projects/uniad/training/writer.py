"""Checkpoints are written beside training: a step waits until its numbers are copied, not until they are on the disk.

What a run promises of its files holds as if it wrote them itself: each is whole or absent, an error of the disk ends the run with
its line, at most one is being written, and whoever ends the run, or says which checkpoint is the last good one, waits for it.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from uniad.training.store import CheckpointStore

Take = Callable[[Tensor], Tensor]


class Copies:
    """Copies of a run's tensors in the host's memory, as they are when they are asked for.

    From a GPU they are queued on a stream of their own, into pinned memory that is kept for the next time: the host does not
    wait, and the GPU's next step begins once they are done (not yet run on a GPU). On a CPU the memory is copied at once.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._pinned: dict[int, Tensor] = {}  # by the order in which they are asked for, which is the same each time

    @contextmanager
    def taking(self) -> Generator[tuple[Take, Callable[[], None]], None, None]:
        """What copies a tensor, and what waits until all copies of this block have arrived; call that before they are read, and
        before the next block."""
        if self._stream is None:
            yield _Storages().take, lambda: None
            return
        training = torch.cuda.current_stream(self.device)
        self._stream.wait_stream(training)
        asked = itertools.count()
        with torch.cuda.stream(self._stream):
            done = torch.cuda.Event()
            yield lambda tensor: self._to_host(tensor, next(asked)), done.synchronize
            done.record(self._stream)
        training.wait_stream(self._stream)  # what is copied must not change meanwhile

    def _to_host(self, tensor: Tensor, index: int) -> Tensor:
        tensor = tensor.detach()
        if not tensor.is_cuda:
            return tensor.clone()
        kept = self._pinned.get(index)
        if kept is None or (kept.shape, kept.stride(), kept.dtype) != (tensor.shape, tensor.stride(), tensor.dtype):
            kept = self._pinned[index] = _pinned_like(tensor)
        return kept.copy_(tensor, non_blocking=True)


def _pinned_like(tensor: Tensor) -> Tensor:
    """Memory of the host that a GPU writes by itself; where no more can be pinned the ordinary kind, for which the host waits."""
    try:
        return torch.empty_like(tensor, device="cpu", pin_memory=True)
    except RuntimeError:
        return torch.empty_like(tensor, device="cpu")


class _Storages:
    """Copies that share memory where their originals do: a file holds it once."""

    def __init__(self) -> None:
        # With the originals, so that none of them is freed and another one gets its place
        self._copied: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}

    def take(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        storage = tensor.untyped_storage()
        if not storage.nbytes():
            return tensor.clone()
        if storage.data_ptr() not in self._copied:
            self._copied[storage.data_ptr()] = storage, storage.clone()
        _, copied = self._copied[storage.data_ptr()]
        return torch.empty(0, dtype=tensor.dtype).set_(copied, tensor.storage_offset(), tensor.size(), tensor.stride())


class CheckpointWriter:
    """Hands checkpoints to a thread, one at a time. Errors of the thread are raised where the run asks."""

    def __init__(self, store: CheckpointStore):
        self.store = store
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def write(self, name: str, content: Callable[[], Mapping[str, Any]]) -> None:
        """Begins to write ``name``. content: called in the thread. Waits for the file before."""
        self.wait()
        # No daemon: Python does not end while it writes
        self._thread = threading.Thread(target=self._write, args=(name, content), name="checkpoint")
        self._thread.start()

    def _write(self, name: str, content: Callable[[], Mapping[str, Any]]) -> None:
        try:
            self.store.save(name, content())
        except BaseException as error:  # whatever it is, it is the run's
            self._error = error

    @property
    def busy(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def check(self) -> None:
        """Raises what a finished write failed of."""
        if not self.busy:
            self.wait()

    def wait(self) -> None:
        """Until the file is on the disk. Raises what it failed of."""
        self.settle()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def settle(self) -> None:
        """Until nothing is being written. What it failed of is kept for ``wait``."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
