"""Image packs: the decoded images of a data set in one file that many machines read at once, from storage that they share.

An ``ImageCache`` is one machine's own: it is written while training goes on, and known by the times of the files on that machine.
A pack is made once, whole or not at all, and only read after that: mapped into memory, so the processes of a machine share what
any of them has read. It finds images by the names that info files have for them, so one pack serves every split, the machines
need no JPEGs, and where the pack lies does not matter.

The file: a line of JSON, padded to ``BLOCK`` bytes; pixels of every image, one after the other; the index, which holds for each
image its name, the SHA-256 of the JPEG and the CRC-32 of the pixels. The first line has the SHA-256 of the index.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from uniad.config.spec import DataSpec
from uniad.data.transforms import read_image
from uniad.errors import UserError
from uniad.files import open_outside

U8 = NDArray[np.uint8]
FORMAT = 1
BLOCK = 4096  # a page: pixels begin at one
COMPARED = 8  # images of a data set whose files are compared with what the pack was made from
AGAIN = "make it again: make image-pack, or tools/pack_images.py"


class Index(NamedTuple):
    """Of N images, sorted by name."""

    names: list[str]
    sources: U8  # [N, 32] SHA-256 of the files
    sums: NDArray[np.uint32]  # [N] CRC-32 of the pixels

    def to_bytes(self) -> bytes:
        return self.sources.tobytes() + self.sums.astype("<u4").tobytes() + "\n".join(self.names).encode()


def settings(spec: DataSpec) -> dict[str, Any]:
    """What the pixels of a pack depend on beside the files."""
    decoder = "reduced" if spec.jpeg == "reduced" else "exact"
    return {"format": FORMAT, "image_cache": spec.image_cache, "scale": spec.image.scale, "jpeg": decoder}


class ImagePack:
    """A pack that is open for the images of one info table.

    img_path: [frames, cameras] names. root: the data set's folder; where it has files, some are compared with the pack's.
    UserError where the pack is damaged, was made for other settings or files, or lacks an image.
    """

    def __init__(self, path: Path, wanted: dict[str, Any], img_path: NDArray[np.str_], root: Path) -> None:
        self.path = path
        self.header, self.index = read_pack(path)
        if differing := [f"{key}: {self.header.get(key)}, wanted {value}" for key, value in wanted.items()
                         if self.header.get(key) != value]:  # fmt: skip
            raise UserError(f"image pack {path} was made for other settings ({'; '.join(differing)}); {AGAIN}")
        place = {name: number for number, name in enumerate(self.index.names)}
        absent = [name for name in img_path.flat if name not in place]
        if absent:
            raise UserError(f"image pack {path} lacks {len(absent)} of {img_path.size} images, {absent[0]} for one; {AGAIN}")
        self.rows = np.array([[place[name] for name in names] for names in img_path])
        self._compare(root)
        self._pixels: U8 | None = None
        self._checked: set[int] = set()

    def _compare(self, root: Path) -> None:
        """Names of images repeat from one synthetic world to the next; content does not."""
        flat = self.rows.ravel()
        for row in flat[np.linspace(0, len(flat) - 1, min(COMPARED, len(flat))).astype(int)]:
            name = self.index.names[row]
            if (root / name).exists() and digest(read_image(str(root / name))) != self.index.sources[row].tobytes():
                raise UserError(f"image pack {self.path} was made from another {name} than that in {root}; {AGAIN}")

    def __getstate__(self):
        return {**self.__dict__, "_pixels": None}

    def read(self, frame: int) -> list[U8]:
        """Pixels of a frame's cameras, in the file's own memory. An image is held against its checksum once by each process."""
        if self._pixels is None:
            self._pixels = map_pixels(self.path, self.header)
        found = []
        for row in self.rows[frame]:
            pixels = np.asarray(self._pixels[row])
            if row not in self._checked:
                check_pixels(self.path, self.index, int(row), pixels)
                self._checked.add(row)
            found.append(pixels)
        return found


def read_pack(path: Path) -> tuple[dict[str, Any], Index]:
    """First line and index of a pack; UserError where the file is absent, no pack, cut short or damaged there."""
    try:
        with open_outside(path) as handle:
            line = handle.read(BLOCK)
            try:
                header = json.loads(line)
                count, size, place = (header[key] for key in ("images", "file_bytes", "index_at"))
                shape = header["shape"]
                # Numbers are Python's own, which do not overflow: a product of NumPy's could come out small.
                numbers = type(shape) is list and all(type(n) is int for n in (count, size, place, *shape))
                known = numbers and header["format"] == FORMAT and len(shape) == 3 and min(count, *shape) > 0
                if not (known and BLOCK + count * math.prod(shape) <= place < size):
                    raise ValueError
            except (ValueError, KeyError, TypeError, RecursionError):
                raise UserError(f"{path} is no image pack of format {FORMAT}; {AGAIN}") from None
            handle.seek(0, 2)
            if handle.tell() != size:
                raise UserError(f"image pack {path} has {handle.tell()} bytes of {size}: it is not whole; {AGAIN}")
            handle.seek(place)
            content = handle.read()
    except FileNotFoundError:
        raise UserError(f"image pack {path} does not exist; {AGAIN}") from None
    except OSError as error:
        raise UserError(f"image pack {path} cannot be read: {error.strerror}") from error
    if hashlib.sha256(content).hexdigest() != header.get("index_sha256"):
        raise UserError(f"the index of image pack {path} is damaged (digest differs); {AGAIN}")
    unfit = UserError(f"the index of image pack {path} is not one of {count} images, each with a name of its own; {AGAIN}")
    try:
        names = content[36 * count :].decode().split("\n")
        sources, sums = np.frombuffer(content, np.uint8, 32 * count), np.frombuffer(content, "<u4", count, 32 * count)
    except ValueError:  # too short, or no text
        raise unfit from None
    if len(names) != count or len(set(names)) < count:
        raise unfit
    return header, Index(names, sources.reshape(count, 32), sums)


def map_pixels(path: Path, header: dict[str, Any]) -> U8:
    """[images, rows, w, 3], read-only."""
    try:
        return np.memmap(path, np.uint8, "r", BLOCK, (header["images"], *header["shape"]))
    except (OSError, ValueError) as error:
        raise UserError(f"image pack {path} cannot be read: {error}") from error


def check_pixels(path: Path, index: Index, row: int, pixels: U8) -> None:
    """UserError where an image is no longer what was packed."""
    if zlib.crc32(np.ascontiguousarray(pixels).data) != index.sums[row]:
        raise UserError(f"image pack {path} is damaged: {index.names[row]} differs from its checksum; {AGAIN}")


def check_pack(path: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> int:
    """Holds every image of a pack against its checksum. Returns how many there are."""
    header, index = read_pack(path)
    pixels = map_pixels(path, header)
    for row in range(len(index.names)):
        check_pixels(path, index, row, pixels[row])
        progress(row + 1, len(index.names))
    return len(index.names)


def digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
