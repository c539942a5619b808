"""Where numbers must stay in fp32 although the rest runs in half precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn


def full_precision(like: Tensor) -> AbstractContextManager:
    """Context in which autocast is off on the device of ``like``.

    Global positions, boxes and reference points are metres to a few centimetres over a hundred metres: bf16 has 8 bits. Outside
    autocast this is a null context, so that an export traces no autocast region.
    """
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def to_channels_last(*parts: nn.Module) -> None:
    """Lay parameters and buffers out as convolutions of half precision want them, in place."""
    for part in parts:
        part.to(memory_format=torch.channels_last)  # pyrefly: ignore[no-matching-overload]  torch's overloads leave it out
