"""From camera files to network input: decode, distort, normalise, scale, pad.

Scaling reads only four source pixels for each target pixel (bilinear, no smoothing), and every step before it works pixel by
pixel. So the four needed pixels of each target are picked first, as four planes, and distorted and normalised alone: the
upstream order's result for a quarter of its work at scale 0.25. What is cached, where a cache is on, are these planes.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from uniad.config.spec import ImageSpec
from uniad.data.decoder_log import decoder_messages
from uniad.errors import UserError
from uniad.files import read_outside
from uniad.geometry.nuscenes import IMAGE_HW

U8 = NDArray[np.uint8]
F32 = NDArray[np.float32]
S = TypeVar("S")
T = TypeVar("T")

AGAIN = "download or make it again"
MAX_PIXELS = 100_000_000  # of a file; a camera of 1600x900 has 1.4 million
_PIXEL = np.dtype((np.void, 3))  # BGR
BRIGHTNESS = 32.0
CONTRAST = (0.5, 1.5)
SATURATION = (0.5, 1.5)
HUE_DEG = 18.0


def decode(path: str | Path) -> U8:
    """An image file as BGR [h, w, 3], its pixels as they are stored.

    An orientation in a JPEG's Exif data turns nothing: calibrations refer to stored pixels, and the nuScenes devkit (Pillow) and
    upstream (mmcv) read those, too. Bytes after the end marker, as recorders pad with, are left alone. A file that is absent, cut
    short, damaged inside or no image is a UserError that names it.
    """
    return decode_all([str(path)])[0]


def decode_all(paths: list[str], threads: int = 1, shrink: int = 1) -> list[U8]:
    """Decode several files, in order; the decoder leaves the interpreter's lock, so threads help where cores are free.

    shrink: 2, 4 or 8 takes JPEGs of the cameras' size at that part of their height and width, both rounded up. The decoder then
    transforms only the low frequencies of each block of pixels, so a pixel is about the mean of those that it stands for.
    """
    one = partial(_decode, shrink=shrink)
    with decoder_messages() as messages:
        images = each_image(one, paths, threads)
    if any(map(_is_damage, messages)):
        # Which of them it was, the decoder does not say: one at a time tells.
        for path in paths:
            with decoder_messages() as messages:
                one(path)
            damage = next(filter(_is_damage, messages), None)
            if damage:
                raise UserError(f"image {path} is damaged ({damage}); {AGAIN}")
    return images


def _check_claim(data: bytes, path: str) -> None:
    """A PNG or JPEG of a few kilobytes may claim gigabytes of pixels, and the decoder would take the memory first."""
    width, height = _claimed_size(data)
    if width * height > MAX_PIXELS:
        raise UserError(f"image {path} claims {width}x{height} pixels, more than any camera has: it is damaged, or no camera's")


def _claimed_size(data: bytes) -> tuple[int, int]:
    """Width and height by the header of a PNG or JPEG; 0, 0 where there is none."""
    if data[:8] == b"\x89PNG\r\n\x1a\n" and len(data) >= 24:
        return struct.unpack(">II", data[16:24])
    place = 2
    while data[:2] == b"\xff\xd8" and place + 9 <= len(data) and data[place] == 0xFF:
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            height, width = struct.unpack(">HH", data[place + 5 : place + 9])
            return width, height
        # Fill bytes may stand before a marker; a segment says how long it is.
        place += 1 if marker == 0xFF else 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]
    return 0, 0


def read_image(path: str) -> bytes:
    """The bytes of an image file; UserError that names it where it cannot be read."""
    try:
        return read_outside(path)
    except FileNotFoundError:
        raise UserError(f"image {path} does not exist; is the dataset's folder right, and this part of it downloaded?") from None
    except OSError as error:
        raise UserError(f"image {path} cannot be read: {error.strerror}") from error
    except UserError as error:
        raise UserError(f"image {error}") from None


def _decode(path: str, shrink: int) -> U8:
    return _pixels_of(read_image(path), path, AGAIN, shrink)


def decode_bytes(data: bytes, name: str, again: str) -> U8:
    """The same of a file's bytes. name: what a message calls the image; again: what it advises to do."""
    with decoder_messages() as messages:
        image = _pixels_of(data, name, again)
    damage = next(filter(_is_damage, messages), None)
    if damage:
        raise UserError(f"image {name} is damaged ({damage}); {again}")
    return image


