"""Several processes of one world inside a test, joined over gloo (and NCCL on GPUs), and each one's answer brought back.

They are forked from a server that has never computed a gradient: autograd refuses to work in a fork of a process that has, as the
one that runs the tests did before. So nothing that a test patched is known to them: ``work`` patches for itself.
"""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist

from uniad.training.distributed import World


def in_ranks(size: int, work: Callable[[World], Any], timeout_s: float = 300.0, device: str = "cpu") -> list[Any]:
    """``work(world)`` in ``size`` processes on the CPU, or on a GPU each; what it returned in each, by rank.

    Where there are fewer GPUs than processes, they share them, over gloo: NCCL wants a GPU for each.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed", __name__])
    packed = cloudpickle.dumps(work)  # lambdas, too
    with tempfile.TemporaryDirectory() as folder:
        ends = [context.Pipe(duplex=False) for _ in range(size)]
        processes = [
            context.Process(target=_run, args=(rank, size, device, Path(folder) / "store", packed, sender), daemon=True)
            for rank, (_, sender) in enumerate(ends)
        ]
        for process in processes:
            process.start()
        try:
            answers = [receiver.recv() if receiver.poll(timeout_s) else ("no answer", None) for receiver, _ in ends]
        finally:
            for process in processes:
                process.kill()
                process.join()
    for error, _ in answers:
        assert not error, error
    return [value for _, value in answers]


def _run(rank: int, size: int, device: str, store: Path, packed: bytes, sender: Any) -> None:
    torch.set_num_threads(1)
    try:
        work = pickle.loads(packed)
        here, backend = torch.device("cpu"), "gloo"
        if device == "cuda":
            gpus = torch.cuda.device_count()
            here, backend = torch.device("cuda", rank % gpus), "cpu:gloo,cuda:nccl" if gpus >= size else "gloo"
            torch.cuda.set_device(here)
        dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=size, timeout=timedelta(minutes=2))
        sender.send(("", work(World(rank, size, rank, here))))
        dist.barrier()
    except BaseException:
        sender.send((traceback.format_exc(), None))
