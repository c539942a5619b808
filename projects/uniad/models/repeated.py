"""The layers that a model is made of, by the names of their classes: what compilers take one by one.

None of them lies in another. Layers of one class share what was compiled, so that is done several times sooner than for a model
as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

LAYERS = frozenset({
    "BasicBlock", "Bottleneck", "FPN", "BevEncoderLayer", "DecoderLayer", "EncoderLayer", "QueryInteraction", "MaskHead",
    "BevInteraction", "CellLayer", "LightProjection", "HalvingBottleneck", "UpsampleAdd", "DenseDecoder", "PlanDecoderLayer",
})  # fmt: skip


def repeated_layers(model: nn.Module) -> Iterator[nn.Module]:
    return (module for module in model.modules() if type(module).__name__ in LAYERS)


def allow_recompiling() -> None:
    """One piece of code may be compiled many times: for many shapes of blocks, for many parts."""
    import torch._dynamo

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, 64)
