"""Numbers that leave the device one iteration late, so that the host never waits for the iteration it has just queued."""

from __future__ import annotations

import torch
from torch import Tensor


class Telemetry:
    """A mailbox for one small float vector per iteration."""

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.host: list[Tensor] = []  # two pinned buffers used in turn
        self.pending: tuple[int, Tensor, torch.cuda.Event | None] | None = None
        self.turn = 0

    def push(self, iteration: int, vector: Tensor) -> None:
        """Queues a copy of ``vector`` [K] to the host."""
        vector = vector.detach().float()
        if not self.on_gpu:
            self.pending = (iteration, vector.clone(), None)
            return
        if not self.host:
            self.host = [torch.empty(vector.shape, dtype=torch.float32, pin_memory=True) for _ in range(2)]
        self.turn ^= 1
        buffer = self.host[self.turn]
        buffer.copy_(vector, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self.pending = (iteration, buffer, event)

    def pop(self) -> tuple[int, list[float]] | None:
        """The vector pushed last and its iteration, once; waits until the device has produced it."""
        if self.pending is None:
            return None
        iteration, buffer, event = self.pending
        self.pending = None
        if event is not None:
            event.synchronize()
        return iteration, buffer.tolist()
