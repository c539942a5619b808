"""Makes image packs (``image_pack``) from the files of a data set."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from uniad.config.spec import DataSpec
from uniad.data.image_pack import BLOCK, Index, digest, settings
from uniad.data.images import ImageSource, rounded, stored_shape
from uniad.data.table import InfoTable
from uniad.data.transforms import read_image
from uniad.data.workers import Failure, batches, guarded_loader
from uniad.errors import UserError
from uniad.files import atomic_path, try_place


class _Images(Dataset):
    """(number, pixels, SHA-256 of the file) of images by name."""

    def __init__(self, source: ImageSource, names: Sequence[str], scaled: bool) -> None:
        self.source, self.names, self.scaled = source, names, scaled
        self.root = Path(source.spec.data_root)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[int, torch.Tensor, bytes] | Failure:
        path = str(self.root / self.names[index])
        try:
            ((pixels, scaler),) = self.source.picked([path])
            if self.scaled:
                pixels = rounded(pixels, scaler)
            return index, torch.from_numpy(np.ascontiguousarray(pixels)), digest(read_image(path))
        except UserError as error:
            return Failure(str(error))


def write_pack(
    spec: DataSpec,
    tables: Sequence[InfoTable],
    path: Path,
    workers: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Packs the images of info tables as ``spec.image_cache`` says ('exact' or 'scaled'). Returns how many there are.

    ``path`` is replaced when the pack is whole; one that is being read stays what it is for those who read it.
    """
    if spec.image_cache == "off":
        raise UserError("native.image_cache says what a pack holds: exact or scaled")
    names = sorted({str(name) for table in tables for name in table.img_path.flat})
    if broken := [name for name in names if "\n" in name]:
        raise UserError(f"an image is named {broken[0]!r}, which a pack cannot hold: it lists names by lines")
    made_with = settings(spec)
    source = ImageSource(tables[0], replace(spec, image_cache="off", image_pack="", jpeg=made_with["jpeg"]))
    shape = stored_shape(spec)
    size = int(np.prod(shape))
    try_place(path, BLOCK + len(names) * (size + 200))
    sources, sums = np.empty((len(names), 32), np.uint8), np.empty(len(names), np.uint32)
    loader = guarded_loader(_Images(source, names, spec.image_cache == "scaled"), workers=workers, batch_size=None)
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        handle.write(b"\0" * BLOCK)
        for number, pixels, of_file in batches(loader):  # in order
            content = pixels.numpy()
            sources[number], sums[number] = np.frombuffer(of_file, np.uint8), zlib.crc32(content.data)
            handle.write(content.data)
            progress(number + 1, len(names))
        index = Index(names, sources, sums).to_bytes()
        place = handle.tell()
        handle.write(index)
        header = made_with | {
            "images": len(names), "shape": list(shape), "index_at": place, "file_bytes": handle.tell(),
            "index_sha256": hashlib.sha256(index).hexdigest(),
        }  # fmt: skip
        handle.seek(0)
        handle.write((json.dumps(header) + "\n").encode().ljust(BLOCK))
    return len(names)
