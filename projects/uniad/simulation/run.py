"""Many drives: every policy over every route, shared among processes, each drive a file that is whole or not there.

    OUT/run.json                     what the drives depend on
    OUT/<policy>/<route>.json        a drive, as ``records`` writes it

A run that was interrupted finds the drives that are there and makes the others. What a drive is does not depend on how many
processes there are, nor on which of them made what before: each computes with one thread, and begins every route anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import re
import shutil
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from uniad.backends.open import find_model
from uniad.data import synthetic
from uniad.deploy.runtime import Runtime
from uniad.errors import UserError
from uniad.files import atomic_path, half_written, read_json, sha256
from uniad.postprocess import giving_way
from uniad.processes import leave_signals_to_parent, process_pool, signals_blocked, spawn_context
from uniad.simulation import car
from uniad.simulation.drive import drive
from uniad.simulation.log import DriveLog, Policy
from uniad.simulation.policies import BASELINES, Guarded, Model
from uniad.simulation.records import read_log, write_log
from uniad.simulation.routes import Setup, make_setup, route_id, route_keys
from uniad.simulation.traffic import TrafficMode
from uniad.training.state import flatten

MODEL, BLANK, GUARDED = "model", "model without images", "model with guard"
OF_MODEL = (MODEL, BLANK, GUARDED)
POLICIES = (MODEL, GUARDED, BLANK, *BASELINES)
IDENTITY = "run.json"
_OF_THE_MODEL = ("model.", "data.image.", "stage")
# Drives, their videos, and what a process that was killed left of one
_OF_A_ROUTE = re.compile(r"\.?seed-\d+-route-\d+\..*")
# What decides a drive beside its arguments
CODE = ("car", "drive", "policies", "routes", "traffic", "world")


@dataclass(frozen=True)
class Driver:
    """The model that drives, if one does; see ``Runtime.open``."""

    model: str
    config: str | None = None
    backend: str = "auto"
    device: str = "auto"
    options: tuple[str, ...] = ()

    def open(self) -> Runtime:
        return Runtime.open(self.model, self.device, self.backend, config=self.config, options=self.options, threads=1)

    def digest(self) -> str:
        """Of the weights and of ``spec_digest``'s part of the config."""
        return hashlib.sha256(f"{sha256(self.model)} {self.spec_digest()}".encode()).hexdigest()

    def spec_digest(self) -> str:
        """Of what the config says of the model: a file of the same name may say something else by now."""
        flat = flatten(find_model(self.model, self.config, self.options).spec)
        own = {key: flat[key] for key in sorted(flat) if key.startswith(_OF_THE_MODEL) and key != "model.motion.anchor_path"}
        return hashlib.sha256(repr(own).encode()).hexdigest()


@dataclass(frozen=True)
class Job:
    """A run: which drives are wanted."""

    seed: int
    routes: int
    traffic: TrafficMode
    policies: tuple[str, ...]
    driver: Driver | None

    def __post_init__(self) -> None:
        unknown = [name for name in self.policies if name not in POLICIES]
        if unknown or not self.policies:
            raise UserError(f"policy {unknown[0]!r} is unknown: choose among {', '.join(POLICIES)}" if unknown else "no policy")
        if self.driver is None and set(OF_MODEL) & set(self.policies):
            raise UserError("driving a model takes one: name an ONNX, an engine, or a checkpoint with its config")
        route_keys(self.seed, self.routes)

    def drives(self) -> list[tuple[str, int, int]]:
        """(policy, world seed, index) of all drives, the longest first."""
        return [(policy, *key) for policy in POLICIES if policy in self.policies for key in route_keys(self.seed, self.routes)]

    def identity(self) -> dict[str, Any]:
        """What the drives of a folder depend on, and what makes another folder of them."""
        driver = self.driver
        model = None if driver is None else {**asdict(driver), "sha256": sha256(driver.model), "spec": driver.spec_digest()}
        return json.loads(json.dumps({"traffic": self.traffic, "driver": model, "code": _code_digest()}))


