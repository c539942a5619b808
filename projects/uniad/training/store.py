"""The checkpoints of one run: upstream names, a pointer to the newest, and the way back to the last complete one.

``epoch_{n}.pth`` after every n-th epoch (kept), ``iter_latest.pth`` every few minutes (replaced), ``iter_{n}.pth`` where a run
ends inside an epoch; ``latest.pth`` is a link to the newest of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from uniad.errors import UserError
from uniad.training.checkpoint import read_checkpoint, save_checkpoint
from uniad.training.integrity import without_checksum

LATEST = "latest.pth"
INTERVAL = "iter_latest.pth"


class CheckpointStore:
    """The checkpoints in one work directory."""

    def __init__(self, work_dir: Path):
        self.work_dir = Path(work_dir)
        self.last_good: Path | None = None

    def prepare(self) -> None:
        """Makes the directory and removes what a killed run left half-written."""
        self.work_dir.mkdir(parents=True, exist_ok=True)
        for leftover in self.work_dir.glob(".*.partial.pth"):
            leftover.unlink(missing_ok=True)

    def save(self, name: str, payload: Mapping[str, Any]) -> Path:
        """Writes ``name`` and points ``latest.pth`` at it."""
        path = self.work_dir / name
        save_checkpoint(path, payload)
        self._point_at(path)
        self.last_good = path
        return path

    def _point_at(self, path: Path) -> None:
        link = self.work_dir / LATEST
        temporary = self.work_dir / f".{LATEST}.{os.getpid()}.tmp"
        temporary.unlink(missing_ok=True)
        try:
            temporary.symlink_to(path.name)
        except OSError:
            os.link(path, temporary)  # a file system without symbolic links
        os.replace(temporary, link)

    def candidates(self) -> list[Path]:
        """Complete checkpoints of this run, newest first."""
        found = [p for p in self.work_dir.glob("*.pth") if re.fullmatch(r"(epoch|iter)_(\d+|latest)\.pth", p.name)]
        newest = (self.work_dir / LATEST).resolve()
        return sorted(found, key=lambda p: (p.resolve() == newest, p.stat().st_mtime_ns), reverse=True)

    def resume_from(self, choice: str, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]] | None:
        """What ``--resume`` means here: ``none``, ``auto`` (newest readable of this run, if any) or a path."""
        if choice == "none":
            return None
        if choice != "auto":
            path = Path(choice)
            content = read_checkpoint(path)
            self.last_good = path
            note = without_checksum(path)
            if note:
                say(note)
            return path, content
        candidates = self.candidates()
        problems = []
        for path in candidates:
            try:
                content = read_checkpoint(path)
            except UserError as error:
                problems.append(str(error))
                say(f"skipping a damaged checkpoint: {error}")
                continue
            self.last_good = path
            return path, content
        if problems:
            raise UserError(
                f"no checkpoint in {self.work_dir} can be read ({len(problems)} tried): delete them, or start again with "
                "--resume none"
            )
        return None
