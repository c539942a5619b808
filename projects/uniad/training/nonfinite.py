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


def bad_from_the_start(model: nn.Module, clip: Any) -> str | None:
    """What is not finite before a module has run: the batch or a parameter; None where both are fine."""
    if not is_finite(clip):
        return "the input batch"
    bad = [name for name, parameter in model.named_parameters() if not is_finite(parameter)]
    return f"parameter '{bad[0]}'" if bad else None


def locate(model: nn.Module, losses_of: Callable[[], tuple[Tensor, dict[str, Tensor]]]) -> str | None:
    """Repeats one iteration, watching every module; returns what went wrong first, or None where all is finite.

    Args:
        losses_of: runs the forward pass and returns the total to differentiate and the losses by name.
    """
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