def check_whole(data: bytes, path: str, again: str = AGAIN) -> None:
    """UserError for a JPEG that is cut short, and for an image that claims more pixels than any camera has."""
    # The decoder fills what is missing of a truncated file with grey and carries on; the end marker tells.
    if data[:2] == b"\xff\xd8" and not _has_end(data):
        raise UserError(f"image {path} is cut short ({len(data)} bytes, no end marker); {again}")
    _check_claim(data, path)


def check_camera_jpeg(data: bytes, path: str, why: str) -> None:
    """UserError for what is no JPEG of the cameras' size. why: what needs one."""
    width, height = _claimed_size(data)
    if data[:2] != b"\xff\xd8" or (height, width) != IMAGE_HW:
        found = f"{width}x{height} pixels" if data[:2] == b"\xff\xd8" else "another format"
        raise UserError(f"image {path}: {why} needs a JPEG of {IMAGE_HW[1]}x{IMAGE_HW[0]}, this one has {found}")


# Orientations are ignored: see ``decode``.
_FLAGS = {
    1: cv2.IMREAD_COLOR, 2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4, 8: cv2.IMREAD_REDUCED_COLOR_8,
}  # fmt: skip


def _pixels_of(data: bytes, path: str, again: str, shrink: int = 1) -> U8:
    check_whole(data, path, again)
    if shrink > 1:
        check_camera_jpeg(data, path, "native.jpeg='reduced'")
    flags = _FLAGS[shrink] | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags) if data else None
    except cv2.error:  # a header that asks for more pixels than there is memory
        image = None
    if image is None:
        raise UserError(f"image {path} is not a readable JPEG ({len(data)} bytes); {again}")
    return image


# A marker inside compressed data; FF00 is a byte of it, FFD0 to FFD7 restart it, further FFs fill up.
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_END, _SCAN = b"\xff\xd9", b"\xff\xda"


def _has_end(jpeg: bytes) -> bool:
    """Whether the end marker follows the image's own data: one in an Exif thumbnail ends nothing."""
    if jpeg.endswith(_END):
        return True
    position = 2
    while position + 4 <= len(jpeg):
        marker = jpeg[position : position + 2]
        if marker == _END:
            return True
        if marker[:1] != b"\xff":
            return False
        if marker[1] in (0xFF, 0x01) or 0xD0 <= marker[1] <= 0xD7:  # a byte to fill up, or a marker without a length
            position += 1 if marker[1] == 0xFF else 2
            continue
        position += 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        if marker == _SCAN:
            following = _MARKER.search(jpeg, position)
            if following is None:
                return False
            position = following.start()
    return jpeg[position : position + 2] == _END


# Zeros and the like before the end marker change no pixel.
_PADDING = re.compile(r"Corrupt JPEG data: (\d{1,2}) extraneous bytes before marker 0xd9")


def _is_damage(message: str) -> bool:
    return "JPEG" in message and not _PADDING.search(message) or "libpng error" in message


def each_image(work: Callable[[S], T], images: Iterable[S], threads: int) -> list[T]:
    """``work`` of each, in their order, in so many threads at once; the error of the first that fails."""
    return [work(image) for image in images] if threads <= 1 else list(_pool(threads).map(work, images))


@lru_cache(maxsize=4)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="images")


# Threads do not survive a fork: a process that inherits the pool would wait for them for ever.
os.register_at_fork(after_in_child=_pool.cache_clear)


