"""Files that are made from an earlier graph or engine: in lower precision, or with other weights."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
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


@contextmanager
def replacing(artefact: Path) -> Generator[Path, None, None]:
    """Yield the same file name in a new folder beside ``artefact``. What lies there in the end, card included, takes the place of
    what is here; on an error nothing does."""
    with tempfile.TemporaryDirectory(prefix=f".{artefact.name}.", suffix=".partial", dir=artefact.parent) as folder:
        staged = Path(folder) / artefact.name
        yield staged
        others = [path for path in Path(folder).iterdir() if path != card_path(staged)]
        card_path(artefact).unlink(missing_ok=True)  # as in ``write_derived``
        for path in (*others, card_path(staged)):
            os.replace(path, artefact.parent / path.name)
