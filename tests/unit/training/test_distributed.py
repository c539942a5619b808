"""Devices and processes: what this machine cannot do is said before anything starts."""

from __future__ import annotations

import pytest
import torch

from uniad.errors import UserError
from uniad.training import distributed


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((8, 6), ["sm_70", "sm_80"], True),  # machine code of the same generation
        ((9, 0), ["sm_80", "sm_86"], False),  # upstream's image on a Hopper GPU
        ((12, 0), ["sm_80", "compute_90"], True),  # intermediate code is compiled on the spot
        ((7, 0), ["sm_75", "compute_75"], False),  # too old
        ((9, 0), ["sm_90a"], True),
        ((8, 0), [], True),
    ],
)
def test_architectures_that_a_build_covers(capability, built_for, runs):
    assert distributed.runs_on(capability, built_for) == runs


def test_a_missing_gpu_is_never_replaced_by_the_cpu_in_silence():
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match="this PyTorch sees no GPU"):
        distributed.start("none", "cuda")
    assert distributed.start("none", "auto").device.type == "cpu"


def test_launchers_and_environment_must_agree(monkeypatch):
    with pytest.raises(UserError, match="needs RANK, WORLD_SIZE.* from torchrun: start with tools/uniad_dist_train.sh"):
        distributed.start("pytorch", "cpu")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--launcher is none: pass --launcher pytorch"):
        distributed.start("none", "cpu")


def test_a_world_of_one_needs_no_process_group():
    world = distributed.World(0, 1, 0, torch.device("cpu"))
    assert distributed.gather_objects(world, "x") == ["x"]
    assert distributed.mean_over_ranks(world, torch.ones(2)).tolist() == [1, 1]
    distributed.barrier(world)
    distributed.stop(world)


def test_a_mean_over_processes_is_no_sum_and_leaves_what_it_was_given(monkeypatch):
    """Of two processes that hold the same, as far as one of them sees it."""
    monkeypatch.setattr(distributed.dist, "all_reduce", lambda values: values.mul_(2))
    world = distributed.World(0, 2, 0, torch.device("cpu"))
    given = torch.tensor([3.0, 5.0], requires_grad=True)
    found = distributed.mean_over_ranks(world, given)
    assert found.tolist() == given.tolist() == [3, 5] and not found.requires_grad
    values = torch.tensor([3.0, 5.0])
    assert distributed.sum_over_ranks(world, values) is values and values.tolist() == [6, 10]
