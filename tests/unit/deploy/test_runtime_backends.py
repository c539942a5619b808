"""A scene through an exported graph: as through torch, and refused where file, card, config or device do not belong together."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.command_line import ran, refused, start
from helpers.waiting import eventually
from uniad.artifacts.card import write_card
from uniad.deploy.records import read_frame, read_summary
from uniad.deploy.runtime import Runtime
from uniad.deploy.sources import DatasetFrames
from uniad.errors import UserError

pytestmark = pytest.mark.slow


@pytest.fixture
def copy(onnx: Path, tmp_path: Path) -> Path:
    """An ONNX and card that a test may spoil."""
    for source in (onnx, Path(f"{onnx}.json")):
        shutil.copy(source, tmp_path)
    return tmp_path / onnx.name



def test_onnxruntime_says_what_torch_says_over_a_scene(onnx: Path) -> None:
    with Runtime.open(onnx) as ort, Runtime.open(f"{onnx}.json", "cpu", "torch") as eager:
        assert (ort.backend, eager.backend) == ("onnxruntime", "torch")
        scene = DatasetFrames(ort.spec.data).scene("0")
        tracked = 0
        for record in scene:
            one, two = ort.step(record.sensors), eager.step(record.sensors)
            assert set(one.tracks.ids.tolist()) == set(two.tracks.ids.tolist())
            np.testing.assert_allclose(one.plan.raw, two.plan.raw, atol=1e-3)
            assert (one.occupancy != two.occupancy).mean() <= 1e-3
            tracked += len(one.tracks)
        assert tracked > len(scene)


def test_the_command_infers_through_the_graph(onnx: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, output, err = ran("tools/infer.py", onnx, "--out", out, "--frames", 3, "--threads", 1)
    assert code == 0, err
    assert "p99" in output and "onnxruntime" in output
    summary = read_summary(out)
    assert summary["backend"] == "onnxruntime" and summary["frames"] == 3 and summary["finished"]
    read_frame(out / summary["scenes"][0]["folder"] / "0002.json", ("car", "truck", "construction_vehicle", "bus", "trailer",
               "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone"))  # fmt: skip


def test_ctrl_c_keeps_what_was_done_and_ends_as_a_shell_expects(onnx: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start("tools/infer.py", onnx, "--out", out, "--scene", "0", "--threads", 1)
    eventually(lambda: list(out.glob("*/0001.json")), 120, "no frame is done", process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 130 and "Traceback" not in err and "what was done is kept" in err
    summary = read_summary(out)
    assert not summary["finished"] and summary["frames"] >= 2
    assert not list(out.rglob("*.partial*"))
    assert json.loads((out / "detection.json").read_text())["results"]


def test_a_graph_changed_after_its_card_is_refused(copy: Path, tmp_path: Path) -> None:
    copy.write_bytes(copy.read_bytes() + b"\0")
    assert "changed after its card was written" in refused("tools/infer.py", copy, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_missing_card_is_refused(copy: Path, tmp_path: Path) -> None:
    Path(f"{copy}.json").unlink()
    assert "card of uniad_nano_cp.onnx is missing" in refused("tools/infer.py", copy, "--out", tmp_path / "out")


def test_a_config_with_another_interface_is_refused(copy: Path, nano) -> None:
    with pytest.raises(UserError, match="another interface"):
        Runtime.open(copy, options=["native.agent_capacity=7"])


def test_backends_and_devices_that_a_file_does_not_fit_are_refused(copy: Path) -> None:
    with pytest.raises(UserError, match="tensorrt runs an engine; `make engine ENGINE_BACKEND=tensorrt`"):
        Runtime.open(copy, backend="tensorrt")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="shows no GPU"):
            Runtime.open(copy, "cuda")


def test_an_engine_is_opened_by_what_it_was_built_for(copy: Path) -> None:
    engine = copy.with_name("nano.engine")
    engine.write_bytes(b"plan")
    card = json.loads(Path(f"{copy}.json").read_text())
    built = {"kind": "engine", "builder": "tensorrt_rtx", "builder_version": "1.5.0.114", "compute_capabilities": ["8.6"]}
    write_card(engine, {**card, **built})
    with pytest.raises(UserError, match="runs in tensorrt_rtx, not in tensorrt"):
        Runtime.open(engine, backend="tensorrt")
    with pytest.raises(UserError, match="for the CPU open the ONNX"):
        Runtime.open(engine, "cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="this machine has none"):
            Runtime.open(engine)


def test_an_engine_for_another_tensorrt_or_gpu_is_refused_before_it_is_loaded(copy: Path, monkeypatch) -> None:
    from uniad.backends import open as opening

    engine = copy.with_name("nano.engine")
    engine.write_bytes(b"plan")
    card = json.loads(Path(f"{copy}.json").read_text())
    card |= {"kind": "engine", "builder": "trtexec", "compute_capabilities": ["8.7"]}
    monkeypatch.setattr(opening, "this_device", lambda: {"model": "a GPU", "compute_capability": "8.6"})
    monkeypatch.setattr(opening, "load_package", lambda name: SimpleNamespace(__version__="10.3.0.26"))
    write_card(engine, {**card, "builder_version": "8.5.2"})
    with pytest.raises(UserError, match="built for trtexec 8.5.2, here is 10.3.0.26"):
        Runtime.open(engine)
    write_card(engine, {**card, "builder_version": "10.3"})
    with pytest.raises(UserError, match="compiled for GPUs of compute capability 8.7, this one has 8.6"):
        Runtime.open(engine)


def test_bad_arguments_get_one_line(onnx: Path, nano, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for arguments, message in (
        (("--frames", 0), "--frames 0"),
        (("--scene", 0, "--folder", tmp_path), "give one"),
        (("--scene", "scene-7777"), "is not in the val split"),
        (("--folder", tmp_path / "none"), "frames.json does not exist"),
        (("--cfg-options", "info_root=/nowhere/"), "/nowhere/"),
        (("--out", "/proc/results"), "/proc/results"),
    ):
        assert message in refused("tools/infer.py", onnx, "--out", out, *arguments)
        assert not out.exists()
