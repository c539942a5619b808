"""Losses read what the model made: the records of its heads, never the heads."""

from __future__ import annotations

import importlib
import pkgutil

from torch import nn

import uniad.losses


def test_no_loss_knows_a_module_of_the_model() -> None:
    names = [module.name for module in pkgutil.iter_modules(uniad.losses.__path__)]
    assert "map" in names and "criterion" in names
    for name in names:
        known = vars(importlib.import_module(f"uniad.losses.{name}")).values()
        heads = [k.__name__ for k in known if isinstance(k, type) and issubclass(k, nn.Module) and "models" in k.__module__]
        assert not heads, f"losses/{name}.py imports {heads}: let the model's step run it and hand over what it gives"
