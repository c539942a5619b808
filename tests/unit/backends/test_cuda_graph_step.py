"""The step with resident state: equal numbers over fed-back frames in fp32, near ones in bf16; the benchmark that times it."""

from __future__ import annotations

import runpy
import sys
from argparse import Namespace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers import REPO
from uniad.backends.cuda_graph import CudaGraphStep, compile_layers, parts
from uniad.backends.onnxruntime_step import OnnxRuntimeStep
from uniad.backends.torch import TorchRunner
from uniad.errors import UserError, run_cli
from uniad.interface.contract import Contract, MapMerge, Port

SCRIPT = REPO / "benchmarks" / "latency.py"
bench = SimpleNamespace(**runpy.run_path(str(SCRIPT)))


@pytest.fixture(scope="module")
def expected(spec, nano, contract, feeds) -> list[dict[str, np.ndarray]]:
    with TorchRunner(contract, bench.make_model(spec, str(nano.checkpoint))) as runner:
        return [runner.step(feed) for feed in feeds]


def replay(step: CudaGraphStep | OnnxRuntimeStep, frames) -> list[dict[str, np.ndarray]]:
    output = []
    for frame in frames:
        step.load(frame)
        step.run()
        output.append({name: value.clone().numpy() for name, value in step.outputs.items()})
    return output


def test_it_says_what_the_step_says_scene_after_scene(spec, nano, contract, frames, expected) -> None:
    step = CudaGraphStep(bench.make_model(spec, str(nano.checkpoint)), contract, device="cpu")
    for _ in range(2):
        step.reset()
        for got, want in zip(replay(step, frames), expected, strict=True):
            for name in ("boxes", "obj_id", "occ_seg", "plan_traj"):
                np.testing.assert_array_equal(got[name], want[name])
    assert not np.array_equal(replay(step, frames[1:2])[0]["plan_traj"], expected[1]["plan_traj"])  # a drive went on: no reset


def test_bf16_stores_weights_in_half_but_for_what_decides_centimetres(spec, nano, contract, frames, expected) -> None:
    step = CudaGraphStep(bench.make_model(spec, str(nano.checkpoint)), contract, "bf16", device="cpu")
    model = step.model
    assert model.img_backbone.conv1.weight.dtype == model.pts_bbox_head.cls_branches[-1][0].weight.dtype == torch.bfloat16
    assert "planning_head.reg_branch.0" in step.kept_fp32
    last = len(model.pts_bbox_head.reg_branches) - 1
    assert f"pts_bbox_head.reg_branches.{last}.4" in step.kept_fp32
    assert model.planning_head.reg_branch[0].weight.dtype == model.reference_points.weight.dtype == torch.float32
    off = replay(step, frames)[0]["plan_traj"] - expected[0]["plan_traj"]
    assert 0 < np.abs(off).max() < 0.5


def test_layers_compile_each_on_its_own(spec, nano) -> None:
    model = bench.make_model(spec, str(nano.checkpoint))
    count = compile_layers(model)
    compiled = {name for name, module in model.named_modules() if module._compiled_call_impl is not None}
    assert len(compiled) == count >= 20
    assert not [name for name in compiled if any(name.startswith(f"{other}.") for other in compiled)]


def test_parts_compile_each_as_one_graph_and_say_the_same(spec, nano, contract, frames, expected, monkeypatch) -> None:
    compiled = []

    def traced(call, options, **how):
        compiled.append(options)
        return compile_as_is(call, backend="eager", **how)  # whether it can be traced is what matters here

    compile_as_is = torch.compile
    monkeypatch.setattr(torch, "compile", traced)
    model = bench.make_model(spec, str(nano.checkpoint))
    step = CudaGraphStep(model, contract, mode="parts", device="cpu", compile_options={"x": 1})
    assert compiled == [{"x": 1}] * 11 and len(parts(step.model)) == 10
    for got, want in zip(replay(step, frames), expected, strict=True):
        for name in ("boxes", "obj_id", "occ_seg", "plan_traj"):
            np.testing.assert_array_equal(got[name], want[name])


