"""Bench2Drive for tests: the small model of the recordings under tests/golden/b2d, and what it is fed."""

from __future__ import annotations

import importlib.util
import json
from functools import lru_cache
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from helpers.recorded import EXTRACTS
from helpers.specs import CONFIGS, edit
from uniad.config.read import load_spec
from uniad.config.spec import Spec
from uniad.interface.types import Frame

FOLDER = EXTRACTS / "b2d"


def _module(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"b2d_{name}", FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


small = _module("small")


@lru_cache
def small_spec(train: bool = False) -> Spec:
    """Tiny of Bench2Drive with the recordings' sizes."""
    options = {**small.OPTIONS, **(small.TRAIN_OPTIONS if train else {})}
    spec = load_spec(CONFIGS / "stage2_e2e/b2d-tiny_e2e.py", [f"{key}={value}" for key, value in options.items()])
    return edit(spec, data__image__height=small.IMAGE[0], data__image__width=small.IMAGE[1])


def frame(i: int) -> Frame:
    """A frame of the recordings, in the precision that they were made in."""
    now = small.pose(i)
    return Frame(
        img=torch.from_numpy(small.image(i)),
        lidar2img=torch.from_numpy(small.lidar2img()).float()[None],
        can_bus=torch.from_numpy(now["can_bus"])[None],
        l2g_r=torch.from_numpy(np.ascontiguousarray(now["l2g_r"]))[None],
        l2g_t=torch.from_numpy(now["l2g_t"])[None],
        time_s=torch.from_numpy(now["timestamp"] - small.pose(0)["timestamp"]).float(),
        scene_start=torch.tensor([i == 0]),
        command=torch.tensor([small.COMMANDS[i]], dtype=torch.int32),
    )


class Numbers:
    """A file of tests/golden/b2d: tensors by name, thinned as they were stored."""

    def __init__(self, name: str) -> None:
        with np.load(FOLDER / f"{name}.npz") as data:
            self.arrays = {key: data[key] for key in data.files}
        self.thinned = json.loads(str(self.arrays["thinned"])) if "thinned" in self.arrays else {}

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def thin(self, name: str, value: Tensor) -> Tensor:
        """``value`` as the number ``name`` (without its frame) was stored."""
        return value.flatten()[:: self.thinned[name]] if name in self.thinned else value
