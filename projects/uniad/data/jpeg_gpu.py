"""JPEGs that the GPU decodes which trains: loader processes hand files over, and nvImageCodec makes pixels of them on the device.

A file is a tenth of its pixels, and a loader process only reads it. What the library gives is what libjpeg-turbo gives but for
its own rounding and for the way in which colours are spread. This code is tested with a stand-in of the library; nobody has run
it on a GPU yet.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from uniad.data.images import HEADER, ImageSource, read_header
from uniad.data.pixels import RawClip
from uniad.data.transforms import AGAIN, Resampler
from uniad.errors import UserError
from uniad.geometry.nuscenes import IMAGE_HW

PACKAGE = "nvidia-nvimgcodec-cu13[nvjpeg]==0.9.0.20"  # pyproject.toml's extra gpu-jpeg


def library() -> Any:
    """nvImageCodec; UserError that says how to get it, or how to do without."""
    try:
        return importlib.import_module("nvidia.nvimgcodec")
    except ImportError as error:
        raise UserError(
            f"native.jpeg='gpu' needs nvImageCodec, which cannot be imported ({error}): pip install '{PACKAGE}' (with CUDA 12: "
            f"'{PACKAGE.replace('cu13', 'cu12')}'), or leave native.jpeg at 'exact'"
        ) from None


class GpuDecoder:
    """JPEG files -> BGR pixels on a device. Made at the first batch, when loader processes have been forked."""

    def __init__(self, device: torch.device) -> None:
        self.nv, self.device = library(), device
        try:
            # as libjpeg spreads colours over the pixels that share them
            self.decoder = self.nv.Decoder(device_id=_number(device), options=":fancy_upsampling=1")
        except RuntimeError as error:
            raise UserError(f"native.jpeg='gpu': nvImageCodec cannot use {device} ({_first_line(error)})") from None
        self.params = self.nv.DecodeParams(
            apply_exif_orientation=False, color_spec=self.nv.ColorSpec.SRGB, sample_format=self.nv.SampleFormat.I_BGR
        )

    def __call__(self, files: Sequence[bytes], name: Callable[[int], str]) -> list[Tensor]:
        """Images [h, w, 3] uint8. name: of a file by its number; UserError names the one that cannot be decoded."""
        stream = torch.cuda.current_stream(self.device).cuda_stream if self.device.type == "cuda" else 0
        try:
            images = self.decoder.decode([self.nv.CodeStream(data) for data in files], params=self.params, cuda_stream=stream)
        except RuntimeError as error:
            raise UserError(f"native.jpeg='gpu': nvImageCodec failed ({_first_line(error)})") from None
        for number, image in enumerate(images):
            if image is None:
                raise UserError(f"image {name(number)} is damaged, the GPU's decoder refuses it; {AGAIN}")
            if tuple(image.shape) != (*IMAGE_HW, 3):
                raise UserError(f"image {name(number)} was decoded to {list(image.shape)}, not to {[*IMAGE_HW, 3]}; {AGAIN}")
        return [torch.from_dlpack(image) for image in images]


class DecodeOnGpu:
    """A batch of files, and the same batch on a device -> the latter with pixels, as ``ImageSource.raw`` has them otherwise."""

    def __init__(self, images: ImageSource) -> None:
        library()  # before any process is started
        self.images = images
        self.decoder: GpuDecoder | None = None

    def __call__(self, host: RawClip, moved: RawClip) -> RawClip:
        device = moved.clip.frames.scene_start.device
        if self.decoder is None or self.decoder.device != device:
            self.decoder = GpuDecoder(device)
        slots = host.clip.frames.img
        flat = slots.reshape(-1, slots.shape[-1]).numpy()
        cameras, scaler = slots.shape[-2], self.images.scaler
        headers = [read_header(slot) for slot in flat]
        files = [slot[HEADER : HEADER + length].tobytes() for slot, (length, _) in zip(flat, headers)]
        decoded = self.decoder(files, lambda k: self.images.paths(headers[k][1])[k % cameras])
        pixels = torch.empty(len(flat), *scaler.planes_shape, dtype=torch.uint8, device=device)
        for out, image in zip(pixels, decoded):
            pick(image, scaler, out)
        frames = moved.clip.frames._replace(img=pixels.view(*slots.shape[:-1], *scaler.planes_shape))
        return moved._replace(clip=moved.clip._replace(frames=frames))


def pick(image: Tensor, scaler: Resampler, out: Tensor) -> None:
    """As ``Resampler.pick``: [h, w, 3] -> planes, or the image itself."""
    if scaler.identity:
        out.copy_(image)
        return
    rows, columns = _places(scaler, image.device)
    # all four planes in one go: two sets of rows by two of columns
    both = image.index_select(0, rows.flatten()).index_select(1, columns.flatten())
    height, width = scaler.hw
    out.view(2, 2, height, width, 3).copy_(both.view(2, height, 2, width, 3).transpose(1, 2))


@lru_cache(maxsize=8)
def _places(scaler: Resampler, device: torch.device) -> tuple[Tensor, Tensor]:
    rows, columns = (torch.from_numpy(np.stack(pair)).to(device) for pair in scaler.places)
    return rows, columns


def _number(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None and device.type == "cuda" else device.index or 0


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
