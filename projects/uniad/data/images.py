"""The six images of a keyframe as network input, from files or from a cache.

The cache is one flat file of 8-bit pixels and one of their checksums, both memory-mapped: loader processes and ranks of one
machine share what any of them has decoded. It is filled while training goes on; a checksum is set after its pixels, so an
interrupted run leaves no half-filled entry behind. An entry whose checksum differs is decoded and stored anew.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from uniad.config.spec import DataSpec
from uniad.data.image_pack import ImagePack, settings
from uniad.data.table import InfoTable
from uniad.data.transforms import (
    Distortion,
    Resampler,
    check_camera_jpeg,
    check_size,
    check_whole,
    decode_all,
    finish,
    read_image,
    resampler,
    shrink_for,
)
from uniad.errors import UserError
from uniad.geometry.nuscenes import IMAGE_HW

U8 = NDArray[np.uint8]
HEADER = 16  # bytes before a file: its length and its frame

# Loaders work in parallel by processes; cv2's own threads would only crowd them, and do not survive a fork.
cv2.setNumThreads(0)


class ImageSource:
    """Images of one info table as the network takes them."""

    def __init__(self, table: InfoTable, spec: DataSpec) -> None:
        self.table, self.spec = table, spec
        self.shrink = shrink_of(spec)
        self.as_files = spec.jpeg == "gpu"  # what ``raw`` writes
        if self.as_files and spec.image_cache != "off":
            raise UserError("native.jpeg='gpu' decodes in every epoch and native.image_cache decodes once: take one of them")
        if spec.image_pack and spec.image_cache == "off":
            raise UserError("native.image_pack needs native.image_cache=exact or scaled: what the pack was made with")
        pack, root = Path(spec.image_pack), Path(spec.data_root)
        wanted = settings(spec) | {"shape": list(stored_shape(spec))}
        self.pack = ImagePack(pack, wanted, table.img_path, root) if spec.image_pack else None
        self.cache = None if spec.image_cache == "off" or self.pack else ImageCache(table, spec)
        self._room: int | None = None

    def paths(self, frame: int) -> list[str]:
        """Files of a frame's cameras."""
        return [str(Path(self.spec.data_root) / path) for path in self.table.img_path[frame]]

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """Of what ``raw`` writes: [cameras, rows, w, 3], see ``Resampler.planes_shape``; of files [cameras, bytes]."""
        cameras = self.table.img_path.shape[1]
        return (cameras, HEADER + self.room) if self.as_files else (cameras, *self.scaler.planes_shape)

    @property
    def room(self) -> int:
        """Bytes of the largest file."""
        if self._room is None:
            sizes = (_size(Path(self.spec.data_root) / path) for path in np.unique(self.table.img_path))
            self._room = -(-max(sizes, default=0) // 64) * 64
        return self._room

    @property
    def scaler(self) -> Resampler:
        """How ``raw`` pixels are weighed."""
        scaler = resampler(IMAGE_HW, self.spec.image.scale, self.shrink)
        return resampler(scaler.hw, 1.0) if self.spec.image_cache == "scaled" else scaler

    def raw(self, frame: int, out: U8) -> None:
        """Write a frame's pixels as they are stored to ``out``: what is left to do is ``pixels.network_images``.

        Files, for a GPU that decodes: each behind a header of its length and the frame's number.
        """
        if self.as_files:
            for path, slot in zip(self.paths(frame), out):
                self._write_file(path, frame, slot)
            return
        for camera, (pixels, _) in enumerate(self._pixels(frame)):
            out[camera] = pixels

    def _write_file(self, path: str, frame: int, slot: U8) -> None:
        data = read_image(path)
        check_whole(data, path)
        check_camera_jpeg(data, path, "native.jpeg='gpu'")
        if len(data) > len(slot) - HEADER:
            raise UserError(f"image {path} has grown to {len(data)} bytes since training began: start again")
        slot[:HEADER] = np.array([len(data), frame], "<i8").view(np.uint8)
        slot[HEADER : HEADER + len(data)] = np.frombuffer(data, np.uint8)

    def load(self, frame: int, rng: np.random.Generator | None, out: NDArray[np.float32]) -> None:
        """Write a frame's images to ``out`` [cameras, 3, H, W]; with ``rng`` each is distorted on its own, as in upstream."""
        image = self.spec.image
        distortions = [Distortion.draw(rng) if rng is not None and image.photometric else None for _ in out]
        for camera, (pixels, scaler) in enumerate(self._pixels(frame)):
            finish(pixels, image, scaler, distortions[camera], out[camera])

    def scaled_bytes(self, frame: int) -> U8:
        """A frame's images scaled and rounded to 8 bits [cameras, h, w, 3], not padded: what the ``scaled`` cache keeps."""
        return np.stack([rounded(pixels, scaler) for pixels, scaler in self._pixels(frame)])

    def _pixels(self, frame: int) -> list[tuple[U8, Resampler]]:
        """Source pixels of each camera and how to weigh them."""
        if self.pack is not None:
            return [(pixels, self.scaler) for pixels in self.pack.read(frame)]
        if self.cache is None:
            return self.picked(self.paths(frame))
        stored = self.cache.read(frame)
        if stored is None:
            fresh = self.picked(self.paths(frame))
            stored = np.stack([self.cache.pack(pixels, scaler) for pixels, scaler in fresh])
            self.cache.write(frame, stored)
        return [(pixels, self.scaler) for pixels in stored]

    def picked(self, paths: list[str]) -> list[tuple[U8, Resampler]]:
        """The same of files."""
        return [self._picked(image, path) for image, path in zip(decode_all(paths, self.spec.decode_threads, self.shrink), paths)]

    def _picked(self, image: U8, path: str) -> tuple[U8, Resampler]:
        if self.shrink == 1:  # else the decoder asked for the size
            check_size(image.shape[:2], self.spec.image, path)
        scaler = resampler(IMAGE_HW, self.spec.image.scale, self.shrink)
        return scaler.pick(image), scaler


def shrink_of(spec: DataSpec) -> int:
    """What the config's JPEGs are decoded with."""
    return shrink_for(spec.image.scale) if spec.jpeg == "reduced" else 1


def stored_shape(spec: DataSpec) -> tuple[int, int, int]:
    """Of an image as a cache or a pack keeps it: [rows, w, 3]."""
    scaler = resampler(IMAGE_HW, spec.image.scale, shrink_of(spec))
    return (*scaler.hw, 3) if spec.image_cache == "scaled" else scaler.planes_shape


def read_header(slot: U8) -> tuple[int, int]:
    """Of a file that ``ImageSource.raw`` wrote: its bytes, and the frame that it belongs to."""
    length, frame = slot[:HEADER].view("<i8")
    return int(length), int(frame)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # named when it is read


class FrameCache:
    """Bytes of one shape for every frame in a memory-mapped file.

    folder: ``image_cache_dir``. name: tells what the bytes depend on. shape: [frames, ...].
    """

    def __init__(self, folder: Path, name: str, shape: tuple[int, ...], suffix: str = "u8") -> None:
        self.shape = shape
        self.pixels_path, self.sums_path = folder / f"{name}.{suffix}", folder / f"{name}.sums"
        self._create(int(np.prod(self.shape)))
        self._maps: tuple[U8, NDArray[np.uint32]] | None = None
        self._checked: set[int] = set()  # entries that this process has held against their checksums

    def _create(self, size: int) -> None:
        if all(path.exists() and path.stat().st_size == length for path, length in self._lengths(size)):
            return
        try:
            self.pixels_path.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.pixels_path.parent).free
        except OSError as error:
            folder = self.pixels_path.parent
            raise UserError(f"image cache folder {folder}: {error.strerror}; set data.image_cache_dir") from error
        missing = size - _allocated(self.pixels_path)
        if missing > free:
            raise self._no_room(size, free)
        for path, length in self._lengths(size):
            try:
                _allocate(path, length)
            except OSError as error:
                path.unlink(missing_ok=True)
                if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                    raise self._no_room(size, free) from error
                raise

    def _no_room(self, size: int, free: int) -> UserError:
        return UserError(
            f"the image cache needs {size / 1e9:.1f} GB, {self.pixels_path.parent} has {free / 1e9:.1f} GB free, perhaps less "
            "for one user; choose another image_cache_dir, image_cache 'scaled' or 'off'"
        )

    def _lengths(self, size: int) -> tuple[tuple[Path, int], ...]:
        # in the order in which they are made: where there are checksums, there is room for all pixels
        return (self.pixels_path, size), (self.sums_path, 4 * self.shape[0])

    def _open(self) -> tuple[U8, NDArray[np.uint32]]:
        # Each process opens its own map: a map made before a fork would work too, but not one sent by pickle.
        if self._maps is None:
            pixels = np.memmap(self.pixels_path, dtype=np.uint8, mode="r+", shape=self.shape)
            self._maps = pixels, np.memmap(self.sums_path, dtype=np.uint32, mode="r+", shape=self.shape[:1])
        return self._maps

    def __getstate__(self):
        return {**self.__dict__, "_maps": None}

    def read(self, frame: int) -> U8 | None:
        """A frame's pixels, or None if no process has stored them yet, or if they are no longer what was stored."""
        pixels, sums = self._open()
        if not sums[frame]:
            return None
        stored = np.asarray(pixels[frame])
        if frame not in self._checked:
            if _checksum(stored) != sums[frame]:
                return None
            self._checked.add(frame)
        return stored

    def write(self, frame: int, stored: U8) -> None:
        """Store a frame's pixels. Two processes may do so at once: both write the same."""
        pixels, sums = self._open()
        sums[frame] = 0
        pixels[frame] = stored
        sums[frame] = _checksum(stored)


