"""Compiled operators: multi-scale deformable attention and modulated deformable convolution, forward and backward."""

try:
    from . import _C
except ImportError as cause:
    raise ImportError(
        f"mmdet3d.ops is not compiled for this torch ({cause}): "
        "run `python3 setup.py build develop --user` in third_party/uniad_mmdet3d"
    ) from cause

from .deformable_attention import deformable_attention
from .deformable_convolution import modulated_deformable_convolution

with_cuda = _C.with_cuda

__all__ = ["deformable_attention", "modulated_deformable_convolution", "with_cuda"]
