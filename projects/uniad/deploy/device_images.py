"""Camera images made network input on a GPU: what goes there are the bytes that the result is made of.

The host only picks pixels. At scale 0.25 that is a quarter of an image, and at full size the floats would be four times the
bytes. The arithmetic is that of training on a GPU (``data.pixels``): it differs from the host's by rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uniad.config.spec import ImageSpec
from uniad.data.pixels import network_images
from uniad.data.transforms import each_image, resampler


class DeviceImages:
    """For one caller at a time: pixels pass through memory that is taken once and used again."""

    def __init__(self, image: ImageSpec, device: str) -> None:
        self.image, self.device = image, torch.device(device)
        self._room = torch.empty(0, dtype=torch.uint8)

    def __call__(self, images: Sequence[NDArray[np.uint8]], threads: int) -> Tensor:
        """Images of one size, BGR [h, w, 3] -> [1, N, 3, H, W] float32 on the device. ``threads`` pick pixels."""
        scaler = resampler(images[0].shape[:2], self.image.scale)
        shape = (len(images), *scaler.planes_shape)
        if self._room.shape != shape:
            self._room = torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        room = self._room.numpy()

        each_image(lambda number: scaler.pick(images[number], room[number]), range(len(images)), threads)
        # Not queued: the next frame writes over this memory.
        return network_images(self._room.to(self.device)[None], self.image, scaler).contiguous()
