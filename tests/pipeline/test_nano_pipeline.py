"""Checkpoint -> ONNX -> verification -> engine through the command lines, with the nano model on a tiny synthetic world.

Weights follow the rule of tests/helpers/weights.py, and thresholds are set so that a few tracks are born, carried and lost: an
empty scene would let any graph pass.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from helpers import REPO
from helpers.nano_pipeline import export, one_line_error, options, run
from helpers.specs import config_path
from uniad.canary.catalog import KINDS
from uniad.canary.graphs import Micro
from uniad.files import sha256

pytestmark = pytest.mark.slow
FRAMES = 12  # two scenes of six: the state is fed back, and a scene begins in the middle


@pytest.fixture(scope="module", params=["gridsample"])  # both ways are taken for the whole step, in test_stage2_pipeline
def exported(request: pytest.FixtureRequest, work: Path) -> Path:
    out = work / request.param / "nano.onnx"
    result = export(work, out, "--sampling", request.param, "--frames", FRAMES)
    assert result.returncode == 0, result.stderr
    assert result.stderr == "", "a person who exports wants no warnings of the exporter's own"
    assert len(result.stdout.splitlines()) == 3, result.stdout
    return out


def test_an_export_is_a_graph_with_card_and_sequence_and_tells_nothing_of_this_machine(exported: Path) -> None:
    names = {p.name for p in exported.parent.iterdir()}
    assert names >= {"nano.onnx", "nano.onnx.json", "nano.sequence.npz"}
    assert not any(name.endswith(".partial") or ".partial." in name for name in names)
    card = json.loads(Path(f"{exported}.json").read_text())
    assert (card["variant"], card["stage"], card["opset"], card["sequence_frames"]) == ("nano", 1, 17, FRAMES)
    assert card["sampling"] == exported.parent.name
    graph = onnx.load(exported)
    used = {node.op_type for node in graph.graph.node}
    assert ("GridSample" in used) == (card["sampling"] == "gridsample")
    assert [i.name for i in graph.graph.input] == [i["name"] for i in card["contract"]["inputs"]]
    content = exported.read_bytes()
    for path in {str(REPO), str(Path.home()), sys.prefix, "site-packages", ".py"} - {"/"}:
        assert path.encode() not in content, f"the graph carries {path}"


def test_tracks_are_born_carried_and_lost_in_the_recorded_sequence(exported: Path) -> None:
    with np.load(exported.parent / "nano.sequence.npz") as z:
        active = [z[f"f{i}/out/active"][0] != 0 for i in range(FRAMES)]
        ids = [set(z[f"f{i}/out/obj_id"][0][a].tolist()) for i, a in enumerate(active)]
        starts = [bool(z[f"f{i}/scene_start"][0]) for i in range(FRAMES)]
    assert starts == [i in (0, 6) for i in range(FRAMES)]
    within = [(a, b) for a, b, begins in zip(ids, ids[1:], starts[1:]) if not begins]
    assert all(a & b for a, b in within), "no track lives on"
    assert any(b - a for a, b in within), "no track is born after the first frame"
    assert any(a - b for a, b in within), "no track is lost"


def test_onnxruntime_and_torch_agree_over_fed_back_frames(exported: Path) -> None:
    result = run("verify.py", exported, "--backend", "torch,onnxruntime")
    assert result.returncode == 0, result.stdout + result.stderr
    reports = json.loads(Path(f"{exported}.verify.json").read_text())
    assert [r["backend"] for r in reports] == ["torch", "onnxruntime"]
    for report in reports:
        assert report["ok"] and report["frames"] == FRAMES and report["tracks"] > FRAMES
        assert report["worst"]["boxes_m"] <= 1e-3 and report["worst"]["ids"] == 0


def test_every_operator_of_an_export_is_in_a_canary(exported: Path) -> None:
    held: set[str] = set()
    for name, kind in KINDS.items():
        graph = Micro(name, kind.opset)
        kind.make(graph)
        held |= {node.op_type for node in graph.nodes}
    assert {node.op_type for node in onnx.load(str(exported)).graph.node} <= held


def test_an_engine_carries_the_interface_of_its_onnx(work: Path, exported: Path) -> None:
    if exported.parent.name != "gridsample":
        pytest.skip("one engine proves the way; gather is verified above")
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: make env installs it")
    engine = exported.parent / "nano.engine"
    result = run("build_engine.py", exported, "--out", engine, "--backend", "tensorrt_rtx")
    assert result.returncode == 0, result.stderr
    card, source = (json.loads(Path(f"{p}.json").read_text()) for p in (engine, exported))
    assert card["contract"] == source["contract"] and card["onnx_sha256"] == source["sha256"]
    assert engine.stat().st_size == card["bytes"] > 0
    canaries = card["canaries"]
    if canaries["not_run"]:  # no GPU here
        assert canaries["not_run"] == "this machine has no GPU" and canaries["right"] == 0 and canaries["built"] > 20
        assert "not run: this machine has no GPU" in result.stdout and "note: " not in result.stdout
    assert "broken" not in canaries and {"attention", "deformable_attention_gridsample"} <= set(canaries["concerned"])
    one_line_error(run("build_engine.py", exported, "--out", work / "bad" / "x.engine", "--backend", "tensorrt_rtx",
                       "--compute-capabilities", "1.0"))  # fmt: skip
    assert not (work / "bad").exists()


@pytest.fixture
def copy(exported: Path, tmp_path: Path) -> Path:
    """An export of one's own to damage."""
    if exported.parent.name != "gridsample":
        pytest.skip("mistakes do not depend on the sampling")
    for name in ("nano.onnx", "nano.onnx.json", "nano.sequence.npz"):
        shutil.copy(exported.parent / name, tmp_path / name)
    return tmp_path / "nano.onnx"


