"""Processes that work together: one World value instead of global state.

Shared by training and evaluation. Collectives on objects go over gloo, so they work the same on CPU and GPU; on one process
every function here is a no-op that returns what a world of one would.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, NoReturn

import torch
import torch.distributed as dist
from torch import Tensor

from uniad.errors import EXIT_USER_ERROR, UserError, system_errors_are_one_line
from uniad.processes import stop_with_parent

# A rank may wait this long for another: rank 0 writes a checkpoint of a full model to a slow disk in less.
TIMEOUT = timedelta(minutes=30)

# A process that is told to stop has this long to finish its step and save, before it is killed.
STOP_GRACE_S = 120
# After one process has failed the others cannot go on: on a GPU they wait in a collective, and no signal reaches them there.
FAILED_GRACE_S = 15
# A process that has failed has this long to end its loader and let go of its GPU, before it says why and ends as it is.
TEARDOWN_S = 20.0
# One that only lost another one waits this long: that one, or the launcher, tells the cause and ends it meanwhile.
CAUSE_FIRST_S = 5.0
# Where the launcher says which process it is.
LAUNCHER_PID = "UNIAD_LAUNCHER_PID"


@dataclass(frozen=True)
class World:
    """This process's place among its peers."""

    rank: int
    size: int
    local_rank: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def pick_device(name: str, local_rank: int = 0, processes_here: int = 1) -> torch.device:
    """``auto``, ``cpu`` or ``cuda`` -> the device of this process. ``cuda`` never falls back to the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
        if name == "cpu" and processes_here > 1:
            raise UserError(
                f"{processes_here} GPUs were asked for, but this PyTorch sees none: check the driver with nvidia-smi, or pass "
                f"--device cpu to train in processes on the CPU (make: GPUS=0 CPU_PROCESSES={processes_here})"
            )
    if name == "cpu":
        return torch.device("cpu")
    if name != "cuda":
        raise UserError(f"unknown device '{name}': choose auto, cuda or cpu")
    if not torch.cuda.is_available():
        raise UserError(
            "device 'cuda' asked for, but this PyTorch sees no GPU: check the driver with nvidia-smi, or pass --device cpu"
        )
    if processes_here > torch.cuda.device_count():
        raise UserError(
            f"{processes_here} processes on this machine but {torch.cuda.device_count()} GPU(s) visible: "
            "start as many processes as GPUs (see CUDA_VISIBLE_DEVICES), or pass --device cpu"
        )
    capability = torch.cuda.get_device_capability(local_rank)
    if not runs_on(capability, torch.cuda.get_arch_list()):
        name, known = torch.cuda.get_device_name(local_rank), ", ".join(torch.cuda.get_arch_list())
        raise UserError(
            f"GPU {name} (sm_{capability[0]}{capability[1]}) is not among those that this PyTorch {torch.__version__} was built "
            f"for ({known}): install a build for it, or pass --device cpu"
        )
    return torch.device("cuda", local_rank)


def runs_on(capability: tuple[int, int], built_for: list[str]) -> bool:
    """Whether code built for ``sm_80``, ``compute_90``, ... runs on a GPU of this compute capability.

    Machine code (sm) runs on later GPUs of the same generation, intermediate code (compute) on all later ones.
    """
    if not built_for:
        return True  # a build that does not tell
    for name in built_for:
        kind, _, digits = name.partition("_")
        number = re.match(r"\d+", digits)
        if number is None:
            continue
        major, minor = divmod(int(number[0]), 10)
        if (major, minor) <= capability and (kind == "compute" or major == capability[0]):
            return True
    return False


def start(launcher: Literal["none", "pytorch"] = "none", device: str = "auto") -> World:
    """Joins the process group that torchrun describes in the environment (``pytorch``), or stays alone (``none``)."""
    if launcher == "none":
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError("started by torchrun with several processes, but --launcher is none: pass --launcher pytorch")
        return World(0, 1, 0, pick_device(device))
    missing = [k for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if k not in os.environ]
    if missing:
        raise UserError(
            f"--launcher pytorch needs {', '.join(missing)} from torchrun: start with tools/uniad_dist_train.sh CFG GPUS, "
            "or pass --launcher none"
        )
    # Ranks run in sessions of their own: a launcher that is killed tells them nothing, and they would train on, unseen.
    stop_with_parent(int(os.environ.get(LAUNCHER_PID) or os.getppid()), STOP_GRACE_S)
    rank, size, local_rank = (int(os.environ[k]) for k in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    chosen = pick_device(device, local_rank, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    backend = "cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo"
    try:
        dist.init_process_group(backend, timeout=TIMEOUT)
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        if "EADDRINUSE" in str(error) or "address already in use" in str(error):
            raise UserError(port_in_use_message(int(os.environ["MASTER_PORT"]))) from None
        raise UserError(
            f"rank {rank} of {size} cannot meet the others at {where}: check MASTER_ADDR, MASTER_PORT and the firewall "
            f"({str(error).splitlines()[0]})"
        ) from None
    return World(rank, size, local_rank, chosen)


# How a collective ends when a process at its other end has gone.
_PEER_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited", "ncclRemoteError")


class PeerLost(UserError):
    """Another process of the group has ended. The cause is that process's to tell, or the launcher's."""

    def __init__(self, world: World, told_to_end: bool = False) -> None:
        """told_to_end: the launcher, which knows of the other one's end, has already said so to this process."""
        super().__init__(f"process {world.rank} stopped because another one ended; see its message")
        self.told_to_end = told_to_end


