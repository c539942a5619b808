"""Our Triton kernels, where Triton is installed."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from importlib import import_module
from types import ModuleType

from torch import Tensor


@cache
def deformable_kernels() -> tuple[ModuleType, ModuleType] | tuple[None, None]:
    """The modules of deformable attention and of deformable convolution; None for both, and a warning, without Triton."""
    try:
        from uniad.ops import triton_deformable_attention, triton_deformable_conv
    except ImportError:
        warnings.warn("triton is not installed: deformable attention runs by grid_sample, several times slower", stacklevel=4)
        return None, None
    return triton_deformable_attention, triton_deformable_conv


@cache
def solver(module: str, without: str) -> Callable[[Tensor, Tensor], Tensor] | None:
    """``solve`` of a module of kernels; None without Triton, and a warning of what is done ``without`` it."""
    try:
        return import_module(f"uniad.ops.{module}").solve
    except ImportError:
        warnings.warn(f"triton is not installed: {without}", stacklevel=3)
        return None
