"""Products of halves where a CPU has none: computed in float and rounded once, which is what a GPU's tensor cores give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_aten = torch.ops.aten
_PRODUCTS = {_aten.convolution.default, _aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default}


class HalfProducts(TorchDispatchMode):
    """Within it, convolutions and matrix products of float16 or bfloat16 run in float32; their results are rounded to the half.

    A CPU without instructions for halves adds float16 up element by element, fifty times slower. Inference only.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func not in _PRODUCTS:
            return func(*args, **kwargs)
        halves = {t.dtype for t in args if isinstance(t, Tensor)} & {torch.float16, torch.bfloat16}
        if len(halves) != 1:
            return func(*args, **kwargs)
        return func(*tree_map(_to_float, args), **kwargs).to(halves.pop())


def _to_float(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) else value
