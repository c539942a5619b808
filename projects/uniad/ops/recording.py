"""Record work as a CUDA graph: the same queue of kernels, launched at once."""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM_UP = 3  # kernels are compiled, chosen and given their workspace before a recording


def record(
    run: Callable[[], object],
    *,
    after_each: Callable[[], object] = lambda: None,
    before: Callable[[], object] = lambda: None,
    generator: torch.Generator | None = None,
) -> torch.cuda.CUDAGraph:
    """A graph of what ``run`` queues, warmed up on a stream of its own.

    after_each: undoes what a run for warm-up leaves; before: called once between warm-up and recording; generator: a source of
    random numbers besides the device's own, which replays are to follow.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP):
            run()
            after_each()
    torch.cuda.current_stream().wait_stream(side)
    before()
    graph = torch.cuda.CUDAGraph()
    if generator is not None:
        graph.register_generator_state(generator)
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may call the driver meanwhile
        run()
    return graph