class Timing(NamedTuple):
    """What a drive took."""

    policy: str
    frames: int
    wall_s: float
    cpu_s: float  # processor time of the process, which does not depend on what else the machine does
    step_ms: tuple[float, ...]


def place(out: Path, policy: str, seed: int, index: int) -> Path:
    return out / policy.replace(" ", "-") / f"{route_id(seed, index)}.json"


def run(job: Job, out: Path, jobs: int = 1, progress: Callable[[int, int], None] = lambda done, total: None) -> list[Timing]:
    """Makes the drives that are not there yet. Returns what those took that it made.

    Drives of another model, traffic or code that lie in the folder are removed first; anything else there is a UserError.
    """
    if jobs < 1:
        raise UserError(f"{jobs} jobs: ask for at least 1")
    claim(out, job.identity())
    todo = [(key, path) for key in job.drives() if not (path := place(out, *key)).exists()]
    if todo:  # a drive that cannot be read is told before hours of others, not after them
        for key in job.drives():
            if key not in dict(todo):
                _read(job, out, *key)
    total, done = len(job.drives()), len(job.drives()) - len(todo)
    about = _about(job)
    progress(done, total)
    took: list[Timing] = []
    if min(jobs, len(todo)) <= 1:
        worker = _Worker(job, about)
        try:
            for key, path in todo:
                took.append(worker.make(key, path))
                progress(done + len(took), total)
        finally:
            worker.close()
        return took
    processes = process_pool(min(jobs, len(todo)), spawn_context(), _start, job, about)
    with _nothing_half_written([path for _, path in todo]), processes as pool:
        with signals_blocked():
            waiting = {pool.submit(_make, key, path) for key, path in todo}
        try:
            while waiting:
                ready, waiting = wait(waiting, timeout=0.2)
                took += [future.result() for future in ready]
                progress(done + len(took), total)
        except BrokenProcessPool as error:
            raise UserError(
                f"a process was killed, perhaps for lack of memory; run again with fewer jobs than {jobs}, it will go on"
            ) from error
    return took


@contextlib.contextmanager
def _nothing_half_written(paths: Iterable[Path]) -> Generator[None, None, None]:
    """A block that fails leaves no half of these files: processes that are killed while they write cannot remove theirs."""
    try:
        yield
    except BaseException:
        for path in paths:
            for half in half_written(path):
                half.unlink(missing_ok=True)
        raise


def read_all(job: Job, out: Path) -> list[DriveLog]:
    """All drives of a run, from their files. UserError for one that is of another route, policy or traffic than its name says."""
    return [_read(job, out, *key) for key in job.drives()]


def _read(job: Job, out: Path, policy: str, seed: int, index: int) -> DriveLog:
    path = place(out, policy, seed, index)
    log = read_log(path)
    found = (log.policy, log.traffic, log.route.seed, log.route.index)
    if found != (policy, job.traffic, seed, index):
        raise UserError(
            f"{path} is of policy {found[0]}, traffic {found[1]}, {route_id(*found[2:])}: it was put there from another place; "
            "remove it, and the same command drives that route again"
        )
    return log