def test_a_graph_that_was_changed_is_refused(copy: Path) -> None:
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    assert "digest differs" in one_line_error(run("verify.py", copy, "--backend", "onnxruntime"))
    assert "digest differs" in one_line_error(run("build_engine.py", copy, "--out", copy.with_suffix(".engine")))
    assert {p.name for p in copy.parent.iterdir()} == {"nano.onnx", "nano.onnx.json", "nano.sequence.npz"}


def test_a_graph_without_card_or_sequence_is_refused(copy: Path) -> None:
    (copy.parent / "nano.sequence.npz").unlink()
    assert "no recorded sequence" in one_line_error(run("verify.py", copy, "--backend", "onnxruntime"))
    Path(f"{copy}.json").unlink()
    assert "the card of nano.onnx is missing" in one_line_error(run("verify.py", copy, "--backend", "onnxruntime"))
    assert [p.name for p in copy.parent.iterdir()] == ["nano.onnx"]


def test_weights_of_another_training_fail_the_verification(work: Path, copy: Path) -> None:
    import torch

    other = torch.load(work / "nano.pth", weights_only=True)
    name = [k for k in other["state_dict"] if k.startswith("pts_bbox_head.reg_branches.") and k.endswith(".bias")][-1]
    other["state_dict"][name] = other["state_dict"][name] + 0.05
    torch.save(other, copy.parent / "other.pth")
    result = run("verify.py", copy, "--backend", "torch", "--checkpoint", copy.parent / "other.pth")
    assert result.returncode == 1 and "FAIL" in result.stdout