@dataclass(frozen=True)
class Distortion:
    """Photometric distortion of one image, already drawn; None leaves a step out."""

    brightness: float | None
    contrast_first: bool
    contrast: float | None
    saturation: float | None
    hue_deg: float | None
    channels: tuple[int, ...] | None

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Distortion:
        """Each step with probability one half, contrast before or after the colour steps with equal chance."""
        brightness = rng.uniform(-BRIGHTNESS, BRIGHTNESS) if rng.integers(2) else None
        first = bool(rng.integers(2))
        contrast = rng.uniform(*CONTRAST) if rng.integers(2) else None
        saturation = rng.uniform(*SATURATION) if rng.integers(2) else None
        hue = rng.uniform(-HUE_DEG, HUE_DEG) if rng.integers(2) else None
        channels = tuple(int(c) for c in rng.permutation(3)) if rng.integers(2) else None
        return cls(brightness, first, contrast, saturation, hue, channels)

    def row(self) -> tuple[float, ...]:
        """As ``pixels.distort`` takes it: steps that are left out change nothing."""
        first = float(self.contrast_first)
        values = (self.brightness, 0.0), (first, 0.0), (self.contrast, 1.0), (self.saturation, 1.0), (self.hue_deg, 0.0)
        return (*(otherwise if value is None else value for value, otherwise in values), *(self.channels or (0, 1, 2)))

    def apply(self, image: F32) -> F32:
        """Distorted copy of a BGR image [h, w, 3] of grey levels 0..255; values may leave that range, as in upstream."""
        image = image.copy()
        if self.brightness is not None:
            image += np.float32(self.brightness)
        if self.contrast is not None and self.contrast_first:
            image *= np.float32(self.contrast)
        # Also without a change of colour: the way to HSV and back is not the identity where brightness went below zero.
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        if self.saturation is not None:
            hsv[..., 1] *= np.float32(self.saturation)
        if self.hue_deg is not None:
            hue = hsv[..., 0]
            hue += np.float32(self.hue_deg)
            np.subtract(hue, 360, out=hue, where=hue > 360)
            np.add(hue, 360, out=hue, where=hue < 0)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
        if self.contrast is not None and not self.contrast_first:
            image *= np.float32(self.contrast)
        return image if self.channels is None else np.ascontiguousarray(image[..., self.channels])


@dataclass(frozen=True)
class _Axis:
    """Where each of ``size`` target pixels reads along one axis: two source pixels and the second one's weight."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    weight: F32

    @classmethod
    def of(cls, source: int, size: int, extent: float) -> _Axis:
        """extent: of the original image in pixels of the source; a decoder that shrinks rounds up."""
        position = (np.arange(size) + 0.5) * (extent / size) - 0.5
        position = np.clip(position, 0, source - 1).astype(np.float32)
        low = np.minimum(np.floor(position).astype(np.int64), source - 2)
        return cls(low, low + 1, position - low.astype(np.float32))


def _every(places: NDArray[np.int64]) -> slice | None:
    """The slice that reads ``places``; None where they are not evenly apart."""
    step = int(places[1] - places[0]) if len(places) > 1 else 1
    even = step > 0 and bool((np.diff(places) == step).all())
    return slice(int(places[0]), int(places[-1]) + 1, step) if even else None


class Resampler:
    """Bilinear scaling of images of one size, split into picking pixels and weighing them."""

    def __init__(self, source_hw: tuple[int, int], scale: float, shrink: int = 1) -> None:
        """shrink: what images of ``source_hw`` were decoded with, see ``decode_all``."""
        self.source_hw = source_hw
        self.hw = (int(source_hw[0] * scale), int(source_hw[1] * scale))
        decoded = shrunk(source_hw, shrink)
        self.identity = self.hw == decoded
        if not self.identity:
            self._y, self._x = (_Axis.of(decoded[axis], self.hw[axis], source_hw[axis] / shrink) for axis in (0, 1))
            # Colours are folded into the row, so that the arithmetic runs over long contiguous rows.
            self._right, self._low = np.repeat(self._x.weight, 3), self._y.weight[:, None]
            slices = [[_every(places) for places in axis] for axis in self.places]
            self._slices = None if any(None in axis for axis in slices) else list(product(*slices))

    @property
    def planes_shape(self) -> tuple[int, int, int]:
        """Shape of what ``pick`` returns."""
        return (*self.hw, 3) if self.identity else (4 * self.hw[0], self.hw[1], 3)

    @property
    def places(self) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Rows that are read, upper and lower [h], and columns, left and right [w]."""
        return (self._y.low, self._y.high), (self._x.low, self._x.high)

    @property
    def weights(self) -> tuple[F32, F32]:
        """Of the right pixel [w * 3] and of the lower one [h, 1]."""
        return self._right, self._low

    def pick(self, image: U8, out: U8 | None = None) -> U8:
        """The source pixels that targets read [4 h, w, 3]: upper left, upper right, lower left, lower right planes.

        out: contiguous memory of ``planes_shape`` to write them to. Without it the image itself where nothing is scaled.
        """
        if self.identity and out is None:
            return image
        planes = np.empty(self.planes_shape, np.uint8) if out is None else out
        if self.identity:
            planes[:] = image
        elif self._slices and image.strides[1:] == (3, 1):
            # A pixel as one element: a third of the time that three bytes each take.
            to, pixels = planes.view(_PIXEL).reshape(4, *self.hw), image.view(_PIXEL)[..., 0]
            for number, place in enumerate(self._slices):
                to[number] = pixels[place]
        else:
            for plane, (y, x) in zip(planes.reshape(4, *self.hw, 3), product(*self.places)):
                plane[:] = image.take(y, axis=0).take(x, axis=1)
        return planes

    def weigh(self, planes: F32) -> F32:
        """Scaled image [h, w, 3] from planes."""
        if self.identity:
            return planes
        height, width = self.hw
        upper_left, upper_right, lower_left, lower_right = planes.reshape(4, height, width * 3)
        upper = upper_right - upper_left
        upper *= self._right
        upper += upper_left
        lower = lower_right - lower_left
        lower *= self._right
        lower += lower_left
        lower -= upper
        lower *= self._low
        lower += upper
        return lower.reshape(height, width, 3)


