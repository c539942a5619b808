"""Layers and losses behind torch.compile while a model learns, each by itself, with a way back to the plain ones.

A compiler fuses what lies between convolutions and matrix products: norms, activations, casts, sums, and their gradients.
It takes the layers of the image encoder, of the BEV encoder, of decoder and heads (``models.repeated``), and the matching and
losses of a frame. Layers of one class share what was compiled. Each part is one graph of static shapes: neither the number of
tracks nor that of labels makes anything be compiled again.

A compiler needs more of a machine than PyTorch does, and may be wrong. So the first clip is computed twice before training
begins: plainly, which also shows what parts take and return, and compiled, which compiles them. A part that fails runs as it is
from then on; where a gradient fails, or loss or gradient are not those of the plain pass, all parts do. All processes decide
alike, and one line says what came of it.

What it gains on a GPU stands in docs/results.md; on a CPU it is tested with compilers that make no code.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_structure, tree_unflatten

from uniad.errors import out_of_memory
from uniad.losses.criterion import Criterion
from uniad.models.repeated import allow_recompiling, repeated_layers
from uniad.training.distributed import World, gather_objects

# Dropout draws other numbers behind a compiler, so the compiled loss and gradient are near the plain ones, not equal to them.
LOSS_APART = 0.1
GRADIENT_TIMES = 2.0

# Methods with named tuples: of the model's map head, and of the criterion. Those that average counts over processes stay as they
# are where there are several, for a compiled graph cannot hold a collective.
_OF_MAP_HEAD = ("learnt_masks",)
_OF_CRITERION = ("frame", "match_map")
_AVERAGING = ("track_losses", "map_losses")


class Numbers(NamedTuple):
    """What a pass over the first clip gave."""

    loss: float
    gradient: float  # norm


class Verdict(NamedTuple):
    """What a process says of its compiled pass."""

    failed: dict[str, str]  # part -> why
    refused: str  # why nothing may run compiled; empty if all is well


class Compiled:
    """The parts of a model that have a compiled twin, and whether the twins run: not before ``settle``."""

    def __init__(self, backend: str = "inductor") -> None:
        self.backend = backend
        self.on, self.settled = False, False
        self.failed: dict[str, str] = {}
        self.count = 0

    def part(self, name: str, call: Callable[..., Any]) -> Part:
        """A part whose arguments and results a compiler understands: tensors, and tuples and lists of them."""
        self.count += 1
        return Part(self, name, call)

    def flat_part(self, name: str, call: Callable[..., Any]) -> Part:
        """A part with named tuples or dicts in what it takes or returns."""
        self.count += 1
        return FlatPart(self, name, call)

    def compile(self, call: Callable[..., Any]) -> Callable[..., Any]:
        allow_recompiling()
        return torch.compile(call, fullgraph=True, dynamic=False, backend=self.backend)

    def runs(self, name: str) -> bool:
        return self.on and name not in self.failed

    def fail(self, name: str, error: Exception) -> None:
        """Leaves a part as it is."""
        self.failed.setdefault(name, _short(error))

    def stop(self) -> None:
        """Everything runs plainly from now on."""
        self.on = False

    def settle(self, run: Callable[[], Numbers], world: World) -> str:
        """Compiles, and decides with all processes what stays compiled. Returns the line that says so.

        run: loss and gradient of this process's first clip, leaving no trace. Called once plainly and once compiled.
        """
        began = time.monotonic()
        plain, refused = run(), ""
        self.on = True
        try:
            refused = _apart(plain, run())
        except Exception as error:
            if out_of_memory(error):
                raise
            refused = f"a gradient failed: {_short(error)}"
        for verdict in gather_objects(world, Verdict(self.failed, refused)):
            self.failed = {**verdict.failed, **self.failed}
            refused = refused or verdict.refused
        self.settled = True
        if refused:
            self.on = False
            return f"nothing runs compiled: {refused}; training goes on without (--no-compile leaves this out)"
        without = "; ".join(f"{name} runs as it is: {why}" for name, why in sorted(self.failed.items()))
        return f"compiled {self.count} parts in {time.monotonic() - began:.0f} s{'; ' * bool(without)}{without}"


class Part:
    """A call that has a compiled twin."""

    def __init__(self, book: Compiled, name: str, call: Callable[..., Any]) -> None:
        self.book, self.name, self.call = book, name, call
        self.twin = book.compile(self.graph())

    def graph(self) -> Callable[..., Any]:
        """What is compiled."""
        return self.call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.book.runs(self.name):
            return self.plain(*args, **kwargs)
        try:
            return self.compiled(*args, **kwargs)
        except Exception as error:
            if out_of_memory(error):
                raise
            self.book.fail(self.name, error)
            return self.plain(*args, **kwargs)

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)

    def compiled(self, *args: Any, **kwargs: Any) -> Any:
        return self.twin(*args, **kwargs)


class FlatPart(Part):
    """Named tuples are taken apart outside: PyTorch 2.11 breaks some that enter or leave a compiled region.

    A plain call shows what they are made of. One of another structure runs plainly.
    """

    def __init__(self, book: Compiled, name: str, call: Callable[..., Any]) -> None:
        super().__init__(book, name, call)
        self.takes: Any = None
        self.returns: Any = None

    def graph(self) -> Callable[..., Any]:
        def on_leaves(*leaves: Any) -> list[Any]:
            return tree_leaves(self.call(*tree_unflatten(leaves, self.takes)))

        return on_leaves

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        result = self.call(*args, **kwargs)
        if self.takes is None and not kwargs:
            self.takes, self.returns = tree_structure(args), tree_structure(result)
        return result

    def compiled(self, *args: Any, **kwargs: Any) -> Any:
        leaves, takes = tree_flatten(args)
        if kwargs or takes != self.takes:
            return self.call(*args, **kwargs)
        return tree_unflatten(self.twin(*leaves), self.returns)


def compile_parts(model: nn.Module, criterion: Criterion | None, compiled: Compiled, alone: bool) -> None:
    """Gives a compiled twin to the losses and to every repeated layer of ``model`` whose ``forward`` was not replaced before.

    alone: there is one process, so nothing is averaged over several.
    """
    for layer in repeated_layers(model):
        if "forward" not in vars(layer):
            layer.forward = compiled.part(type(layer).__name__, layer.forward)
    maps = getattr(model, "seg_head", None)
    owners = [(maps, _OF_MAP_HEAD), (criterion, _OF_CRITERION + (_AVERAGING if alone else ()))]
    for owner, names in owners:
        for name in names if owner is not None else ():
            setattr(owner, name, compiled.flat_part(name, getattr(owner, name)))


def _apart(plain: Numbers, compiled: Numbers) -> str:
    """Why the compiled numbers cannot be those of the same model; empty if they can."""
    if not (math.isfinite(plain.loss) and math.isfinite(plain.gradient)):
        return ""  # an fp16 gradient that overflows tells nothing
    near = abs(compiled.loss - plain.loss) <= LOSS_APART * abs(plain.loss) + 1e-3
    least, most = plain.gradient / GRADIENT_TIMES - 1e-6, plain.gradient * GRADIENT_TIMES + 1e-6
    if near and least <= compiled.gradient <= most:
        return ""
    return (
        f"on the first clip loss and gradient norm are {compiled.loss:.4g} and {compiled.gradient:.4g} compiled, "
        f"{plain.loss:.4g} and {plain.gradient:.4g} plainly"
    )


def _short(error: Exception) -> str:
    """An error in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # the second line is what a back end said
    return " ".join([f"{type(error).__name__}:", *lines[:2]])[:240]
