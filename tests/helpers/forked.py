"""Our tools without a start of Python for each: one process imports what they all import, and forks for every command.

What runs in a fork is the tool's file as ``__main__``, with a command line, environment, folder, output and exit status of its
own, as Python would start it; only the seconds are gone in which torch is imported. A test that is about the start itself, or
that sends signals, starts Python (``command_line.start``).
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from helpers import REPO, TESTS

# Imported before the first fork. None of them starts a thread, which a fork would lose.
COMMON = (
    "numpy", "torch", "onnx", "uniad.backends.open", "uniad.data.dataset", "uniad.deploy.runtime", "uniad.evaluation.report",
    "uniad.export.to_onnx", "uniad.training.run", "uniad.viz.page", "torch.onnx._internal.exporter._core", "onnxruntime",
    "matplotlib.pyplot", "scipy.stats", "pyquaternion", "shapely.geometry",
)  # fmt: skip


class _Server:
    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        code = f"import sys; sys.path.insert(0, {str(TESTS)!r}); from helpers.forked import serve; serve({theirs.fileno()})"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(REPO / "projects"), "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        theirs.close()
        self.socket, self.lock = ours, threading.Lock()

    def run(self, words: Sequence[str], cwd: str, env: Mapping[str, str], timeout_s: int) -> subprocess.CompletedProcess[str]:
        with self.lock, tempfile.TemporaryFile("w+b") as out, tempfile.TemporaryFile("w+b") as err:
            order = json.dumps([list(words), cwd, dict(env), timeout_s]).encode()
            socket.send_fds(self.socket, [len(order).to_bytes(8, "little")], [out.fileno(), err.fileno()])
            self.socket.sendall(order)
            answer = self.socket.recv(8)
            assert len(answer) == 8, "the process that forks for tools has ended"
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode(errors="replace"))
        return subprocess.CompletedProcess(list(words), int.from_bytes(answer, "little", signed=True), *texts)


_servers: dict[int, _Server] = {}  # by process: a fork of the tests has none of its parent's


def run_forked(
    words: Sequence[str], cwd: str | Path, env: Mapping[str, str], timeout_s: int = 600
) -> subprocess.CompletedProcess[str]:
    """``python WORDS...`` in ``cwd``, ended by SIGALRM after ``timeout_s``."""
    server = _servers.get(os.getpid()) or _servers.setdefault(os.getpid(), _Server())
    return server.run(words, str(cwd), env, timeout_s)


def serve(number: int) -> None:
    """Answers orders until the tests have ended."""
    for name in COMMON:
        __import__(name)
    assert len(os.listdir("/proc/self/task")) == 1, "a thread would be lost in the fork"
    link = socket.socket(fileno=number)
    while True:
        head, files, _, _ = socket.recv_fds(link, 8, 2)
        if len(head) < 8:
            return
        order = b""
        while len(order) < int.from_bytes(head, "little"):
            order += link.recv(1 << 20)
        child = os.fork()
        if child == 0:
            link.close()
            _become(*json.loads(order), *files)
        for file in files:
            os.close(file)
        _, status = os.waitpid(child, 0)
        link.sendall(os.waitstatus_to_exitcode(status).to_bytes(8, "little", signed=True))


def _become(words: list[str], cwd: str, env: dict[str, str], timeout_s: int, out: int, err: int) -> None:
    os.dup2(out, 1)
    os.dup2(err, 2)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    signal.alarm(timeout_s)
    tool = words[0]
    sys.argv = words
    sys.path[:] = [os.path.dirname(os.path.abspath(tool)), *(p for p in sys.path if p not in ("", str(TESTS)))]
    del sys.modules["helpers.forked"], sys.modules["helpers"]
    status: object = 1
    try:
        runpy.run_path(tool, run_name="__main__")
        status = 0
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    if status is not None and not isinstance(status, int):
        print(status, file=sys.stderr)
        status = 1
    import atexit
    import multiprocessing.util

    multiprocessing.util._exit_function()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(status or 0) & 0xFF)
