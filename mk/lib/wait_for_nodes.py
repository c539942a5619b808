#!/usr/bin/env python3
"""Before a run over several machines: says which machine does not answer, or that the port is taken, in one line.

The first machine (rank 0) listens at the port that training will use; the others call until it answers. When all have
called, all are told to go and the port is free again. Standard library only.
"""

from __future__ import annotations

import argparse
import socket
import sys
import time
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))
from _refusal import Refused, ended  # noqa: E402


def listen(nodes: int, port: int, timeout: float) -> None:
    server = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        server.bind(("", port))
    except OSError as error:
        why = error.strerror
        raise Refused(f"port {port} cannot be used here ({why}): MASTER_PORT={port + 1} on every machine") from None
    server.listen(nodes)
    end = time.monotonic() + timeout
    here: dict[int, socket.socket | None] = {0: None}
    try:
        while len(here) < nodes:
            server.settimeout(max(0.01, end - time.monotonic()))
            try:
                caller, _ = server.accept()
                caller.settimeout(5)
                text = caller.recv(64).decode("ascii", "replace").split()
            except OSError:
                if time.monotonic() < end:
                    continue
                missing = sorted(set(range(nodes)) - set(here))
                raise Refused(
                    f"NODE_RANK {', '.join(map(str, missing))} did not call within {timeout:.0f} s: start make there too, "
                    f"with MASTER_ADDR naming this machine and port {port} open"
                ) from None
            if len(text) == 3 and text[0] == "uniad" and text[1].isdigit() and text[2] == str(nodes):
                rank = int(text[1])
                if rank in here:
                    caller.sendall(b"taken")
                    caller.close()
                    raise Refused(f"two machines say NODE_RANK={rank}: ranks run from 0 to {nodes - 1}, each once")
                here[rank] = caller
            else:
                caller.close()  # somebody else, or another NNODES
        for caller in here.values():
            if caller:
                caller.sendall(b"go")
    finally:
        for caller in here.values():
            if caller:
                caller.close()
        server.close()


def call(nodes: int, rank: int, address: str, port: int, timeout: float) -> None:
    end, why = time.monotonic() + timeout, "no answer"
    while time.monotonic() < end:
        try:
            with socket.create_connection((address, port), timeout=5) as line:
                line.sendall(f"uniad {rank} {nodes}\n".encode())
                line.settimeout(max(0.01, end - time.monotonic()))
                answer = line.recv(16)
            if answer == b"go":
                return
            if answer == b"taken":
                raise Refused(f"another machine has NODE_RANK={rank} already: ranks run from 0 to {nodes - 1}, each once")
            why = "it answers, but is no run of UniAD with the same NNODES"
        except OSError as error:
            why = error.strerror or str(error)
        time.sleep(min(1.0, max(0.0, end - time.monotonic())))
    where = f"MASTER_ADDR={address} port {port}"
    raise Refused(f"{where} does not answer within {timeout:.0f} s ({why}): is NODE_RANK=0 running there?")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--timeout", type=float, default=600)
    args = parser.parse_args()
    if not 0 <= args.rank < args.nodes:
        raise Refused(f"NODE_RANK={args.rank} but NNODES={args.nodes}: ranks run from 0 to {args.nodes - 1}")
    if args.rank == 0:
        listen(args.nodes, args.port, args.timeout)
    else:
        call(args.nodes, args.rank, args.address, args.port, args.timeout)


if __name__ == "__main__":
    sys.exit(ended(main))
