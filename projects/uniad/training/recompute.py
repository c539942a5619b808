"""Memory for time: transformer layers that forget their activations and compute them again in the backward pass.

What a layer drops at random it must drop again the second time. Its masks are kept, at a byte an element, so that nothing asks
for the state of a random generator: that would wait for the GPU, and a CUDA graph could not record it.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from uniad.models.attention import MultiheadAttention

# Layers of the BEV encoder, the detection decoder and the map head. Image features need none of this where the backbone is
# frozen, and where it learns its batch norms would count every batch twice.
LAYERS = re.compile(r"(pts_bbox_head|seg_head)\.transformer\.(encoder|decoder)\.layers\.\d+")


def recompute_layers(model: nn.Module, recorded: bool = False) -> int:
    """Makes the model's transformer layers recompute; losses and gradients stay the same. Returns how many do.

    recorded: the iteration is to be a CUDA graph. Layers that drop attention weights, inside a fused kernel that tells no mask,
    are then left as they are: those of the decoders, which are small beside the encoders.
    """
    count = 0
    for name, layer in model.named_modules():
        if not LAYERS.fullmatch(name):
            continue
        drops_weights = any(isinstance(m, MultiheadAttention) and m.dropout > 0 for m in layer.modules())
        if drops_weights and recorded:
            continue
        masks = Masks()
        for module in layer.modules():
            if isinstance(module, nn.Dropout) and not drops_weights:
                module.forward = partial(masks.dropout, module)
        layer.forward = partial(_forward, layer.forward, masks, drops_weights)
        count += 1
    return count


def _forward(forward: Any, masks: Masks, keep_generator: bool, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=keep_generator, context_fn=masks.contexts, **kwargs)


class Masks:
    """What the dropouts of one layer let through in its first pass, for its second."""

    def __init__(self) -> None:
        self.kept: list[Tensor] | None = None  # of the pass that runs now; None outside of both
        self.again: Iterator[Tensor] | None = None

    def contexts(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """Those of the two passes of one call."""
        kept: list[Tensor] = []
        return self._first(kept), self._second(kept)

    @contextmanager
    def _first(self, kept: list[Tensor]) -> Generator[None, None, None]:
        self.kept = kept
        try:
            yield
        finally:
            self.kept = None

    @contextmanager
    def _second(self, kept: list[Tensor]) -> Generator[None, None, None]:
        self.again = iter(kept)
        try:
            yield
        finally:
            self.again = None

    def dropout(self, module: nn.Dropout, x: Tensor) -> Tensor:
        """As the module would, with the same draws."""
        if not module.training or module.p == 0:
            return x
        if self.again is not None:
            return _let_through(x, next(self.again), module.p)
        if self.kept is None:
            return nn.functional.dropout(x, module.p)
        if x.device.type == "cuda":
            out, mask = torch.native_dropout(x, module.p, True)
        else:
            mask = torch.empty_like(x).bernoulli_(1 - module.p).bool()
            out = _let_through(x, mask, module.p)
        self.kept.append(mask)
        return out


def _let_through(x: Tensor, mask: Tensor, p: float) -> Tensor:
    """Rounded as PyTorch's own dropout on the device of ``x``."""
    if x.device.type == "cuda":
        return x * mask * (1 / (1 - p))
    return x * mask.to(x.dtype).div_(1 - p)