def _lost_peer(world: World, error: BaseException) -> bool:
    return world.size > 1 and isinstance(error, RuntimeError) and any(text in str(error) for text in _PEER_GONE)


@contextmanager
def explain_peer_loss(world: World, told_to_end: Callable[[], bool] = lambda: False) -> Generator[None, None, None]:
    """Turns the broken connection that another process's end leaves behind into PeerLost."""
    try:
        yield
    except RuntimeError as error:
        if _lost_peer(world, error):
            raise PeerLost(world, told_to_end()) from None
        raise


@contextmanager
def ends_in_time(world: World) -> Generator[None, None, None]:
    """Lets an error leave a process of several within ``TEARDOWN_S``, whatever its teardown waits for; put it inside of that.

    Ending a loader or letting go of a GPU can wait for a peer that itself waits for this process, for ever and without a line.
    """
    try:
        yield
    except Exception as error:
        if world.size > 1:
            told = PeerLost(world) if _lost_peer(world, error) else error
            line = str(told) if isinstance(told, UserError) else f"{type(told).__name__}: {str(told).partition(chr(10))[0]}"
            end = threading.Timer(TEARDOWN_S, _say_and_end, [line])
            end.daemon = True
            end.start()
        raise


def _say_and_end(line: str) -> None:
    print(f"error: {line}", file=sys.stderr)
    _end(EXIT_USER_ERROR)


def stop(world: World) -> None:
    """Leaves the process group."""
    if world.size > 1 or dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def report_once() -> Generator[None, None, None]:
    """Lets rank 0 alone tell a mistake that all processes meet at once, e.g. in the config; put it around everything.

    The others wait before they speak, and torchrun ends them meanwhile. A mistake of one process alone is told all the same;
    whoever only lost that process waits longer, so that the cause is what people read.
    One process of several ends here, for the reason that ``leave`` gives.
    """
    try:
        with system_errors_are_one_line():
            yield
    except UserError as error:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            raise
        wait = CAUSE_FIRST_S if isinstance(error, PeerLost) else 2.0 if os.environ.get("RANK", "0") != "0" else 0.0
        if isinstance(error, PeerLost) and error.told_to_end:
            _end(EXIT_USER_ERROR)
        if wait:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            time.sleep(wait)
        _say_and_end(str(error))


def leave(world: World, code: int) -> None:
    """Ends a process of a group with exit status ``code``; returns where the process is alone.

    gloo's threads now and then abort the process ("terminate called without an active exception") while Python takes down its
    modules. All files are closed by now, so that teardown is left out.
    """
    if world.size > 1:
        _end(code)


def _end(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def barrier(world: World) -> None:
    """Returns once every process has come here."""
    if world.size > 1:
        gather_objects(world, None)


def gather_objects(world: World, value: Any) -> list[Any]:
    """Every process's value, in rank order, on every process."""
    if world.size == 1:
        return [value]
    values: list[Any] = [None] * world.size
    dist.all_gather_object(values, value)
    return values


def sum_over_ranks(world: World, values: Tensor) -> Tensor:
    """Adds a small tensor over all processes, in place. On a GPU it is queued, the host does not wait."""
    if world.size > 1:
        dist.all_reduce(values)
    return values


def mean_over_ranks(world: World, values: Tensor) -> Tensor:
    """Mean of a small tensor over all processes; no gradient flows through it."""
    return values if world.size == 1 else sum_over_ranks(world, values.detach().clone()) / world.size


def port_is_free(address: str, port: int) -> bool:
    """Whether this machine can listen at the address. True as well where the address is another machine's."""
    try:
        with socket.create_server((address, port)):
            return True
    except PermissionError:
        return False
    except OSError as error:
        return error.errno != 98  # EADDRINUSE; anything else (another machine's address) is not this check's concern


def port_in_use_message(port: int) -> str:
    return f"port {port} is in use on this machine: stop what listens there, or set MASTER_PORT to another, e.g. {port + 1}"
