"""Graphs made from another graph, in lower precision: written beside a copy of what was recorded for it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import onnx

from uniad.artifacts.card import card_path, sequence_path
from uniad.files import atomic_path


def write_derived(graph: onnx.ModelProto, source: Path, out: Path) -> None:
    """Graph and sequence. The card of an earlier graph goes first: what is there is either whole or says that it is not."""
    card_path(out).unlink(missing_ok=True)
    with atomic_path(sequence_path(out)) as temporary:
        temporary.unlink()
        try:
            os.link(sequence_path(source), temporary)
        except OSError:  # another file system, or one without links
            shutil.copyfile(sequence_path(source), temporary)
    with atomic_path(out) as temporary:
        onnx.save(graph, str(temporary))
