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
from collections.abc import Mapping
from dataclasses import dataclass

from torch.distributed import DistNetworkError, DistStoreError
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import parse_args, run

from uniad.errors import UserError, run_cli
from uniad.training.distributed import port_in_use_message, port_is_free

GPUS_PER_MACHINE = 8  # the documented rule, where NNODES does not say otherwise
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
            name = signal.Signals(-failure.exitcode).name
            why = "; the machine may be out of memory" if name == "SIGKILL" else ""
            raise UserError(f"process {rank} (pid {failure.pid}) was ended by {name}{why}") from None
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
