"""Starts a script in several processes through torchrun, and keeps the message people see down to one line.

    python -m uniad.training.launch GPUS SCRIPT [ARGS...]

The environment says where: NNODES, NODE_RANK (or RANK), MASTER_ADDR, MASTER_PORT.
GPUS is the number over all machines; 0 is one process on the CPU.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from torch.distributed import DistNetworkError, DistStoreError
from torch.distributed.elastic.multiprocessing import api as elastic
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from uniad.errors import SAME_REQUEST_S, UserError, run_cli
from uniad.processes import describe_exit
from uniad.training.distributed import FAILED_GRACE_S, LAUNCHER_PID, STOP_GRACE_S, port_in_use_message, port_is_free

GPUS_PER_MACHINE = 8  # upstream's rule, where NNODES does not say otherwise
DEFAULT_PORT = 28596


@dataclass(frozen=True)
class Layout:
    """Which processes run where."""

    nodes: int
    node_rank: int
    per_node: int
    address: str
    port: int


def layout(gpus: str, env: Mapping[str, str]) -> Layout:
    """Reads GPUS and the environment; a value that cannot be is a UserError that names it."""

    def number(name: str, text: str, least: int) -> int:
        if not text.isdigit() or int(text) < least:
            raise UserError(f"{name}={text!r} is not a whole number of at least {least}")
        return int(text)

    total = max(1, number("GPUS", gpus, 0))
    nodes = number("NNODES", env.get("NNODES") or str(-(-total // GPUS_PER_MACHINE)), 1)
    node_rank = number("NODE_RANK", env.get("NODE_RANK") or env.get("RANK") or "0", 0)
    port = number("MASTER_PORT", env.get("MASTER_PORT") or str(DEFAULT_PORT), 1)
    if total % nodes:
        raise UserError(f"GPUS={total} cannot be spread evenly over NNODES={nodes}: GPUS is the number over all machines")
    if node_rank >= nodes:
        raise UserError(f"NODE_RANK={node_rank} but NNODES={nodes}: ranks run from 0 to {nodes - 1}")
    return Layout(nodes, node_rank, total // nodes, env.get("MASTER_ADDR") or "127.0.0.1", port)


def _answer_signals() -> None:
    """Sets what torchrun does with signals: ranks get as long as a save may take, and a second Ctrl-C reaches them.

    The ranks run in sessions of their own, so Ctrl-C reaches this process alone. torchrun raises at each signal, even while it
    waits for ranks that save; here the first raises, another Ctrl-C is handed to the ranks, and the rest say nothing new.
    """
    os.environ[LAUNCHER_PID] = str(os.getpid())
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(STOP_GRACE_S))
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup
        os.environ.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGQUIT")
    raise_signal = elastic._terminate_process_handler
    first: list[float] = []

    def handle(signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not first:
            first.append(now)
            raise_signal(signum, frame)
        elif signum == signal.SIGINT and now - first[0] >= SAME_REQUEST_S:
            for rank in _children():
                with suppress(ProcessLookupError):
                    os.kill(rank, signal.SIGINT)

    elastic._terminate_process_handler = handle


def _end_the_rest_soon() -> None:
    """Gives ranks ``FAILED_GRACE_S`` to end after one of them has failed: on a GPU they wait for it, deaf to signals."""
    close = elastic.SubprocessContext.close

    def close_soon(self: elastic.SubprocessContext, death_sig: signal.Signals | None = None, timeout: int = 30) -> None:
        failed = any(handler.proc.poll() for handler in self.subprocess_handlers.values())
        close(self, death_sig, min(timeout, FAILED_GRACE_S) if failed else timeout)

    elastic.SubprocessContext.close = close_soon


def _children() -> list[int]:
    """Process ids of this process's children, where the kernel tells."""
    found = []
    for listing in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, listing.read_text().split())
    return found


def main() -> int:
    if len(sys.argv) < 3:
        raise UserError("usage: python -m uniad.training.launch GPUS SCRIPT [ARGS...]")
    gpus, *command = sys.argv[1:]
    where = layout(gpus, os.environ)
    if gpus == "0":
        command += ["--device", "cpu"]
    if where.node_rank == 0 and not port_is_free(where.address, where.port):
        raise UserError(port_in_use_message(where.port))
    # each process gets its share of the cores; torchrun would give it one and print a paragraph about it
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // where.per_node)))
    # RANK here means the machine; torchrun gives each process its own
    os.environ.pop("RANK", None)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("LOGLEVEL", "CRITICAL")
    _answer_signals()
    _end_the_rest_soon()
    arguments = parse_args(
        [
            f"--nnodes={where.nodes}",
            f"--node-rank={where.node_rank}",
            f"--nproc-per-node={where.per_node}",
            f"--master-addr={where.address}",
            f"--master-port={where.port}",
            *command,
        ]
    )
    try:
        run(arguments)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode < 0:
            raise UserError(f"process {rank} (pid {failure.pid}) {describe_exit(failure.exitcode)}") from None
        return failure.exitcode  # the process has said why
    except (DistNetworkError, DistStoreError) as error:
        if "EADDRINUSE" in str(error):
            raise UserError(port_in_use_message(where.port)) from None
        raise UserError(
            f"the machines cannot meet at {where.address}:{where.port}: check MASTER_ADDR, MASTER_PORT and that all "
            f"{where.nodes} machines were started ({str(error).splitlines()[0]})"
        ) from None
    except Exception as error:
        if type(error).__name__ == "SignalException":
            return 130  # the processes have saved and said so
        raise
    return 0


if __name__ == "__main__":
    sys.exit(run_cli(main))
