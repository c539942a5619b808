"""Memory for time: transformer layers that forget their activations and compute them again in the backward pass."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

# Layers of the BEV encoder, the detection decoder and the map head. Image features need none of this where the backbone is
# frozen, and where it learns its batch norms would count every batch twice.
LAYERS = re.compile(r"(pts_bbox_head|seg_head)\.transformer\.(encoder|decoder)\.layers\.\d+")


def recompute_layers(model: nn.Module) -> int:
    """Makes the model's transformer layers recompute; losses and gradients stay the same. Returns how many do."""
    chosen = [module for name, module in model.named_modules() if LAYERS.fullmatch(name)]
    for module in chosen:
        module.forward = partial(_forward, module.forward)
    return len(chosen)


def _forward(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)
