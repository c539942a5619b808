"""Gradients and norm statistics of several processes, brought together in a few flat tensors.

A model has a thousand parameters, and a collective of a few kilobytes costs as much as one of many megabytes. So gradients are
copied side by side into buckets, in one kernel, and the buckets are reduced. Whoever gets no gradient (frozen, or reached by
no loss) has no place in a bucket: it is neither sent nor added up.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from uniad.training.distributed import World, gather_objects

BUCKET_BYTES = 64 * 2**20  # large enough for a network's full bandwidth, small enough to send one while another is added up


class GradientReducer:
    """Averages gradients over the processes of a world.

    ``gather`` only copies, and may be recorded in a CUDA graph; ``reduce`` is the collective. After both, every parameter's
    ``grad`` is the mean over all processes, in memory that stays where it is.

    parameters: every parameter that has a gradient on any process, in an order that all processes share.
    dtype: what travels; None for the gradients' own. bf16 halves the traffic and rounds each process's share to 8 bits.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], world: World, dtype: torch.dtype | None = None) -> None:
        self.parameters, self.world = list(parameters), world
        self.known = {id(p) for p in self.parameters}
        self.rounded = dtype not in (None, torch.float32)
        self.buckets: list[Tensor] = []
        self.views: list[Tensor] = []  # of each parameter in its bucket
        for group in _groups(self.parameters, BUCKET_BYTES):
            bucket = torch.zeros(sum(p.numel() for p in group), dtype=dtype or torch.float32, device=group[0].device)
            self.buckets.append(bucket)
            parts = bucket.split([p.numel() for p in group])
            # strides as the parameter's: a gradient of channels-last weights is copied as it lies, and the optimizer reads it so
            self.views += [torch.as_strided(part, p.shape, p.stride(), part.storage_offset()) for part, p in zip(parts, group)]

    @classmethod
    def of(cls, parameters: Iterable[tuple[str, nn.Parameter]], world: World, dtype: torch.dtype | None) -> GradientReducer:
        """A reducer for the parameters, by name, that have a gradient now on any process. Every process must call it."""
        named = dict(parameters)
        found = gather_objects(world, {name for name, p in named.items() if p.grad is not None})
        everyone = set().union(*found)
        return cls([p for name, p in named.items() if name in everyone], world, dtype)

    def check(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """A parameter that has no place here and a gradient all the same would drift apart between processes."""
        for name, parameter in parameters:
            if parameter.grad is not None and id(parameter) not in self.known:
                raise RuntimeError(f"{name} has a gradient now and had none in the first iteration, on any process")

    def gather(self) -> None:
        """Copies this process's share of every gradient to its place."""
        there = [(view, p.grad) for view, p in zip(self.views, self.parameters) if p.grad is not None]
        absent = [view for view, p in zip(self.views, self.parameters) if p.grad is None]
        if there:
            torch._foreach_copy_([view for view, _ in there], [grad for _, grad in there])
        if absent:
            torch._foreach_zero_(absent)
        for bucket in self.buckets:
            bucket.div_(self.world.size)
        for view, parameter in zip(self.views, self.parameters):
            if not self.rounded:
                parameter.grad = view
            elif parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def reduce(self) -> None:
        """Adds the buckets up over all processes; on a GPU it is queued."""
        for work in [dist.all_reduce(bucket, async_op=True) for bucket in self.buckets]:
            work.wait()
        if self.rounded:
            torch._foreach_copy_([p.grad for p in self.parameters if p.grad is not None], self.views)


def _groups(parameters: Sequence[nn.Parameter], most: int) -> list[list[nn.Parameter]]:
    """Parameters in their order, in runs of at most ``most`` bytes of fp32 and of one device."""
    groups: list[list[nn.Parameter]] = []
    size = 0
    for parameter in parameters:
        need = parameter.numel() * 4
        if not groups or size + need > most or groups[-1][0].device != parameter.device:
            groups.append([])
            size = 0
        groups[-1].append(parameter)
        size += need
    return groups


class BufferSync:
    """Gives every process the first one's buffers of some modules, such as the running statistics of norms that learn."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        by_type: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for buffer in (buffer for module in modules for buffer in module.buffers(recurse=False)):
            by_type.setdefault((buffer.dtype, buffer.device), []).append(buffer)
        self.groups = list(by_type.values())

    def __call__(self) -> None:
        for buffers in self.groups:
            flat = torch.cat([b.reshape(-1) for b in buffers])
            dist.broadcast(flat, src=0)
            parts = flat.split([b.numel() for b in buffers])
            torch._foreach_copy_(buffers, [part.view(b.shape) for part, b in zip(parts, buffers)])
