"""The runner whose state stays on the device says what the plain one says; eager here, compiled where there is a GPU."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from uniad.backends.base import Runner
from uniad.backends.compiled import CompiledRunner
from uniad.backends.torch import TorchRunner, copy_weights
from uniad.deploy.runtime import Runtime
from uniad.deploy.sensors import Pose
from uniad.deploy.sources import DatasetFrames
from uniad.errors import UserError
from uniad.training.build import build_model
from uniad.training.checkpoint import load_checkpoint
from uniad.verify.tolerances import TOLERANCES

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
    with CompiledRunner(contract, make_model(), precision="fp32", mode="eager", device="cpu") as runner:
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
        for got, want in kept:  # after the last: no frame wrote over an earlier one's outputs
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


def nudged(model: nn.Module, seed: int = 0) -> nn.Module:
    """The same model after some more training."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1e-2 * parameter.std(correction=0) * torch.randn(parameter.shape, generator=noise)
    return model


def test_other_weights_in_place_are_those_of_a_fresh_runner(contract, make_model, feeds) -> None:
    """Where each weight lies stays: that is what a recording reads."""
    with (
        CompiledRunner(contract, make_model(), precision="fp32", mode="eager", device="cpu") as running,
        TorchRunner(contract, make_model()) as eager,
        TorchRunner(contract, nudged(make_model())) as fresh,
    ):
        lies = [value.data_ptr() for value in running.model.parameters()]
        first = running.step(feeds[0])
        wrong = nudged(make_model())
        wrong.pts_bbox_head.bev_embedding = nn.Embedding(3, 7)
        for runner in (running, eager):
            with pytest.raises(UserError, match=r"bev_embedding.weight is \[.*\] in the model that runs and \[3, 7\]"):
                runner.load_weights(wrong)
            del wrong.pts_bbox_head.bev_embedding
            with pytest.raises(UserError, match="bev_embedding.weight is .* in the model that runs and absent"):
                runner.load_weights(wrong)
            wrong.pts_bbox_head.bev_embedding = nn.Embedding(3, 7)
        running.reset()
        same(running.step(feeds[0]), first, first)
        for runner in (running, eager):  # in the middle of a scene, which ends here
            runner.load_weights(nudged(make_model()))
        assert [value.data_ptr() for value in running.model.parameters()] == lies
        for feed in feeds[:2]:
            want = fresh.step(feed)
            same(running.step(feed), want, want)
            same(eager.step(feed), want, want)
        assert not np.array_equal(first["boxes"], want["boxes"])
    with pytest.raises(UserError, match="refit its file"):
        Runner(contract).load_weights(None)


def test_weights_keep_the_type_and_layout_that_they_were_prepared_in() -> None:
    prepared, other = nn.Conv2d(4, 4, 3).half().to(memory_format=torch.channels_last), nn.Conv2d(4, 4, 3)
    copy_weights(prepared, other)
    assert prepared.weight.dtype == torch.float16 and prepared.weight.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(prepared.weight, other.weight.half()) and torch.equal(prepared.bias, other.bias.half())


MODES = [
    pytest.param(("fp32", "eager", "cpu"), id="cpu"),
    pytest.param(
        ("fp16", "parts", "cuda"),
        id="cuda",
        marks=[pytest.mark.device, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")],
    ),
]


@pytest.mark.parametrize("mode", MODES)
def test_a_refused_frame_changes_nothing_where_the_state_lies(contract, make_model, spec, mode, monkeypatch) -> None:
    """Refused before the step, in its midst, after it; on a scene's first frame and on later ones; with the state on the device
    and read to the host before. Good frames then give what they give alone, to the bit."""
    sensors = [record.sensors for record in DatasetFrames(spec.data).scene("0", 4)]
    with Runtime(CompiledRunner(contract, make_model(), *mode), spec) as runtime:
        runner = runtime.runner
        step, run = runner.step, runner._resident.run
        alone = [runtime.step(frame) for frame in sensors]

        def poisoned(feed):
            outputs = step(feed)
            bev = [port.name for port in contract.state].index("bev")
            runner._resident.state[bev].view(-1)[7] = float("nan")
            return outputs

        def interrupted_after(feed):
            step(feed)
            raise KeyboardInterrupt

        def interrupted_inside():
            run()
            for buffer in runner._resident.state:
                buffer.zero_()
            raise KeyboardInterrupt

        faults = [
            ("step", poisoned, UserError),
            ("step", interrupted_after, KeyboardInterrupt),
            ("run", interrupted_inside, KeyboardInterrupt),
        ]
        for read in (False, True):
            runtime.reset()
            for number, frame in enumerate(sensors):
                if read:
                    before = {name: value.copy() for name, value in runner.state.items()}
                with pytest.raises(UserError, match="position|plausible"):
                    runtime.step(replace(frame, ego2global=Pose([1e9, 0, 0], [1, 0, 0, 0])))
                for where, fault, kind in faults:
                    with monkeypatch.context() as patch, pytest.raises(kind):
                        patch.setattr(runner if where == "step" else runner._resident, where, fault)
                        runtime.step(frame)
                assert runner.is_finite()
                if read:
                    same(runner.state, before, before)
                result, want = runtime.step(frame), alone[number]
                np.testing.assert_array_equal(result.plan.raw, want.plan.raw, err_msg=f"frame {number}")
                np.testing.assert_array_equal(result.tracks.ids, want.tracks.ids)
                np.testing.assert_array_equal(result.tracks.boxes, want.tracks.boxes)


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
