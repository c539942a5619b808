"""Clips whose images are still bytes, as a loader process hands them over, and what makes network input of them on the device.

Bytes are a quarter of what floats are, on their way through shared memory and to the GPU. On a CPU the result is that of
``transforms.finish`` to the digit, but for distortion, which a GPU computes by the same formulas with its own rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from uniad.config.spec import ImageSpec
from uniad.data.collate import collate
from uniad.data.transforms import Resampler
from uniad.interface.types import Clip

FLT_EPSILON = float(np.finfo(np.float32).eps)  # what cv2 adds to a divisor that may be 0


class RawClip(NamedTuple):
    """A clip, or a batch of clips, before its images are network input."""

    clip: Clip  # frames.img: [..., T, N, rows, w, 3] uint8, what ``ImageSource.raw`` writes; meta is empty
    distortions: Tensor | None  # [..., T, N, 8] float32, rows of ``Distortion.row``; None where nothing is distorted


def collate_raw(samples: Sequence[RawClip]) -> RawClip:
    """As ``collate``, before images are network input."""
    drawn = [sample.distortions for sample in samples if sample.distortions is not None]
    return RawClip(collate([sample.clip for sample in samples]), torch.stack(drawn) if drawn else None)


class Finish:
    """RawClip -> Clip, on the device where its tensors are."""

    def __init__(self, image: ImageSpec, scaler: Resampler) -> None:
        self.image, self.scaler = image, scaler

    def __call__(self, raw: RawClip) -> Clip:
        frames = raw.clip.frames
        img = network_images(frames.img, self.image, self.scaler, raw.distortions)
        return raw.clip._replace(frames=frames._replace(img=img))


def network_images(pixels: Tensor, image: ImageSpec, scaler: Resampler, distortions: Tensor | None = None) -> Tensor:
    """Stored pixels [..., N, rows, w, 3] uint8 -> distorted, scaled, normalised and padded [..., N, 3, H, W] float32.

    The steps are those of ``transforms.finish``, frame by frame, or what lies between would take more memory than an iteration.
    On a GPU colours come last in memory, as convolutions of half precision want them.
    """
    frames = pixels.reshape(-1, *pixels.shape[-4:])
    rows = None if distortions is None else distortions.reshape(-1, *distortions.shape[-2:])
    shape = (*frames.shape[:2], 3, image.height, image.width)
    if pixels.is_cuda:
        out = torch.zeros(*shape[:2], *shape[3:], 3, device=pixels.device).movedim(-1, -3)
    else:
        out = torch.zeros(shape)
    for number, frame in enumerate(frames):
        x = _scaled(frame.float() if rows is None else distort(frame.float(), rows[number]), scaler)
        height, width = x.shape[-3:-1]
        out[number, ..., :height, :width] = _normalised(x, image).movedim(-1, -3)
    return out.unflatten(0, pixels.shape[:-4])


def _scaled(x: Tensor, scaler: Resampler) -> Tensor:
    """As ``Resampler.weigh``: [..., rows, w, 3] -> [..., h, w, 3]."""
    if scaler.identity:
        return x
    right, low = _weights(scaler, x.device)
    height, width = scaler.hw
    upper_left, upper_right, lower_left, lower_right = x.unflatten(-3, (4, height)).flatten(-2).unbind(-3)
    upper = (upper_right - upper_left) * right + upper_left
    lower = (lower_right - lower_left) * right + lower_left
    return ((lower - upper) * low + upper).unflatten(-1, (width, 3))


def _normalised(x: Tensor, image: ImageSpec) -> Tensor:
    """As ``transforms.normalise``. cv2 multiplies by a double and rounds once; a GPU by what that is in fp32."""
    mean, factor = _constants(image.mean, image.std, x.device)
    x = (x.flip(-1) if image.to_rgb else x) - mean
    if x.is_cuda:
        return x * factor.float()
    return (x.double() * factor).float()


# Made once for a device: a small copy to a GPU makes the host wait.
@lru_cache(maxsize=8)
def _weights(scaler: Resampler, device: torch.device) -> tuple[Tensor, Tensor]:
    right, low = (torch.from_numpy(weight).to(device) for weight in scaler.weights)
    return right, low


@lru_cache(maxsize=8)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(mean, device=device), torch.tensor(1.0 / np.asarray(std, np.float64), device=device)


def distort(x: Tensor, rows: Tensor) -> Tensor:
    """Photometric distortion of BGR grey levels [..., h, w, 3]; rows: [..., 8], one for each image, see ``Distortion``."""
    brightness, first, contrast, saturation, hue, *order = (value[..., None, None] for value in rows.unbind(-1))
    first, contrast = first[..., None], contrast[..., None]
    x = x + brightness[..., None]
    x = torch.where(first > 0, x * contrast, x)
    h, s, v = bgr_to_hsv(x)
    h = h + hue
    h = torch.where(h > 360, h - 360, h)
    h = torch.where(h < 0, h + 360, h)
    x = hsv_to_bgr(h, s * saturation, v)
    x = torch.where(first > 0, x, x * contrast)
    index = torch.stack(order, -1).long().expand(*x.shape)
    return x.gather(-1, index)


def bgr_to_hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[..., 3] -> hue in degrees, saturation, value, as OpenCV's conversion of floats."""
    b, g, r = x.unbind(-1)
    v, least = x.amax(-1), x.amin(-1)
    span = v - least
    s = span / (v.abs() + FLT_EPSILON)
    scale = 60 / (span + FLT_EPSILON)
    h = torch.where(v == r, (g - b) * scale, torch.where(v == g, (b - r) * scale + 120, (r - g) * scale + 240))
    return torch.where(h < 0, h + 360, h), s, v


def hsv_to_bgr(h: Tensor, s: Tensor, v: Tensor) -> Tensor:
    """Hue in degrees, saturation, value -> [..., 3]."""
    h = h / 60
    sector = h.floor()
    part = h - sector
    sector = sector.remainder(6)
    p, q, t = v * (1 - s), v * (1 - s * part), v * (1 - s * (1 - part))
    # of sectors 0 to 5
    b, g, r = (p, p, t, v, v, q), (t, v, v, q, p, p), (v, q, p, p, t, v)

    def chosen(values: tuple[Tensor, ...]) -> Tensor:
        out = values[5]
        for number in range(5):
            out = torch.where(sector == number, values[number], out)
        return out

    return torch.stack([chosen(b), chosen(g), chosen(r)], -1)
