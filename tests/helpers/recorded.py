"""Recorded numbers by name: thinned tensors and their thinning rule, read from golden files or from the committed extract."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from helpers import REPO, TESTS

EXTRACTS = TESTS / "golden"
BESIDE_THE_CHECKOUT = REPO.parent / "shared" / "golden"


def golden_dir() -> Path | None:
    """Folder with numbers recorded from upstream, or None where this machine has none."""
    path = Path(os.environ.get("UNIAD_GOLDEN", BESIDE_THE_CHECKOUT))
    return path if (path / "weight_rule.py").is_file() else None


class Recorded:
    """Tensors of one or more npz files by name; ``meta`` says how a tensor was thinned before it was stored."""

    def __init__(self, files: list[Path], meta: dict[str, str] | None = None) -> None:
        self.arrays: dict[str, np.ndarray] = {}
        for file in files:
            with np.load(file) as data:
                self.arrays.update({k: data[k] for k in data.files})
        self.meta = meta or {}

    @classmethod
    def golden(cls, folder: Path, stem: str, parts: tuple[str, ...]) -> Recorded:
        """``<stem>_<part>.npz`` of the golden folder, with the thinning rules of ``<stem>_index.json``."""
        index = json.loads((folder / f"{stem}_index.json").read_text())
        return cls([folder / f"{stem}_{part}.npz" for part in parts], index["meta"])

    @classmethod
    def extract(cls, name: str) -> Recorded:
        """The committed ``tests/golden/<name>.npz``; its own thinning rules are stored beside the tensors."""
        file = EXTRACTS / f"{name}.npz"
        with np.load(file) as data:
            meta = json.loads(str(data["meta"]))
        return cls([file], meta)

    def __contains__(self, name: str) -> bool:
        return name in self.arrays

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def thin(self, name: str, tensor: Tensor) -> Tensor:
        """``tensor`` thinned as the recorded one was, so that both can be compared."""
        return thin(tensor, self.meta.get(name, ""))


def thin(tensor: Tensor, rule: str) -> Tensor:
    """Apply a rule such as "subsampled [::7] along dim 2; then flattened C order [::3]"."""
    for step in filter(None, rule.split(";")):
        stride = int(re.search(r"\[::(\d+)\]", step)[1])
        along = re.search(r"along dim (\d+)", step)
        if along:
            tensor = tensor.movedim(int(along[1]), 0)[::stride].movedim(0, int(along[1]))
        else:
            tensor = tensor.flatten()[::stride]
    return tensor


def entries(module: nn.Module, prefix: str = "") -> list[list]:
    """[name, shape, dtype, whether it learns] of each entry of a state dict, "buffer" for what is no parameter; as recorded."""
    learns = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    state = module.state_dict()
    return [[prefix + k, list(v.shape), str(v.dtype).removeprefix("torch."), learns.get(k, "buffer")] for k, v in state.items()]


class Prefixed(Recorded):
    """Golden files of one model under the names of the extract."""

    def __init__(self, source: Recorded, prefix: str) -> None:
        self.arrays = {prefix + k: v for k, v in source.arrays.items()}
        self.meta = {prefix + k: v for k, v in source.meta.items()}