def claim(out: Path, identity: dict[str, Any]) -> None:
    """Makes ``out`` the folder of these drives: drives of others go, what is not ours stays and is a UserError."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; drives need a folder")
    inside = [p for p in out.iterdir() if not p.name.startswith(".")] if out.is_dir() else []
    try:
        found = read_json(out / IDENTITY)
    except FileNotFoundError:
        found = None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{out / IDENTITY} cannot be read ({error}); move {out} away, or choose another folder") from None
    # Others may call a file so, too, and what lies beside theirs is not ours to remove.
    if inside and (not isinstance(found, dict) or found.keys() != identity.keys()):
        raise UserError(f"{out} holds something that is no drives; choose another folder")
    if found == identity:
        return
    folders = [folder for policy in POLICIES if (folder := out / policy.replace(" ", "-")).is_dir()]
    for folder in folders:
        if folder.is_symlink():
            raise UserError(f"{folder} is a link to a folder, and drives would follow it: remove it, or choose another folder")
        for entry in folder.iterdir():
            if not _OF_A_ROUTE.fullmatch(entry.name):
                raise UserError(f"{entry} is no drive, and the folder is made anew for another run: move it away")
    for folder in folders:
        shutil.rmtree(folder)
    with atomic_path(out / IDENTITY) as temporary:
        temporary.write_text(json.dumps(identity, indent=1) + "\n")


def _code_digest() -> str:
    """Of the source files that decide a drive."""
    here, world = Path(car.__file__).parent, Path(synthetic.__file__).parent
    digest = hashlib.sha256()
    for path in (*(here / f"{name}.py" for name in CODE), Path(giving_way.__file__), *sorted(world.glob("*.py"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _about(job: Job) -> dict[str, Any]:
    if job.driver is None:
        return {}
    return {"model": Path(job.driver.model).name, "sha256": sha256(job.driver.model)}


@lru_cache(maxsize=2)
def _setup(seed: int, index: int) -> Setup:
    return make_setup(seed, index)


class _Worker:
    """Makes drives one after the other; the model is opened when the first drive asks for it."""

    def __init__(self, job: Job, about: dict[str, Any]) -> None:
        self.job, self.about = job, about
        self.runtime: Runtime | None = None
        self.threads = _one_thread()

    def make(self, key: tuple[str, int, int], path: Path) -> Timing:
        name, *where = key
        policy, setup = self._policy(name), _setup(*where)
        begun, cpu = time.perf_counter(), time.process_time()
        about = {**self.about, "backend": self.runtime.backend} if self.runtime and name in OF_MODEL else {}
        log = drive(setup, policy, self.job.traffic, about)
        wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
        write_log(log, path)
        return Timing(name, len(log.frames), wall, cpu, tuple(frame.step_ms for frame in log.frames))

    def _policy(self, name: str) -> Policy:
        if name in BASELINES:
            return BASELINES[name]()
        if self.runtime is None:
            assert self.job.driver is not None  # looked at when the job was made
            self.runtime = self.job.driver.open()
        return Guarded(self.runtime) if name == GUARDED else Model(self.runtime, blank=name == BLANK)

    def close(self) -> None:
        if self.runtime is not None:
            self.runtime.close()
        self.threads()


def _one_thread() -> Callable[[], None]:
    """One thread for what computes here: sums do not depend on the machine, and processes do not get in each other's way.
    Returns what undoes it.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        import torch
    except ModuleNotFoundError:  # a car's runtime does without
        return lambda: cv2.setNumThreads(before)
    many = torch.get_num_threads()
    torch.set_num_threads(1)

    def undo() -> None:
        cv2.setNumThreads(before)
        torch.set_num_threads(many)

    return undo


_worker: _Worker | None = None


def _start(job: Job, about: dict[str, Any]) -> None:
    global _worker
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        leave_signals_to_parent(parent.pid)
    _worker = _Worker(job, about)


def _make(key: tuple[str, int, int], path: Path) -> Timing:
    assert _worker is not None  # from _start
    return _worker.make(key, path)


def speed(took: Sequence[Timing], policy: str) -> dict[str, float]:
    """Frames, frames per second of one process (rendering and all), processor time a frame, s, and the policy's median and 99th
    percentile, ms.
    """
    own = [t for t in took if t.policy == policy]
    steps = np.array([ms for t in own for ms in t.step_ms])
    frames, wall = sum(t.frames for t in own), sum(t.wall_s for t in own)
    if not frames:
        return {}
    return {"frames": frames, "frames_per_s": frames / wall, "cpu_s": sum(t.cpu_s for t in own) / frames,
            "step_ms_p50": float(np.percentile(steps, 50)), "step_ms_p99": float(np.percentile(steps, 99))}  # fmt: skip