@pytest.mark.long
def test_a_refitted_export_is_to_the_byte_what_a_fresh_one_is(work: Path, exported: Path, tmp_path: Path) -> None:
    import torch

    refitted, fresh = tmp_path / "refit" / exported.name, tmp_path / "fresh" / exported.name
    shutil.copytree(exported.parent, refitted.parent)
    other = torch.load(work / "nano.pth", weights_only=True)
    noise = torch.Generator().manual_seed(0)
    for value in other["state_dict"].values():
        if value.is_floating_point():
            value += 1e-4 * value.std(correction=0) * torch.randn(value.shape, generator=noise)
    torch.save(other, tmp_path / "other.pth")
    exports = {"checkpoint": tmp_path / "other.pth"}
    gone = {f"data.{split}.data_root": tmp_path / "gone" for split in ("train", "val", "test")}  # it needs no data set
    result = export(work, refitted, "--refit", **exports, **gone)
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert [f"verified in {backend}" in result.stdout for backend in ("torch", "onnxruntime")] == [True, True]
    assert export(work, fresh, "--frames", FRAMES, **exports).returncode == 0
    for name in ("nano.onnx", "nano.weights.onnx", "nano.sequence.npz"):
        assert (refitted.parent / name).read_bytes() == (fresh.parent / name).read_bytes(), name
    cards = [json.loads(Path(f"{path}.json").read_text()) for path in (refitted, fresh, exported)]
    for card in cards:
        del card["config_options"], card["config_values"]
    assert cards[0] == cards[1] != cards[2] and cards[0]["weights_record"]["untraced"] == []
    assert exported.read_bytes() != refitted.read_bytes()


def test_a_refit_that_cannot_be_leaves_the_export_as_it_was(work: Path, exported: Path, tmp_path: Path) -> None:
    import torch

    out = tmp_path / "refit" / exported.name
    shutil.copytree(exported.parent, out.parent)
    before = {path.relative_to(out.parent): path.read_bytes() for path in out.parent.rglob("*") if path.is_file()}
    assert "model.track.score_thresh=0.88, here it is 0.5" in one_line_error(
        export(work, out, "--refit", **{"model.score_thresh": 0.5})
    )
    assert "has sequence_frames 12, asked for is 3" in one_line_error(export(work, out, "--refit", "--frames", 3))
    assert "has sampling gridsample, asked for is gather" in one_line_error(export(work, out, "--refit", "--sampling", "gather"))
    broken = torch.load(work / "nano.pth", weights_only=True)
    broken["state_dict"]["query_embedding.weight"].fill_(float("nan"))
    torch.save(broken, tmp_path / "broken.pth")
    assert "not finite" in one_line_error(export(work, out, "--refit", checkpoint=tmp_path / "broken.pth"))
    assert {path.relative_to(out.parent): path.read_bytes() for path in out.parent.rglob("*") if path.is_file()} == before

    record = onnx.load(out.parent / "nano.weights.onnx")  # one that is wrong: two weights of a kind are taken for each other
    first, second = (next(n for n in record.graph.node if n.input[:] == [f"pts_bbox_head.transformer.decoder.layers.0.{name}"])
                     for name in ("norms.0.bias", "norms.1.bias"))  # fmt: skip
    first.input[0], second.input[0] = second.input[0], first.input[0]
    onnx.save(record, out.parent / "nano.weights.onnx")
    assert "digest differs" in one_line_error(export(work, out, "--refit"))
    card = json.loads(Path(f"{out}.json").read_text())
    card["weights_record"]["sha256"] = sha256(out.parent / "nano.weights.onnx")
    Path(f"{out}.json").write_text(json.dumps(card))
    before = {path.relative_to(out.parent): path.read_bytes() for path in out.parent.rglob("*") if path.is_file()}
    assert "wrong in onnxruntime" in one_line_error(export(work, out, "--refit"))
    assert {path.relative_to(out.parent): path.read_bytes() for path in out.parent.rglob("*") if path.is_file()} == before
    (out.parent / "nano.weights.onnx").unlink()
    assert "no record of its weights" in one_line_error(export(work, out, "--refit"))


