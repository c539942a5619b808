"""Files that are either whole or absent."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from uniad.errors import UserError, of_system


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it is flushed and renamed to ``path``, on failure removed."""
    path = Path(path)
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
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
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


def _about(path: Path, error: OSError) -> OSError:
    return type(error)(error.errno, error.strerror, str(path))


SMALLEST_ROOM = 1 << 20  # bytes free that any result needs


def try_place(path: str | Path, room: int = SMALLEST_ROOM) -> None:
    """Raises UserError unless a file could be written at ``path`` now, with ``room`` bytes. Leaves nothing behind.

    For the start of long work: a folder that belongs to somebody else, or a full disk, should not be found out at its end.
    """
    path = Path(path)
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


def sha256(path: str | Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as handle:
        while block := handle.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
