"""Memory for time: transformer layers that forget their activations and compute them again in the backward pass.

What a layer drops at random it must drop again the second time. Its masks are kept, at a byte an element, so that nothing asks
for the state of a random generator: that would wait for the GPU, and a CUDA graph could not record it.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from uniad.models.attention import MultiheadAttention
from uniad.training.compiled import Compiled, Part

# Layers of the BEV encoder, the detection decoder and the map head. Image features need none of this where the backbone is
# frozen, and where it learns its batch norms would count every batch twice.
LAYERS = re.compile(r"(pts_bbox_head|seg_head)\.transformer\.(encoder|decoder)\.layers\.\d+")


def recompute_layers(model: nn.Module, recorded: bool = False, compiled: Compiled | None = None) -> int:
    """Makes the model's transformer layers recompute; losses and gradients stay the same. Returns how many do.

    recorded: the iteration is to be a CUDA graph. Layers that drop attention weights, inside a fused kernel that tells no mask,
    are then left as they are: those of the decoders, which are small beside the encoders.
    compiled: what gives these layers their compiled twins.
    """
    count = 0
    for name, layer in model.named_modules():
        if not LAYERS.fullmatch(name):
            continue
        drops_weights = any(isinstance(m, MultiheadAttention) and m.dropout > 0 for m in layer.modules())
        if drops_weights and recorded:
            continue
        masks = Masks()
        forward, kind = layer.forward, type(layer).__name__
        for module in layer.modules():
            if isinstance(module, nn.Dropout) and not drops_weights:
                module.forward = partial(masks.dropout, module)
        if compiled is None:
            layer.forward = partial(_forward, forward, masks, drops_weights)
        else:
            whole, masked = compiled.part(kind, forward), compiled.part(kind, partial(_under_masks, masks, forward))
            layer.forward = partial(_forward_compiled, whole, masked, masks, drops_weights)
        count += 1
    return count


def _forward(forward: Any, masks: Masks, keep_generator: bool, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=keep_generator, context_fn=masks.contexts, **kwargs)


def _forward_compiled(whole: Part, masked: Part, masks: Masks, keep_generator: bool, *args: Any, **kwargs: Any) -> Any:
    """The same with a layer that may run compiled.

    Both passes must run the same compiled code, or they would save different tensors. So its masks are drawn before the first
    pass and handed to both.
    """
    if not torch.is_grad_enabled():
        return whole(*args, **kwargs)
    drawn = masks.draw(args[0]) if masked.book.runs(masked.name) and not keep_generator else None
    if not masked.book.runs(masked.name) or (drawn is None and not keep_generator):
        result = _forward(whole.call, masks, keep_generator, *args, **kwargs)
        masks.learn(args[0])
        return result
    # a compiled layer saves all of its tensors at its end, so there is nothing to stop before
    with set_checkpoint_early_stop(False):
        if drawn is None:
            return checkpoint(whole, *args, use_reentrant=False, preserve_rng_state=True, **kwargs)
        return checkpoint(masked, drawn, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)


def _under_masks(masks: Masks, forward: Any, drawn: list[Tensor], *args: Any, **kwargs: Any) -> Any:
    masks.again = iter(drawn)
    try:
        return forward(*args, **kwargs)
    finally:
        masks.again = None


class Mask(NamedTuple):
    """What a dropout draws."""

    shape: torch.Size
    dtype: torch.dtype
    p: float


class Masks:
    """What the dropouts of one layer let through in its first pass, for its second."""

    def __init__(self) -> None:
        self.kept: list[Tensor] | None = None  # of the pass that runs now; None outside of both
        self.again: Iterator[Tensor] | None = None
        self.drawn: list[Mask] = []  # in the first pass that ran last
        self.known: dict[torch.Size, list[Mask]] = {}  # by the size of what the layer takes

    def contexts(self) -> tuple[AbstractContextManager, AbstractContextManager]:
        """Those of the two passes of one call."""
        kept: list[Tensor] = []
        self.drawn = []
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

    def learn(self, x: Tensor) -> None:
        """Remembers what masks the pass drew that has just run plainly on ``x``."""
        self.known[x.shape] = self.drawn

    def draw(self, x: Tensor) -> list[Tensor] | None:
        """The masks of a pass on ``x``, drawn in their order; None where no pass of that size was seen."""
        known = self.known.get(x.shape)
        if known is None:
            return None
        return [torch.empty(size, dtype=dtype, device=x.device).bernoulli_(1 - p).bool() for size, dtype, p in known]

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
        self.drawn.append(Mask(x.shape, x.dtype, module.p))
        return out


def _let_through(x: Tensor, mask: Tensor, p: float) -> Tensor:
    """Rounded as PyTorch's own dropout on the device of ``x``."""
    if x.device.type == "cuda":
        return x * mask * (1 / (1 - p))
    return x * mask.to(x.dtype).div_(1 - p)
