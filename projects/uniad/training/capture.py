"""A training iteration's gradients: computed as they come, or recorded once and replayed.

A clip of UniAD is ten thousand small kernels; queueing them one by one takes the host longer than the GPU needs to run them.
Shapes never change and nothing in an iteration looks at the device, so the queue is recorded once, as a CUDA graph, and replayed
as a whole. The graph holds forward and backward pass and the copy of gradients into flat buckets; the buckets are reduced over
all processes between replays. Counts that losses are divided by are means over all processes too, and are recorded with the rest.

A graph reads and writes fixed memory: clips are copied into buffers, and gradients stay where they were recorded. Random draws
follow the generators as they are seeded before each replay, so an iteration draws the same numbers as without a graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from uniad.ops.recording import record
from uniad.training import optim
from uniad.training.compiled import Compiled, Numbers
from uniad.training.distributed import World
from uniad.training.loader import map_tensors
from uniad.training.reduce import BufferSync, GradientReducer


class Recording(Protocol):
    """Work that was recorded: a CUDA graph, or its stand-in."""

    def replay(self) -> None: ...


class Recorder(Protocol):
    """What makes a recording: ``ops.recording.record``, or what stands for it where there is no GPU."""

    def __call__(
        self,
        run: Callable[[], object],
        *,
        after_each: Callable[[], object],
        before: Callable[[], object],
        generator: torch.Generator | None,
    ) -> Recording: ...


class Step:
    """Called with a clip, leaves the mean gradient over all processes in the parameters.

    clip_loss: module (clip, generator) -> (total, terms).
    generator: the source of the draws, on the same device.
    scale: scalar on the device that the loss is multiplied by before the backward pass.
    reduce_dtype: what gradients travel in between processes, see ``GradientReducer``.
    compiled: parts of ``clip_loss`` that may run compiled. They are compiled at the first clip; ``say`` tells what came of it.
    """

    def __init__(
        self,
        clip_loss: nn.Module,
        generator: torch.Generator,
        scale: Tensor,
        world: World,
        reduce_dtype: torch.dtype | None = None,
        compiled: Compiled | None = None,
        say: Callable[[str], object] = print,
    ) -> None:
        self.clip_loss, self.generator, self.scale, self.world = clip_loss, generator, scale, world
        self.reduce_dtype, self.compiled, self.say = reduce_dtype, compiled, say
        self.reducer: GradientReducer | None = None
        # Running statistics differ between processes; a checkpoint holds the main process's, and the history BEVs read them.
        norms = [m for m in clip_loss.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
        self.sync_buffers = BufferSync(norms) if world.size > 1 and norms else None

    def __call__(self, clip: Any, reseed: Callable[[], object]) -> tuple[Tensor, Tensor]:
        """This process's total loss and terms [K], not differentiable.

        reseed: seeds all generators for this iteration; may be called more than once.
        """
        if self.sync_buffers is not None:
            self.sync_buffers()
        if self.compiled is not None and not self.compiled.settled:
            self._settle(self.compiled, clip, reseed)
        total, terms = self._compute(clip, reseed)
        if self.reducer is not None:
            self.reducer.reduce()
        return total, terms

    def _settle(self, compiled: Compiled, clip: Any, reseed: Callable[[], object]) -> None:
        forget = self._statistics()

        def run() -> Numbers:
            reseed()
            try:
                total, _ = self._forward_backward(clip)
                grads = [p.grad for p in self.clip_loss.parameters() if p.grad is not None]
                return Numbers(float(total), float(optim.global_norm(grads) / self.scale))
            finally:
                self._drop_gradients()
                forget()

        self.say(compiled.settle(run, self.world))

    def _compute(self, clip: Any, reseed: Callable[[], object]) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def _statistics(self) -> Callable[[], None]:
        """Puts what norms have learnt until now back where it was."""
        statistics = [buffer.clone() for buffer in self.clip_loss.buffers()]

        def forget() -> None:
            for buffer, kept in zip(self.clip_loss.buffers(), statistics):
                buffer.copy_(kept)

        return forget

    def _forward_backward(self, clip: Any) -> tuple[Tensor, Tensor]:
        self._drop_gradients()
        total, terms = self.clip_loss(clip, self.generator)
        (total * self.scale).backward()
        return total.detach(), terms

    def _gather(self) -> None:
        """Gradients into their buckets. Which parameters have any is learnt from the first iteration: it is always the same."""
        if self.world.size == 1:
            return
        if self.reducer is None:
            self.reducer = GradientReducer.of(self.clip_loss.named_parameters(), self.world, self.reduce_dtype)
        self.reducer.check(self.clip_loss.named_parameters())
        self.reducer.gather()

    def _drop_gradients(self) -> None:
        for parameter in self.clip_loss.parameters():
            parameter.grad = None


class EagerStep(Step):
    """Every kernel queued as it comes up."""

    def _compute(self, clip: Any, reseed: Callable[[], object]) -> tuple[Tensor, Tensor]:
        reseed()
        result = self._forward_backward(clip)
        self._gather()
        return result


class RecordedStep(Step):
    """Recorded at the first clip, replayed for it and every further one; clips must have the first one's shapes.

    The total and the terms are overwritten by the next call.
    """

    recorder: Recorder = staticmethod(record)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.recording: Recording | None = None
        self.result: tuple[Tensor, Tensor] | None = None  # the memory of total and terms

    def _compute(self, clip: Any, reseed: Callable[[], object]) -> tuple[Tensor, Tensor]:
        recording = self.recording
        if recording is None:
            recording = self.recording = self._record(clip)
        else:
            copy_tensors(clip, self.clip)
        reseed()  # the recording has used up draws
        recording.replay()
        assert self.result is not None, "a recording has run before"
        return self.result

    def _record(self, clip: Any) -> Recording:
        self.clip = map_tensors(Tensor.clone, clip)
        # Training must not have seen the same clip four times: norms forget the warm-up.
        return self.recorder(self._run, after_each=self._drop_gradients, before=self._statistics(), generator=self.generator)

    def _run(self) -> None:
        found = self._forward_backward(self.clip)
        if self.result is None:
            self.result = (torch.empty_like(found[0]), torch.empty_like(found[1]))
        for kept, value in zip(self.result, found):
            kept.copy_(value)
        self._gather()


def copy_tensors(source: Any, target: Any) -> None:
    """Copies every tensor of ``source`` over its counterpart in ``target``; shapes must be equal."""
    if isinstance(source, Tensor):
        if source.shape != target.shape or source.dtype != target.dtype:
            raise ValueError(f"a recorded step got {source.dtype}{list(source.shape)} for {target.dtype}{list(target.shape)}")
        target.copy_(source, non_blocking=True)
    elif isinstance(source, dict):
        for key, value in source.items():
            copy_tensors(value, target[key])
    elif isinstance(source, (tuple, list)):
        for one, other in zip(source, target, strict=True):
            copy_tensors(one, other)
