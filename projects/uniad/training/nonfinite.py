"""Finds where a NaN or an infinity was born: the first module whose output is not finite.

Runs only after training has stopped, so it may look at every tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn


def tensors_in(value: Any) -> list[Tensor]:
    """All floating-point tensors inside nested tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [t for v in value for t in tensors_in(v)]
    return []


def is_finite(value: Any) -> bool:
    return all(bool(torch.isfinite(t).all()) for t in tensors_in(value))


def locate(model: nn.Module, clip: Any, losses_of: Callable[[], tuple[Tensor, dict[str, Tensor]]]) -> str | None:
    """Repeats one iteration, watching every module; returns what went wrong first, or None where all is finite.

    Args:
        clip: the batch, checked first: bad input needs no module to be blamed.
        losses_of: runs the forward pass and returns the total to differentiate and the losses by name.
    """
    if not is_finite([list(x) for x in clip if isinstance(x, tuple)]):
        return "the input batch itself"
    for name, parameter in model.named_parameters():
        if not is_finite(parameter):
            return f"parameter '{name}'"
    first: list[str] = []
    grads: list[tuple[str, str]] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not first and not is_finite(output):
                first.append(f"the output of module '{name}' ({type(module).__name__})")
            for tensor in tensors_in(output):
                if tensor.requires_grad:
                    tensor.register_hook(watch_grad(name, type(module).__name__))

        return hook

    def watch_grad(name: str, kind: str) -> Callable[[Tensor], None]:
        def hook(grad: Tensor) -> None:
            if not grads and not is_finite(grad):
                grads.append((name, kind))

        return hook

    handles = [m.register_forward_hook(watch(name)) for name, m in model.named_modules() if name]
    try:
        with torch.enable_grad():
            total, losses = losses_of()
            if first:
                return first[0]
            bad = [name for name, value in losses.items() if not is_finite(value)]
            if bad:
                return f"loss '{bad[0]}' (every module's output is finite)"
            total.backward()
    finally:
        for handle in handles:
            handle.remove()
    if grads:
        return "the gradient at the output of module '{}' ({})".format(*grads[0])
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not is_finite(parameter.grad):
            return f"the gradient of parameter '{name}'"
    return None
