"""Our Triton kernels of deformable operators, where Triton is installed."""

from __future__ import annotations

import warnings
from functools import cache
from types import ModuleType


@cache
def deformable_kernels() -> tuple[ModuleType, ModuleType] | tuple[None, None]:
    """The modules of deformable attention and of deformable convolution; None for both, and a warning, without Triton."""
    try:
        from uniad.ops import triton_deformable_attention, triton_deformable_conv
    except ImportError:
        warnings.warn("triton is not installed: deformable attention runs by grid_sample, several times slower", stacklevel=4)
        return None, None
    return triton_deformable_attention, triton_deformable_conv
