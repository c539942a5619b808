"""Code for a GPU that waits for nothing."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class NoHost(TorchDispatchMode):
    """Fails on any operator that would read a value back from the device or make a shape depend on one."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal.default", "repeat_interleave.Tensor")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func)
        assert not any(f"aten.{word}" in name for word in self.FORBIDDEN), name
        if name.startswith(("aten.index.Tensor", "aten.index_put")):
            for index in args[1]:
                assert index is None or index.dtype != torch.bool, name
        return func(*args, **(kwargs or {}))