class ImageCache(FrameCache):
    """Pixels by frame and camera."""

    def __init__(self, table: InfoTable, spec: DataSpec) -> None:
        self.exact = spec.image_cache == "exact"
        name = f"images_{spec.image_cache}_{_identity(table, spec)}"
        super().__init__(Path(spec.image_cache_dir), name, (len(table), table.img_path.shape[1], *stored_shape(spec)))

    def pack(self, pixels: U8, scaler: Resampler) -> U8:
        """What is stored of one image: the picked pixels, or the scaled image rounded to 8 bits."""
        if scaler.source_hw != IMAGE_HW:
            height, width = scaler.source_hw
            needed = f"{IMAGE_HW[1]}x{IMAGE_HW[0]}"
            raise UserError(f"the image cache holds images of {needed}, one has {width}x{height}; set native.image_cache=off")
        return pixels if self.exact else rounded(pixels, scaler)


def rounded(pixels: U8, scaler: Resampler) -> U8:
    """The scaled image [h, w, 3] of picked pixels, rounded to 8 bits."""
    return np.clip(np.rint(scaler.weigh(pixels.astype(np.float32))), 0, 255).astype(np.uint8)


def _allocated(path: Path) -> int:
    """Bytes of the disk that a file holds."""
    try:
        return path.stat().st_blocks * 512
    except FileNotFoundError:
        return 0


def _allocate(path: Path, length: int) -> None:
    """Makes ``path`` a file of that length whose room on the disk is its own; what it held within that length stays.

    A sparse file would end the process (SIGBUS) at the memory access for which the disk has no room left.
    """
    with open(path, "ab") as handle:
        handle.truncate(length)
        if length:
            os.posix_fallocate(handle.fileno(), 0, length)


def _checksum(stored: U8) -> int:
    """Of a frame's pixels; never 0, which stands for nothing stored."""
    return zlib.crc32(np.ascontiguousarray(stored).data) or 1


def _identity(table: InfoTable, spec: DataSpec) -> str:
    """Digest of the files' names, sizes and times: a dataset made anew gets a cache of its own."""
    digest = hashlib.sha256(f"{spec.image.scale}{' reduced' if spec.jpeg == 'reduced' else ''}".encode())
    root = Path(spec.data_root)
    for path in table.img_path.ravel():
        try:
            stat = (root / path).stat()
        except OSError:
            continue  # named when it is read
        digest.update(f"{path}:{stat.st_size}:{stat.st_mtime_ns};".encode())
    return digest.hexdigest()[:16]
