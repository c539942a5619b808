"""A training iteration's forward and backward pass as one CUDA graph.

A clip of UniAD is ten thousand small kernels; queueing them one by one takes the host longer than the GPU needs to run them.
Shapes never change and nothing in an iteration looks at the device, so the queue is recorded once and replayed as a whole.

A graph reads and writes fixed memory: clips are copied into buffers, and gradients stay where they were recorded. Random draws
follow the generators as they are seeded before each replay, so an iteration draws the same numbers as without a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from uniad.ops.recording import record
from uniad.training.loader import map_tensors


class CapturedStep:
    """Called like ``ClipLoss``; runs forward and backward and leaves gradients in the parameters.

    clip_loss: module (clip, generator) -> (total, terms); its parameters must have no gradient yet.
    generator: the source of the draws, on the same device.
    scale: scalar on the device that the loss is multiplied by before the backward pass.
    """

    def __init__(self, clip_loss: nn.Module, generator: torch.Generator, scale: Tensor) -> None:
        self.clip_loss, self.generator, self.scale = clip_loss, generator, scale
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, clip: Any, reseed: Callable[[], None]) -> tuple[Tensor, Tensor]:
        """Total loss and terms [K]; both are overwritten by the next call.

        reseed: seeds all generators for this iteration; called again after the recording, which uses up draws.
        """
        if self.graph is None:
            self._record(clip)
        else:
            copy_tensors(clip, self.clip)
        reseed()
        self.graph.replay()
        return self.total, self.terms

    def _record(self, clip: Any) -> None:
        self.clip = map_tensors(Tensor.clone, clip)
        statistics = [buffer.clone() for buffer in self.clip_loss.buffers()]

        def forget() -> None:
            """Training must not have seen the same clip four times: norms forget the warm-up."""
            for buffer, kept in zip(self.clip_loss.buffers(), statistics):
                buffer.copy_(kept)

        self.graph = record(
            self._forward_backward, after_each=self._drop_gradients, before=forget, generator=self.generator
        )

    def _forward_backward(self) -> None:
        total, terms = self.clip_loss(self.clip, self.generator)
        (total * self.scale).backward()
        self.total, self.terms = total.detach(), terms

    def _drop_gradients(self) -> None:
        for parameter in self.clip_loss.parameters():
            parameter.grad = None


def copy_tensors(source: Any, target: Any) -> None:
    """Copies every tensor of ``source`` over its counterpart in ``target``; shapes must be equal."""
    if isinstance(source, Tensor):
        if source.shape != target.shape or source.dtype != target.dtype:
            raise ValueError(f"a captured step got {source.dtype}{list(source.shape)} for {target.dtype}{list(target.shape)}")
        target.copy_(source, non_blocking=True)
    elif isinstance(source, dict):
        for key, value in source.items():
            copy_tensors(value, target[key])
    elif isinstance(source, (tuple, list)):
        for one, other in zip(source, target, strict=True):
            copy_tensors(one, other)
