"""A wrong engine of trtexec is traced by the command that its failed build names; so is a graph of onnxruntime's, at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from helpers.command_line import ran, refused, tool
from helpers.jetson_device import StandIn
from uniad.bisect.recorded import locate_fault
from uniad.engines.base import BuildOptions


def trace(toy: Path):
    return locate_fault(toy, BuildOptions(backend="trtexec"), say=lambda line: None)


@pytest.mark.parametrize("version", [8502, 100300])
def test_a_wrong_engine_of_trtexec_is_traced_to_its_operator(toy: Path, stand_in: StandIn, version: int):
    stand_in.behave(version=version, wrong=True)
    found = trace(toy)
    assert (found.verdict, found.tensor, found.op_type, found.frame) == ("located", "boxes", "Add", 0)
    assert list(found.inputs) == ["moved"] and found.inputs["moved"].rms < 1e-5
    assert "wrong even by itself" in found.reason
    assert len(stand_in.builds()) == found.probes, "every probe is a build, and no build is for nothing"


def test_an_engine_that_is_right_is_told_so(toy: Path, stand_in: StandIn):
    assert trace(toy).reason == "nothing departs: trtexec agrees with the reference in 2 frames"


def test_a_build_that_fails_its_verification_names_the_command_that_locates(toy: Path, stand_in: StandIn, tmp_path: Path):
    stand_in.behave(wrong=True)
    words = ("tools/build_engine.py", toy, "--out", tmp_path / "toy.engine", "--backend", "trtexec", "--no-canary")
    line = refused("env", f"TRTEXEC={stand_in.path}", sys.executable, *words)
    assert f"tools/locate.py {toy} --backend trtexec --precision fp32" in line
    assert not list(tmp_path.glob("toy.engine*"))


def spoil(toy: Path, out: Path) -> Path:
    """Another version of the toy: it adds what it sees twice."""
    model = onnx.load(str(toy))
    model.graph.initializer.append(numpy_helper.from_array(np.float32(2.0).reshape(()), "two"))
    nodes = list(model.graph.node)
    place = next(i for i, node in enumerate(nodes) if "moved" in node.output)
    nodes[place].output[0] = "moved_once"
    nodes.insert(place + 1, helper.make_node("Mul", ["moved_once", "two"], ["moved"], name="glue/Twice"))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, str(out))
    return out


def test_another_version_of_a_graph_is_held_against_it(toy: Path, tmp_path: Path):
    other, out = spoil(toy, tmp_path / "other.onnx"), tmp_path / "found.json"
    code, printed, err = ran("tools/locate.py", toy, "--candidate", other, "--out", out)
    assert code == 1, err
    assert json.loads(out.read_text())["tensor"] == "moved"


def test_verify_says_at_once_that_a_recording_is_at_fault_and_can_be_told_not_to(own_toy: Path, capsys, monkeypatch):
    path = own_toy.with_suffix(".sequence.npz")
    arrays = dict(np.load(path))
    arrays["f0/out/boxes"] = arrays["f0/out/boxes"] + np.float32(0.01)
    with open(path, "wb") as handle:
        np.savez_compressed(handle, **arrays)
    code, printed, err = ran("tools/verify.py", own_toy, "--backend", "onnxruntime")
    assert code == 1 and "the export or the recording is at fault" in err and "frame 0: boxes differs" in err
    code, printed, err = ran("tools/verify.py", own_toy, "--backend", "onnxruntime", "--locate", "never")
    assert code == 1 and "at fault" not in err
    command = f"to find the first tensor that departs: tools/locate.py {own_toy} --backend onnxruntime"
    assert command in err
    # neither does it where one replay takes minutes: the search takes many
    verify = tool("verify")
    monkeypatch.setattr(verify, "AT_ONCE_S", 0.0)
    monkeypatch.setattr(sys, "argv", ["verify.py", str(own_toy), "--backend", "onnxruntime"])
    assert verify.main() == 1
    err = capsys.readouterr().err
    assert command in err and "at fault" not in err


@pytest.mark.parametrize("words, hint", [
    (("--backend", "tvm"), "choose one of onnxruntime, tensorrt_rtx, tensorrt, trtexec"),
    (("--memory-mib", "0"), "should be at least 1"),
    (("--candidate", "absent.onnx"), "absent.onnx: no such file"),
])  # fmt: skip
def test_a_mistake_is_one_line(toy: Path, words: tuple[str, str], hint: str):
    assert hint in refused("tools/locate.py", toy, *words)


def test_a_converted_graph_without_its_source_is_one_line(converted_toy: Path, tmp_path: Path):
    for name in (converted_toy.name, f"{converted_toy.name}.json"):
        (tmp_path / name).write_bytes((converted_toy.parent / name).read_bytes())
    assert "was made from" in refused("tools/locate.py", tmp_path / converted_toy.name)


def test_a_converted_graph_is_held_against_the_one_it_was_made_from(converted_toy: Path, tmp_path: Path):
    code, printed, err = ran("tools/locate.py", converted_toy, "--out", tmp_path / "found.json")
    assert json.loads((tmp_path / "found.json").read_text())["precision"] == "fp16", err
    assert code == 0 and "nothing departs" in printed


def test_two_exports_of_one_checkpoint_are_compared_and_of_two_refused(toy: Path, own_toy: Path):
    code, printed, err = ran("tools/compare_sampling.py", toy, own_toy, "--out", own_toy.with_suffix(".both.json"))
    assert code == 0 and "boxes_m" in printed and own_toy.with_suffix(".both.json").exists(), err
    card = json.loads(Path(f"{own_toy}.json").read_text())
    Path(f"{own_toy}.json").write_text(json.dumps({**card, "checkpoint_sha256": "another"}))
    assert "its checkpoint is another" in refused("tools/compare_sampling.py", toy, own_toy)
