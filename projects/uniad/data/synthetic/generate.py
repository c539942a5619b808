"""Makes a whole synthetic data set: in a folder beside the wanted one, renamed when it is complete."""

from __future__ import annotations

import errno
import fcntl
import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Generator
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import TYPE_CHECKING

import cv2

from uniad.data.synthetic.mapjson import write_map
from uniad.data.synthetic.params import LOCATIONS, SceneSpec, WorldParams, scene_specs
from uniad.data.synthetic.record import NOTES, notes_path, record_frame, record_scene
from uniad.data.synthetic.roads import build_town
from uniad.data.synthetic.scene import MakeScene, Scene
from uniad.data.synthetic.tables import TableWriter
from uniad.errors import UserError
from uniad.processes import leave_signals_to_parent, process_pool, signals_blocked, spawn_context

if TYPE_CHECKING:
    from typing import TypeAlias

STAMP = "synthetic.json"
IGNORED = {".gitkeep", ".gitignore", "lost+found", ".DS_Store"}  # an otherwise empty folder counts as empty
BYTES_PER_FRAME = {"none": 1_100_000, "lidar": 6_500_000, "all": 9_000_000}

Task: TypeAlias = "tuple[Path, WorldParams, SceneSpec, int, int, MakeScene]"


def generate(
    params: WorldParams, out: Path, workers: int = 1, progress: Callable[[int, int], None] | None = None,
    make: MakeScene = Scene,
) -> bool:  # fmt: skip
    """Makes the data set at ``out``. Returns False where exactly this one is there already.

    A folder that this generator did not fill is never touched; one that it filled with other parameters is replaced
    when the new one is complete. An interrupted run leaves ``.<name>.partial`` beside ``out`` and goes on from it.

    make: builds a scene; ``simulation.driven.DrivenScene`` where ``params.driven``.
    """
    out = Path(os.path.realpath(out))
    made = stamp_of(out)
    if made == params.as_dict():
        return False
    if made is None and out.exists() and (not out.is_dir() or _entries(out)):
        raise UserError(
            f"{out} exists and was not made by this generator; choose another folder with --out, or move it away first"
        )
    if workers < 1:
        raise UserError(f"workers is {workers}; ask for at least 1")
    specs = scene_specs(params)
    # A mount point cannot be renamed over, so work inside it.
    partial = out / ".partial" if out.is_dir() and os.path.ismount(out) else out.parent / f".{out.name}.partial"
    try:
        partial.mkdir(parents=True, exist_ok=True)
        with _locked(partial):
            if stamp_of(partial) != params.as_dict():
                _clear(partial)
                _write_stamp(partial, params)
            _check_space(partial, params, len(specs))
            tasks = _tasks(partial, params, specs, workers, make)
            _record_all(partial, tasks, params, workers, progress or (lambda done, total: None))
            _finish(partial, params, specs)
            _publish(partial, out)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(f"disk full while writing {partial}; free some space and run again, it will go on") from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR):
            where = error.filename or partial
            raise UserError(f"cannot write {where}: {error.strerror}; choose another folder with --out") from error
        raise
    return True


def stamp_of(folder: Path) -> dict | None:
    """The parameters that a synthetic data set was made with; None for anything else."""
    try:
        stamp = json.loads((folder / STAMP).read_text())
    except (OSError, ValueError):
        return None
    return stamp.get("params") if isinstance(stamp, dict) else None


def _write_stamp(folder: Path, params: WorldParams) -> None:
    stamp = {"what": "synthetic nuScenes, made by tools/make_synthetic_nuscenes.py", "params": params.as_dict()}
    (folder / STAMP).write_text(json.dumps(stamp, indent=1) + "\n")


def _entries(folder: Path) -> list[Path]:
    return [p for p in folder.iterdir() if p.name not in IGNORED and p.name != ".partial"]