@lru_cache(maxsize=8)
def resampler(source_hw: tuple[int, int], scale: float, shrink: int = 1) -> Resampler:
    """The resampler for one source size, scale and size at which files are decoded."""
    return Resampler(source_hw, scale, shrink)


def shrunk(hw: tuple[int, int], shrink: int) -> tuple[int, int]:
    """Size of a JPEG that is decoded at a part of its own."""
    return -(-hw[0] // shrink), -(-hw[1] // shrink)


def shrink_for(scale: float) -> int:
    """The most that JPEGs of the cameras may shrink by where they are scaled after it: no pixel is made from less than one."""
    wanted = [int(size * scale) for size in IMAGE_HW]
    return max(n for n in _FLAGS if all(got >= size for got, size in zip(shrunk(IMAGE_HW, n), wanted)) or n == 1)


def normalise(image: F32, spec: ImageSpec) -> F32:
    """(image - mean) / std over the last axis of a BGR image, turned to RGB first where the spec says so."""
    if spec.to_rgb:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    # cv2 works in place over the colours without spreading them; the scalars stay double, as in upstream.
    return cv2.multiply(cv2.subtract(image, (*spec.mean, 0.0)), (*(1.0 / np.asarray(spec.std, np.float64)), 0.0))


def finish(planes: NDArray, spec: ImageSpec, scaler: Resampler, distortion: Distortion | None, out: F32) -> None:
    """Planes of one image -> network input written to ``out`` [3, H, W], padded with zeros below and on the right."""
    image = planes.astype(np.float32)
    if distortion is not None:
        image = distortion.apply(image)
    # Upstream: normalise, then scale. Both are linear and the weights add up to one, so the smaller image does as well.
    scaled = normalise(scaler.weigh(image), spec)
    height, width = scaled.shape[:2]
    out[:, :height, :width] = scaled.transpose(2, 0, 1)
    out[:, height:] = 0.0
    out[:, :, width:] = 0.0


def check_size(hw: Sequence[int], spec: ImageSpec, path: str) -> None:
    """An image of another size than nuScenes' cameras have is a UserError: sizes of a frame, a pack and a cache are one."""
    if tuple(hw) != IMAGE_HW:
        raise UserError(
            f"image {path} has {hw[1]}x{hw[0]} pixels; the config's {spec.width}x{spec.height} input at scale {spec.scale:g} "
            f"needs {IMAGE_HW[1]}x{IMAGE_HW[0]}: scale images and camera matrices together"
        )


def scaled_projection(img_from_lidar: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
    """Projections [..., 4, 4] to pixels of the scaled image; the nominal scale, even where the size was rounded."""
    matrix = np.eye(4)
    matrix[0, 0] = matrix[1, 1] = scale
    return matrix @ img_from_lidar