def test_a_mode_is_timed_and_held_against_the_reference(spec, nano, contract, tmp_path) -> None:
    found, scenes = bench.store_frames(spec, contract, 2, tmp_path / "frames.pt")
    assert (found, scenes) == (2, 1)
    args = Namespace(frames=3, device="cpu", threads=1, work=tmp_path, checkpoint=str(nano.checkpoint), inductor=[])
    rows = {}
    for mode in ("eager-fp32", "eager-bf16"):
        rows[mode] = bench.run_mode(spec, contract, mode, Namespace(**vars(args), label=mode))
        got, want = (dict(np.load(tmp_path / f"{name}.npz")) for name in (mode, "eager-fp32"))
        rows[mode] |= bench.errors(got, want)
    assert rows["eager-fp32"]["plan_mse_m2"] == 0 and rows["eager-fp32"]["ids"] == 1 and rows["eager-fp32"]["tracks"] > 0
    assert 0 < rows["eager-bf16"]["plan_mse_m2"] < 0.1
    assert "occ_seg" in np.load(tmp_path / "eager-fp32.npz")
    text = bench.table({**rows, "ort-cuda": {"failed": "no such thing"}})
    assert len(text.splitlines()) == 5 and "| ort-cuda | no such thing |" in text


def test_errors_are_metres_and_shares_of_ids_and_objects() -> None:
    boxes = np.zeros((1, 3, 9))
    boxes[0, :, 0] = (0.0, 10.0, 30.0)
    want = {"plan_traj": np.zeros((1, 2, 2)), "obj_id": np.array([[3, 4, -1]]), "active": np.array([[True, True, False]]),
            "label": np.array([[0, 8, 0]]), "boxes": boxes}  # fmt: skip
    # object 4 is renamed to 5 in another row and 0.3 m off; object 3 is lost, and its id goes to something far away
    got = {**want, "plan_traj": want["plan_traj"] + [3.0, 4.0], "obj_id": np.array([[-1, 3, 5]]),
           "active": np.array([[False, True, True]]), "label": np.array([[0, 0, 8]]),
           "boxes": boxes[:, [0, 2, 1]] + 0.3}  # fmt: skip
    row = bench.errors(got, want)
    assert row["plan_l2_m"] == row["plan_worst_m"] == 5.0 and row["plan_mse_m2"] == 12.5
    assert row["tracks"] == 3 and row["ids"] == pytest.approx(1 / 3)
    assert row["objects"] == 0.5 and row["box_m"] == pytest.approx(0.3 * 2**0.5)


def test_onnxruntime_feeds_its_own_state_back(tmp_path) -> None:
    import onnx
    from onnx import TensorProto, helper

    shape = (1, 2)
    port = {name: Port(name, "", shape, "float32", "", initial=start) for name, start in (("x", 0), ("sum", 5), ("y", 0))}
    contract = Contract((port["x"],), (port["sum"],), (port["y"],), MapMerge(3, 0.5, 0.5))
    io = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "state_sum", "y", "next_sum")}
    nodes = [helper.make_node("Add", ["x", "state_sum"], ["y"]), helper.make_node("Identity", ["y"], ["next_sum"])]
    graph = helper.make_graph(nodes, "sum", [io["x"], io["state_sum"]], [io["y"], io["next_sum"]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "sum.onnx")
    step = OnnxRuntimeStep(contract, tmp_path / "sum.onnx", "cpu", threads=1)
    for _ in range(2):
        output = [frame["y"][0, 1] for frame in replay(step, [[torch.tensor([[0.0, x]])] for x in (1.0, 2.0, 3.0)])]
        assert output == [6.0, 8.0, 11.0]
        step.reset()
    with pytest.raises(UserError, match="has no TensorrtExecutionProvider"):
        OnnxRuntimeStep(contract, tmp_path / "sum.onnx", "tensorrt")


@pytest.mark.parametrize(
    ("argv", "output"),
    [
        (["--modes", "fast"], "unknown mode 'fast': choose eager-fp32"),
        (["--frames", "0"], "--frames 0: give a number from 1 on"),
        (["--onnx", "nowhere.onnx"], "nowhere.onnx: no such file"),
        (["--onnx", __file__, "--onnx", __file__], "two of --onnx are called test_cuda_graph_step"),
        (["--checkpoint", "nowhere.pth"], "nowhere.pth: no such file"),
        (["--inductor", "fast"], "--inductor 'fast': give KEY=JSON"),
        (["--data-root", "nowhere", "--info-root", "nowhere"], "nuscenes_infos_temporal_val.pkl does not exist"),
    ],
)
def test_bad_arguments_are_one_line(argv, output, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["latency.py", "--device", "cpu", "--variant", "nano", *argv])
    with pytest.raises(SystemExit) as stopped:
        run_cli(bench.main)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert output in error and error.count("\n") == 1