def test_a_checkpoint_of_another_variant_is_refused_and_nothing_is_written(work: Path, tmp_path: Path) -> None:
    import torch

    wrong = torch.load(work / "nano.pth", weights_only=True)
    wrong["state_dict"]["pts_bbox_head.bev_embedding.weight"] = torch.zeros(2500, 256)
    torch.save({"state_dict": wrong["state_dict"]}, tmp_path / "tiny.pth")
    message = one_line_error(export(work, tmp_path / "out" / "nano.onnx", checkpoint=tmp_path / "tiny.pth"))
    assert "is this a tiny checkpoint?" in message
    assert not (tmp_path / "out").exists()


def test_a_missing_image_is_named_and_nothing_is_written(work: Path, tmp_path: Path) -> None:
    (tmp_path / "world").mkdir()
    for entry in os.scandir(work / "world"):
        if entry.name != "samples":
            os.symlink(entry.path, tmp_path / "world" / entry.name)
    roots = {f"data.{split}.data_root": tmp_path / "world" for split in ("train", "val", "test")}
    result = export(work, tmp_path / "out" / "nano.onnx", **roots)
    assert "CAM_FRONT" in one_line_error(result)
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_a_rig_that_sees_more_than_the_graph_has_room_for_is_refused(work: Path, tmp_path: Path) -> None:
    content = pickle.loads((work / "infos" / "nuscenes_infos_temporal_val.pkl").read_bytes())
    for info in content["infos"]:
        for camera in info["cams"].values():  # a third of the focal length: everybody sees nearly half of the world
            camera["cam_intrinsic"] = np.diag([0.3, 0.3, 1.0]) @ camera["cam_intrinsic"] + [[0, 0, 560], [0, 0, 315], [0, 0, 0]]
    wide = tmp_path / "wide.pkl"
    wide.write_bytes(pickle.dumps(content))
    message = one_line_error(export(work, tmp_path / "out" / "nano.onnx", **{"data.test.ann_file": wide}))
    assert str(wide) in message
    advice = re.search(r"native\.sca_capacity=([0-9.]+) in the config", message)
    assert advice
    assert not (tmp_path / "out").exists()

    def draw(**more: object) -> subprocess.CompletedProcess:
        chosen = options(work, **{"data.test.ann_file": wide, **more})
        return run(
            "visualize.py", config_path("nano").relative_to(REPO), work / "nano.pth", "--frame", 1,
            "--out", tmp_path / "out" / "a.png", *chosen,
        )  # fmt: skip

    assert one_line_error(draw()) == message, "every tool that runs the step on a data set refuses alike"
    assert not (tmp_path / "out").exists()
    result = draw(**{"native.sca_capacity": advice[1]})
    assert result.returncode == 0, result.stderr


def test_fixed_clips_give_the_same_losses_for_the_same_weights_and_others_for_others(work: Path) -> None:
    """Without that two numbers of it would not say whether a training learnt."""
    out, config = work / "held.json", config_path("nano").relative_to(REPO)
    words = [config, work / "nano.pth", work / "nano.pth", "--start", "none", "--clips", 2, "--out", out, "--device", "cpu"]
    result = run("held_loss.py", *words, *options(work))
    assert result.returncode == 0 and result.stderr == "", result.stderr
    content = json.loads(out.read_text())
    random, first, second = content["checkpoints"]
    assert first["losses"] == second["losses"] != random["losses"] and first["loss"] > 0
    assert (random["checkpoint"], random["step"], content["clips"], content["learnt"]) == ("none", 0, 2, ["track", "map"])
    assert first["loss"] == pytest.approx(first["track"] + first["map"]) and "track.frame_0_loss_cls_0" in first["losses"]
    assert np.mean(first["each"]) == pytest.approx(first["loss"]) and len(first["each"]) == 2
    before = out.read_bytes()
    gone = ["--start", work / "gone.pth"]
    for more, output in ((["--clips", 99], "fewer than the 99 clips"), (gone, "gone.pth: no such checkpoint")):
        assert output in one_line_error(run("held_loss.py", *words, *more, *options(work)))
    assert out.read_bytes() == before
