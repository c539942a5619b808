"""Checkpoints go both ways between the stacks: ours can be read by torch 1.12 and mmcv, theirs by us."""

from __future__ import annotations

import pickletools
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from helpers.toy_training import ToyModel, run, toy_trainer
from uniad.training import checkpoint as C

# What torch 1.12 builds tensors of, and nothing that came later
KNOWN_TO_TORCH_1_12 = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Byte", "Bool")),
}


def pickled_globals(path):
    """Every class and function that the file names."""
    with zipfile.ZipFile(path) as archive:
        content = archive.read(next(name for name in archive.namelist() if name.endswith("/data.pkl")))
    found, words = set(), []
    for operation, argument, _ in pickletools.genops(content):
        if "UNICODE" in operation.name:
            words.append(argument)
        elif operation.name == "GLOBAL":
            found.add(argument)
        elif operation.name == "STACK_GLOBAL":
            found.add(" ".join(words[-2:]))
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A checkpoint that training wrote, with optimizer, schedule and random states."""
    outcome, _ = run(toy_trainer(tmp_path_factory.mktemp("run"), max_iters=2))
    return outcome.checkpoint


def test_ours_holds_only_what_torch_1_12_can_build(trained):
    assert pickled_globals(trained) <= KNOWN_TO_TORCH_1_12


def test_ours_has_what_mmcv_looks_for(trained):
    content = torch.load(trained, weights_only=True)
    assert set(content) >= {"meta", "state_dict", "optimizer"}
    assert isinstance(content["meta"]["epoch"], int) and content["meta"]["iter"] == 2
    assert content["meta"]["CLASSES"]
    assert set(content["state_dict"]) == set(ToyModel().state_dict())
    assert set(content["optimizer"]) == {"state", "param_groups"}


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_checkpoint_as_the_upstream_trainer_writes_it_gives_all_its_weights(tmp_path, prefix):
    wanted = ToyModel().state_dict()
    meta = {
        "epoch": 1, "iter": 1, "time": "Sun Nov 22", "mmcv_version": "1.5.0", "config": "model = dict()", "seed": None,
        "mmdet_version": "2.25.1", "env_info": "", "exp_name": "tiny.py", "hook_msgs": {"best": np.float64(0.1)},
        "CLASSES": ["car"], "PALETTE": None,
    }  # fmt: skip
    content = {
        "meta": meta,
        "state_dict": OrderedDict((prefix + name, value) for name, value in wanted.items()),
        "optimizer": torch.optim.AdamW(ToyModel().parameters()).state_dict(),
    }
    path = tmp_path / "epoch_1.pth"
    torch.save(content, path)
    model = ToyModel()
    report = C.load_checkpoint(model, path, say=None)
    assert not report.missing and not report.unexpected
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())
