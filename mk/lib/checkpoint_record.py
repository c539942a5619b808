#!/usr/bin/env python3
"""Which checkpoints a run in this tree made, and which somebody brought. For make; standard library only.

    checkpoint_record.py brought FILE ...       prints those that are there and that no run here made
    checkpoint_record.py stale FROM TO          prints TO if it is a copy of another FROM than the one that is there
    checkpoint_record.py copy FROM TO           puts a copy of FROM in place, unless somebody brought TO
    checkpoint_record.py record FROM TO         FROM is about to come to TO by other means
    checkpoint_record.py free FROM PLACE        ends with an error where PLACE holds anything but a copy of FROM, whole or begun

What is brought is a source: it is used and never written over. The records lie in .make/made; without them a file counts as
brought, which keeps it safe.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "projects"))

from uniad.errors import UserError, run_cli  # noqa: E402
from uniad.files import atomic_path, sha256  # noqa: E402

MADE = Path(".make/made")


def record_path(path: Path) -> Path:
    """One record a place, whatever is in its name."""
    return MADE / f"{hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:16]}.json"


def mark(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}


def record_of(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(record_path(path).read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def made_here(path: Path) -> bool:
    """Whether a run in this tree made what lies there, now or before; a file that was only touched is the same file."""
    record = record_of(path)
    if not path.is_file():
        return False
    return record.get("mark") == mark(path) or (bool(record) and sha256(path) in record.get("sha256", []))


def note(source: Path, target: Path, digest: str | None = None) -> None:
    """Records that what ``target`` holds, now or in a moment, is a copy of ``source`` (digest: its SHA-256 where known)."""
    digests = [d for d in record_of(target).get("sha256", []) if isinstance(d, str)]
    content = {
        "path": str(target),
        "mark": mark(target) if target.is_file() else None,
        "sha256": [*digests, digest or sha256(source)][-20:],
        "source": mark(source),
    }
    with atomic_path(record_path(target)) as temporary:
        temporary.write_text(json.dumps(content) + "\n")


def brought(path: Path) -> bool:
    return path.is_file() and not made_here(path)


def copy(source: Path, target: Path) -> None:
    """Raises UserError, and writes nothing, where the target was brought."""
    if not source.is_file():
        raise UserError(f"{source}: no such checkpoint")
    digest = sha256(source)
    if target.is_file() and sha256(target) == digest:
        os.utime(target)  # newer than what it is made of
    else:
        if brought(target):
            raise UserError(
                f"{target} was brought here, so {source} is not copied over it: move it away, or name "
                f"the other with CKPT={source}"
            )
        note(source, target, digest)  # a copy that is killed in the middle leaves no file that counts as brought
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
    note(source, target, digest)
    print(f"{source} -> {target}")


def free(source: Path, place: Path) -> None:
    """Raises UserError where ``place`` holds something that ``cp source place`` would destroy."""
    if not place.exists():
        return
    with open(source, "rb") as one, open(place, "rb") as other:
        while block := other.read(1 << 20):
            if one.read(len(block)) != block:
                raise UserError(f"{place} is in the way of a copy of {source}: move it away")


def main() -> None:
    action, *words = sys.argv[1:] or ["--help"]
    paths = [Path(word) for word in words]
    if action == "brought":
        print(" ".join(str(path) for path in paths if brought(path)))
    elif action == "stale" and len(paths) == 2:
        source, target = paths
        if source.is_file() and made_here(target) and record_of(target).get("source") != mark(source):
            print(target)
    elif action in ("copy", "record", "free") and len(paths) == 2:
        source, target = paths
        {"copy": copy, "record": note, "free": free}[action](source, target)
    else:
        print(__doc__.strip())
        sys.exit(0 if action in ("-h", "--help") else 2)


if __name__ == "__main__":
    run_cli(main)
