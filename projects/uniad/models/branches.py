"""Parts of a step that do not wait for each other: one after the other, or each on a CUDA stream of its own.

Most kernels of a step are too small to fill a GPU. Where it is recorded as a CUDA graph (``backends.cuda_graph``), parts on
streams of their own become branches of the graph, which the GPU runs at the same time. Kernels and numbers stay the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

_idle: list[torch.cuda.Stream] | None = None  # streams that no part is on; None: one after the other


@contextmanager
def on_streams(streams: list[torch.cuda.Stream]) -> Generator[None, None, None]:
    """Within, ``run_concurrently`` uses ``streams`` and adds to them what it lacks. Pass the same list to a warm-up and to the
    recording: libraries keep a workspace for each stream."""
    global _idle
    before, _idle = _idle, streams
    try:
        yield
    finally:
        _idle = before


def run_concurrently(*parts: Callable[[], Any]) -> tuple[Any, ...]:
    """The results of ``parts``, none of which may need another's. The last one stays on the current stream."""
    if _idle is None:
        return tuple([part() for part in parts])
    here, idle = torch.cuda.current_stream(), _idle
    lent = [idle.pop() if idle else torch.cuda.Stream() for _ in parts[1:]]
    results = []
    for stream, part in zip(lent, parts):
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            results.append(part())
    results.append(parts[-1]())
    for stream, result in zip(lent, results):
        here.wait_stream(stream)
        # The allocator must not hand this memory out on its own stream while ``here`` still reads it.
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                tensor.record_stream(here)
    idle.extend(reversed(lent))  # so that every run lends the same stream to the same part
    return tuple(results)
