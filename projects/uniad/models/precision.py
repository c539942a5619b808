"""Where numbers must stay in fp32 although the rest runs in half precision."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def full_precision(like: Tensor) -> AbstractContextManager:
    """Context in which autocast is off on the device of ``like``.

    Global positions, boxes and reference points are metres to a few centimetres over a hundred metres: bf16 has 8 bits. Outside
    autocast this is a null context, so that an export traces no autocast region.
    """
    device = like.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
