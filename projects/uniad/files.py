"""Files that are either whole or absent."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from uniad.errors import UserError, of_system, tell_refusal

T = TypeVar("T")


@contextmanager
def atomic_path(path: str | Path) -> Generator[Path, None, None]:
    """Yield a temporary path beside ``path``; on success it is flushed and renamed to ``path``, on failure removed."""
    path = Path(path)
    check_no_device(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=f".partial{path.suffix}", dir=path.parent)
    except OSError as error:
        raise _about(path, error) from error
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes the file private; what we publish follows the user's umask.
        temporary.chmod(0o666 & ~_umask())
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # A write that fails, as on a full disk, names no file; our temporary name says nothing to anybody.
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise _about(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    """Of this process. To ask for it is to set it, which other threads that write files would notice; Linux also tells."""
    with contextlib.suppress(OSError, StopIteration, ValueError), open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith("Umask:")).split()[1], 8)
    umask = os.umask(0)
    os.umask(umask)
    return umask


def half_written(path: Path) -> list[Path]:
    """What ``atomic_path`` left of attempts to write ``path`` by processes that were killed."""
    return list(path.parent.glob(f".{glob.escape(path.name)}.*.partial{glob.escape(path.suffix)}"))


def check_no_device(path: Path) -> None:
    """UserError for a device or a pipe, and for any place in /dev but its shared memory.

    What is written takes the place of what stood there: root's ``--out /dev/null`` would leave the machine without one.
    """
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        mode = stat.S_IFREG  # nothing is there, or the attempt to write will say more
    folder = os.path.realpath(path.parent)
    in_dev = folder == "/dev" or (folder.startswith("/dev/") and not folder.startswith("/dev/shm"))
    if in_dev or not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
        raise UserError(f"{path} is a device or a pipe, which a result would replace: name a file")


def _about(path: Path, error: OSError) -> OSError:
    return type(error)(error.errno, error.strerror, str(path))


SMALLEST_ROOM = 1 << 20  # bytes free that any result needs


def try_place(path: str | Path, room: int = SMALLEST_ROOM) -> None:
    """Raises UserError unless a file could be written at ``path`` now, with ``room`` bytes. Leaves nothing behind.

    For the start of long work: a folder that belongs to somebody else, or a full disk, should not be found out at its end.
    """
    path = Path(path)
    check_no_device(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder; a file is to be written there")
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise UserError(f"{path}: {folder} is a file, not a folder")
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=folder)
        try:
            os.write(descriptor, b"\0" * 4096)
            free = os.fstatvfs(descriptor)
        finally:
            os.close(descriptor)
            os.unlink(name)
    except OSError as error:
        raise of_system(OSError(error.errno, f"cannot be written ({error.strerror})", str(path))) from None
    if free.f_blocks and free.f_bavail * free.f_frsize < room:
        left = free.f_bavail * free.f_frsize / 2**20
        raise UserError(f"{path}: {left:.1f} MiB are free there; needed are at least {room / 2**20:.0f}. Make room")


@contextmanager
def alone_in(folder: str | Path) -> Generator[None, None, None]:
    """A block in which no other process writes results into ``folder``, made where it is missing. UserError where one does.

    Files of two runs in one folder are each whole, and together results of neither. The kernel's lock is on the folder itself: it
    leaves no file, and is gone when this process and those that it forked have ended, however they did. A file system without
    locks gives it to everybody.
    """
    import fcntl

    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; results need a folder")
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                what = f"{folder}: another process writes results there"
                raise UserError(f"{what}: wait for it to end, or choose another folder") from None
        yield
    finally:
        os.close(handle)
        with contextlib.suppress(OSError):  # a mistake leaves no folder; one that holds something stays
            for place in missing:
                place.rmdir()


# A place that took files when the work began, and does so no more: full, read-only, not mounted any more, no longer ours
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PLACE_LOST = _FULL | {errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOTDIR}


def write_results(folder: str | Path, write: Callable[[Path], T], text: Callable[[], str]) -> T:
    """``write(folder)``: the end of long work, which no full disk may lose.

    Where the system refuses that, the same is written into a new folder elsewhere, or else ``text()`` is printed. Then a
    UserError says what was refused and where the results are. write: makes all of its files anew in whatever folder it is given.
    """
    folder = Path(folder)
    try:
        return write(folder)
    except OSError as refused:
        if refused.errno not in _PLACE_LOST:
            raise
        why = of_system(refused)
    for place in _elsewhere():
        try:
            spare = Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=place)).resolve()
        except OSError:
            continue
        try:
            write(spare)
        except BaseException as error:
            shutil.rmtree(spare, ignore_errors=True)
            if not isinstance(error, OSError):
                raise
            continue
        spare.chmod(0o755)  # mkdtemp's is closed to others
        raise UserError(f"{why}. Nothing is lost: the results are in {spare}, move them from there")
    print(text(), flush=True)
    raise UserError(f"{why}. No other place takes the results either: they are printed above")


def _elsewhere() -> Iterator[str]:
    """Folders that may take what its own place does not. In a container the working folder is the one that stays."""
    yield os.curdir
    for find in (Path.home, tempfile.gettempdir):
        with contextlib.suppress(OSError, RuntimeError):
            yield str(find())
    yield "/dev/shm"


def write_npz(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """The bytes of ``np.savez_compressed``. That leaves its archive open on a full disk, and its end then prints a traceback."""
    import numpy as np

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as part:
                np.lib.format.write_array(part, np.asanyarray(array), allow_pickle=False)


MOST_READ = 256 << 20  # bytes; the largest index or card that anybody writes is far below


def open_outside(path: str | Path) -> BinaryIO:
    """Open a file that somebody else made. A pipe would be waited for and a device never ends: UserError for either."""
    handle = open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0)))
    if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
        handle.close()
        raise UserError(f"{path} is a pipe or a device, not a file")
    return handle


def read_outside(path: str | Path, most: int = MOST_READ) -> bytes:
    """The bytes of a file that somebody else made; UserError for one of more than ``most``, and for what is no file."""
    with open_outside(path) as handle:
        size = os.fstat(handle.fileno()).st_size
        if size > most:
            raise UserError(f"{path} holds {size / 2**20:.0f} MiB; at most {most / 2**20:.0f} are read of such a file")
        return handle.read()


def read_json(path: str | Path, most: int = MOST_READ) -> Any:
    """What a JSON file says that somebody else wrote; also ValueError or RecursionError where it is none.

    A key that stands twice in one object is a ValueError: of two lists of frames the first would be gone without a word.
    """
    return json.loads(read_outside(path, most), object_pairs_hook=_once)


def read_json_of(path: str | Path, absent: str, damaged: Callable[[Exception], str]) -> Any:
    """``read_json`` of a file that has to be there and whole, else a UserError: one of these sentences."""
    try:
        return read_json(path)
    except FileNotFoundError:
        raise UserError(absent) from None
    except (OSError, ValueError, RecursionError) as error:
        tell_refusal(error, path)
        raise UserError(damaged(error)) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} stands twice in one object")
        found[key] = value
    return found


def sha256(path: str | Path) -> str:
    """Hex digest of a file. UserError for a pipe, which would be waited for, and a device."""
    digest = hashlib.sha256()
    with open_outside(path) as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
