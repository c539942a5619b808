"""Many conditions, each computed whole by one process: the same numbers for any number of processes.

What is done is kept in a folder until all of it is done, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from uniad.backends.open import find_model
from uniad.deploy.plausible import Limits
from uniad.deploy.runtime import Runtime
from uniad.errors import UserError
from uniad.files import atomic_path, read_json, sha256
from uniad.processes import leave_signals_to_parent, process_pool, signals_blocked

CELLS = ".unfinished"


@dataclass(frozen=True)
class Opening:
    """What ``Runtime.open`` is given, in each process anew: a loaded model does not travel."""

    model: str
    config: str | None = None
    options: tuple[str, ...] = ()
    backend: str = "auto"
    device: str = "auto"
    limits: tuple[str, ...] = ()

    def open(self) -> Runtime:
        # One thread each: sums of floats depend on how many there are, and the processes share the cores.
        return Runtime.open(
            self.model, self.device, self.backend, config=self.config, options=self.options, threads=1,
            limits=Limits.parse(self.limits),
        )  # fmt: skip

    def identity(self) -> dict[str, Any]:
        """What the numbers depend on."""
        model = find_model(self.model, self.config, self.options)
        return {
            "model": sha256(model.path), "spec": repr(model.spec), "backend": self.backend, "device": self.device,
            "limits": list(self.limits), "infos": sha256(model.spec.data.ann_file_val),
        }  # fmt: skip


def one_thread() -> None:
    """This process computes in one thread from now on."""
    import cv2
    import torch

    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def run_conditions(
    names: Sequence[str], work: Callable[[str], Any], jobs: int, folder: Path, identity: Mapping[str, Any],
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:  # fmt: skip
    """``work`` of each name, JSON values, in the order of the names.

    Raises what ``work`` raises. folder: of the results; cells of the same ``identity`` that lie there are taken, and stay there
    until ``done`` is called.
    """
    cells = folder / CELLS
    digest = _digest(identity)
    found: dict[str, Any] = {}
    for name in names:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError, UserError):
            cell = read_json(cells / f"{name}.json")
            if cell["identity"] == digest and cell["sha256"] == _digest(cell["value"]):
                found[name] = cell["value"]
                progress(name)
    for name, value in _computed([name for name in names if name not in found], work, jobs):
        cells.mkdir(parents=True, exist_ok=True)
        with atomic_path(cells / f"{name}.json") as temporary:
            temporary.write_text(json.dumps({"identity": digest, "sha256": _digest(value), "value": value}))
        found[name] = value
        progress(name)
    # As from a file: a number must not depend on whether a run was interrupted.
    return {name: json.loads(json.dumps(found[name])) for name in names}


def _digest(value: Any) -> str:
    """The same for a value and for what its JSON says."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(value)), sort_keys=True).encode()).hexdigest()


def done(folder: Path) -> None:
    """All is written: what was kept for a run that is interrupted goes."""
    shutil.rmtree(folder / CELLS, ignore_errors=True)


def _computed(names: Sequence[str], work: Callable[[str], Any], jobs: int) -> Iterator[tuple[str, Any]]:
    global _work
    if not names:
        return
    _work = work  # forked processes have it without a pickle
    try:
        # In a process of its own even where there is one: threads that libraries have started here would change the numbers.
        context = multiprocessing.get_context("fork")
        with process_pool(min(jobs, len(names)), context, _begin, os.getpid()) as pool:
            with signals_blocked():
                futures = {pool.submit(_call, name): name for name in names}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BrokenProcessPool:
                raise UserError("a worker process was killed, perhaps for lack of memory: run again with fewer jobs") from None
    finally:
        _work = None


_work: Callable[[str], Any] | None = None


def _begin(parent: int) -> None:
    leave_signals_to_parent(parent)
    one_thread()


def _call(name: str) -> Any:
    assert _work is not None
    return _work(name)