@contextmanager
def _locked(partial: Path) -> Generator[None, None, None]:
    """One run at a time works on a folder."""
    lock = partial.parent / f"{partial.name}.lock"
    with open(lock, "w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is making {partial}; wait for it to end") from None
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _check_space(partial: Path, params: WorldParams, scenes: int) -> None:
    todo = sum(1 for spec in scene_specs(params) for i in range(params.frames) if not notes_path(partial, spec, i).exists())
    need = todo * BYTES_PER_FRAME[params.sweeps] + 40_000_000
    free = shutil.disk_usage(partial).free
    if free < need:
        raise UserError(
            f"{partial} has {free / 1e9:.1f} GB free, {scenes} scenes of {params.frames} frames need about {need / 1e9:.1f} GB;"
            " ask for fewer, or choose another disk with --out"
        )


def _tasks(partial: Path, params: WorldParams, specs: list[SceneSpec], workers: int, make: MakeScene) -> list[Task]:
    """Pieces of work: whole scenes, so that each is built once, but halves or less where scenes are few."""
    pieces = max(1, -(-3 * workers // len(specs))) if workers > 1 else 1
    size = max(4, -(-params.frames // pieces))
    return [
        (partial, params, spec, start, min(start + size, params.frames), make)
        for spec in specs
        for start in range(0, params.frames, size)
    ]


_done: Synchronized | None = None  # keyframes made, by all workers together


def _start_worker(done: Synchronized) -> None:
    global _done
    _done = done
    cv2.setNumThreads(1)  # the workers are the parallelism
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        leave_signals_to_parent(parent.pid)


def _work(task: Task) -> None:
    assert _done is not None  # from _start_worker
    partial, params, spec, start, stop, make = task
    if start == 0:
        record_scene(partial, params, spec, make)
    for index in range(start, stop):
        record_frame(partial, params, spec, index, make)
        with _done.get_lock():
            _done.value += 1


def _write_map(root: Path, seed: int, location: str) -> None:
    write_map(root, seed, build_town(seed, location))


def _record_all(
    partial: Path, tasks: list[Task], params: WorldParams, workers: int, progress: Callable[[int, int], None]
) -> None:
    total = sum(stop - start for _, _, _, start, stop, _ in tasks)
    # Not fork: a caller that has used OpenCV's threads would hand their locks to the workers, which then wait for ever.
    context = spawn_context()
    done = context.Value("i", 0)
    if workers == 1:
        threads = cv2.getNumThreads()
        _start_worker(done)
        try:
            for location in LOCATIONS:
                _write_map(partial, params.seed, location)
            for task in tasks:
                _work(task)
                progress(done.value, total)
        finally:
            cv2.setNumThreads(threads)
        return
    with process_pool(workers, context, _start_worker, done) as pool:
        with signals_blocked():
            waiting = {pool.submit(_work, task) for task in tasks}
            waiting |= {pool.submit(_write_map, partial, params.seed, location) for location in LOCATIONS}
        try:
            while waiting:
                ready, waiting = wait(waiting, timeout=0.1)
                for future in ready:
                    future.result()
                progress(done.value, total)
        except BrokenProcessPool as error:
            raise UserError(
                f"a worker was killed, perhaps for lack of memory; run again with --workers {max(1, workers // 2)}, it will go on"
            ) from error


def _finish(partial: Path, params: WorldParams, specs: list[SceneSpec]) -> None:
    writer = TableWriter(params)
    for spec in specs:
        writer.add_scene(partial, spec)
    writer.write(partial)
    (partial / "sweeps").mkdir(exist_ok=True)


def _publish(partial: Path, out: Path) -> None:
    """Puts the finished folder in its place. Readers see the old data set or the new one, never a mixture."""
    shutil.rmtree(partial / NOTES)
    if partial.parent == out:  # a mount point: the stamp goes last
        for entry in _entries(out):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        for entry in sorted(partial.iterdir(), key=lambda p: p.name == STAMP):
            os.rename(entry, out / entry.name)
        partial.rmdir()
        return
    old = out.parent / f".{out.name}.old"
    if old.exists():
        shutil.rmtree(old)
    if out.exists():
        os.rename(out, old)
    os.rename(partial, out)
    if old.exists():
        shutil.rmtree(old)
