"""Canaries on a device: over ssh, from a bundle, before an engine, and what a faulty trtexec makes of them."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path

import pytest

from helpers.command_line import refused
from helpers.faulty_backends import FAULTS
from uniad.canary import catalog, sets
from uniad.errors import UserError
from uniad.jetson import ondevice
from uniad.jetson.build import build_here, canary_bundle
from uniad.jetson.bundle import DeviceOptions

QUICK = DeviceOptions(iterations=1, seconds=0)


@pytest.fixture
def all_canaries(few_canaries: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "KINDS", catalog.KINDS)


@pytest.fixture
def deformable(few_canaries: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary whose fault the stand-in can be told, the one that avoids it, and one more. They concern the toy."""
    kinds = {n: catalog.KINDS[n] for n in ("deformable_attention_gridsample", "deformable_attention_gather", "operators_shape")}
    monkeypatch.setattr(sets, "KINDS", kinds)
    import uniad.jetson.bundle as bundle

    monkeypatch.setattr(bundle, "concerned", lambda facts: ["deformable_attention_gridsample"])


def test_an_engine_is_built_where_canaries_are_right_and_its_card_says_so(toy: Path, stand_in, tmp_path: Path) -> None:
    lines: list[str] = []
    engine = tmp_path / "out" / "toy.engine"
    card = build_here(toy, engine, QUICK, say=lines.append)
    assert card["canaries"]["right"] == 2 and card["canaries"]["version"] == "10.3.0" and card["canaries"]["not_run"] is None
    assert json.loads(Path(f"{engine}.json").read_text())["canaries"] == card["canaries"]
    assert any(line.startswith("canaries: trtexec 10.3.0") and line.endswith("2 right") for line in lines)
    stand_in.calls()
    build_here(toy, engine, QUICK, say=lines.append)
    assert sum("2 right (as found before)" in line for line in lines) == 1, lines
    assert len(stand_in.builds()) == 1, "the engine alone"
    stand_in.behave(version=100500)
    build_here(toy, engine, QUICK, say=lines.append)
    assert len(stand_in.builds()) == 3, "another TensorRT is asked anew"


def test_a_broken_canary_of_this_graph_stops_the_build(deformable: None, toy: Path, stand_in, tmp_path: Path) -> None:
    stand_in.behave(version=101400, nearest=True)
    with pytest.raises(UserError, match="computes wrong: deformable attention by GridSample.*takes the nearest cell") as error:
        build_here(toy, tmp_path / "out" / "toy.engine", QUICK, say=lambda line: None)
    assert "EXPORT_SAMPLING=gather avoids it, CANARY=0 builds it all the same" in str(error.value)
    assert not list((tmp_path / "out").glob("*.engine*")) and len(stand_in.builds()) == 3, "nothing large was built"


def test_a_broken_canary_of_other_graphs_is_said(
    deformable: None, toy: Path, stand_in, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import uniad.jetson.bundle as bundle

    monkeypatch.setattr(bundle, "concerned", lambda facts: ["operators_shape"])
    stand_in.behave(version=101400, nearest=True)
    lines: list[str] = []
    card = build_here(toy, tmp_path / "toy.engine", QUICK, say=lines.append)
    assert list(card["canaries"]["broken"]) == ["deformable_attention_gridsample"]
    assert any(line.startswith("note: deformable attention by GridSample") and "does not hold it" in line for line in lines)


def test_a_builder_that_is_killed_is_told_from_one_that_refuses(deformable: None, toy: Path, stand_in, tmp_path: Path) -> None:
    stand_in.behave(crash="deformable_attention_gridsample")
    with pytest.raises(UserError, match="ends the builder: trtexec was ended by signal 11"):
        build_here(toy, tmp_path / "toy.engine", QUICK, say=lambda line: None)


@pytest.mark.slow
def test_all_canaries_from_a_bundle_of_their_own(all_canaries: None, stand_in, tmp_path: Path, capsys) -> None:
    stand_in.behave(version=101400, nearest=True)
    canary_bundle(tmp_path / "canaries.bundle.tar", None, say=lambda line: None)
    with tarfile.open(tmp_path / "canaries.bundle.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    done = subprocess.run(["sh", tmp_path / "canaries.bundle/run.sh", "canary"], capture_output=True, text=True, check=False)
    wrong = {line.partition(":")[0] for line in done.stdout.splitlines() if ": broken" in line}
    assert wrong == FAULTS["deformable attention of 10.14"].wrong, done.stdout
    assert "canaries: trtexec 10.14.0" in done.stdout and "21 right, 4 broken, 2 refused" in done.stdout, done.stdout
    assert done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    done = subprocess.run(["sh", tmp_path / "canaries.bundle/run.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "a bundle of canaries, without a graph to build: sh run.sh canary" in done.stderr


@pytest.mark.slow
def test_canaries_over_ssh(tree, device) -> None:
    command = ["canary" if word == "jetson-engine" else word for word in tree.command("CANARY_ARGS=--only grid_sample,top_k")]
    done = subprocess.run(command, cwd=tree.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tree.root / "outputs/canary/jetson/report.json").read_text())
    assert report["passed"] and report["report"] == "canary" and report["subject"]["version"] == "10.3.0"
    kept = device.left()
    assert len([name for name in kept if name.startswith("engines/canary/trtexec-10.3.0")]) == 1 and len(kept) == 1
    assert len(device.trtexec.builds()) == 2
    device.trtexec.behave(crash="top_k")
    done = subprocess.run(command, cwd=tree.root, capture_output=True, text=True, check=False)
    assert "TopK (top_k) ends the builder: trtexec was ended by signal 11" in done.stdout, done.stdout + done.stderr
    assert device.left() == kept, "the same device, and nothing else is left"


def test_a_bundle_without_canaries_builds_and_says_so(toy: Path, stand_in, tmp_path: Path) -> None:
    from uniad.jetson.bundle import write_bundle

    plan = write_bundle(toy, tmp_path / "b", DeviceOptions(iterations=1, seconds=0, canary=False))
    assert "canaries" not in ondevice.run(tmp_path / "b", plan, say=lambda line: None) and len(stand_in.builds()) == 1
    with pytest.raises(UserError, match="made with CANARY=0"):
        ondevice.run_canaries(tmp_path / "b", plan)


def test_bad_input_of_the_tool_is_one_line(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert "choose onnxruntime, tensorrt" in refused("tools/canary.py", "--backend", "cuda", "--out", out)
    (tmp_path / "x.onnx").write_bytes(b"none")
    words = ("tools/canary.py", "--backend", "onnxruntime", "--out", out)
    assert "not a readable ONNX graph" in refused(*words, "--onnx", tmp_path / "x.onnx")
    assert "no canary is called 'sample': choose among grid_sample," in refused(*words, "--only", "sample,top_k")
    assert not out.exists()
