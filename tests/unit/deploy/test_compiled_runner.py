"""The runner whose state stays on the device says what the plain one says; eager here, compiled where there is a GPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from uniad.build import build_model
from uniad.deploy.compare import TOLERANCES
from uniad.deploy.compiled_runner import CompiledRunner
from uniad.deploy.runner import TorchRunner
from uniad.deploy.runtime import Runtime
from uniad.errors import UserError
from uniad.training.checkpoint import load_checkpoint

COMPARED = ("boxes", "obj_id", "active", "map_lanes", "occ_seg", "plan_traj")


@pytest.fixture(scope="module")
def make_model(nano, spec):
    def make():
        model = build_model(spec).eval()
        load_checkpoint(model, nano.checkpoint, name=spec.name, say=None)
        return model

    return make


@pytest.fixture(scope="module")
def plain(contract, make_model):
    with TorchRunner(contract, make_model()) as runner:
        yield runner


@pytest.fixture(scope="module")
def resident(contract, make_model):
    with CompiledRunner(contract, make_model(), precision="fp32", way="eager", device="cpu") as runner:
        yield runner


def same(got, want, names=COMPARED) -> None:
    for name in names:
        np.testing.assert_array_equal(got[name], want[name], err_msg=name)


def test_it_says_what_the_plain_one_says_scene_after_scene(plain, resident, feeds) -> None:
    for _ in range(2):
        plain.reset()
        resident.reset()
        kept = []
        for feed in feeds:
            kept.append((resident.step(feed), plain.step(feed)))
        for got, want in kept:  # after the last: no frame wrote over what an earlier one had said
            same(got, want)


def test_its_state_can_be_read_and_written_at_any_time(plain, resident, feeds) -> None:
    for runner in (plain, resident):
        runner.reset()
        runner.step(feeds[0])
    assert resident.state.keys() == plain.state.keys()
    same(resident.state, plain.state, plain.state)
    for runner in (plain, resident):
        runner.state["state_pos"] = runner.state["state_pos"] + np.float32(3.0)
    got, want = (runner.step(feeds[1]) for runner in (resident, plain))
    same(got, want)
    plain.reset()
    plain.step(feeds[0])
    assert not np.array_equal(plain.step(feeds[1])["plan_traj"], want["plan_traj"]), "three metres mattered"


def test_the_bare_graph_takes_and_gives_the_state(plain, resident, feeds, contract) -> None:
    state = contract.initial_state()
    for feed in feeds[:2]:
        got, want = (runner.infer({**feed, **state}) for runner in (resident, plain))
        assert got.keys() == want.keys()
        same(got, want, got)
        state = contract.carry(got)


def test_frames_that_do_not_fit_are_refused_before_anything_runs(resident, feeds, contract) -> None:
    with pytest.raises(ValueError, match="img is missing"):
        resident.step({name: value for name, value in feeds[0].items() if name != "img"})
    with pytest.raises(ValueError, match="lidar2img is float64"):
        resident.step({**feeds[0], "lidar2img": feeds[0]["lidar2img"].astype(np.float64)})
    with pytest.raises(RuntimeError, match="context manager"):
        CompiledRunner(contract, resident.model).step(feeds[0])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_is_one_line(nano) -> None:
    with pytest.raises(UserError, match="backend compiled records the step on a GPU; on the CPU use torch or onnxruntime"):
        Runtime.open(nano.checkpoint, backend="compiled", config=nano.config, options=nano.options)


@pytest.mark.device
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_it_is_compiled_and_near_the_plain_one(contract, make_model, plain, feeds) -> None:
    plain.reset()
    with CompiledRunner(contract, make_model()) as runner:
        for feed in feeds:
            far = runner.step(feed)["plan_traj"] - plain.step(feed)["plan_traj"]
            assert np.linalg.norm(far, axis=-1).mean() < TOLERANCES["fp16"].plan_mean_m
