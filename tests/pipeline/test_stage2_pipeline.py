"""The end-to-end step from checkpoint to verified ONNX and engine, with the nano model on the synthetic world of the session.

Weights follow the rule of tests/helpers/weights.py, and thresholds are set so that agents live: without any the heads say
nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from helpers import REPO
from helpers.command_line import World, ran, refused
from helpers.specs import nano_spec
from helpers.stage2_work import EXPORT_CONFIG, Work
from uniad.files import sha256
from uniad.interface.contract import contract_for

pytestmark = pytest.mark.slow
FRAMES = 6  # the world's scene


@pytest.fixture(scope="module")
def work(world: World, tmp_path_factory: pytest.TempPathFactory) -> Work:
    return Work(tmp_path_factory.mktemp("stage2"), world)


@pytest.fixture(scope="module", params=["gridsample", "gather"])
def exported(request: pytest.FixtureRequest, work: Work) -> Path:
    out = work.folder / request.param / "uniad_nano_cp.onnx"
    code, printed, err = ran(*work.export(out, "--sampling", request.param, "--frames", FRAMES))
    assert code == 0 and err == "", err
    return out


def test_the_whole_step_leaves_as_one_plain_static_graph(exported: Path) -> None:
    card = json.loads(Path(f"{exported}.json").read_text())
    assert (card["variant"], card["stage"], card["opset"], card["sequence_frames"]) == ("nano", 2, 17, FRAMES)
    graph = onnx.load(exported).graph
    contract = contract_for(nano_spec(2))
    assert [i.name for i in graph.input] == contract.input_names
    assert [o.name for o in graph.output] == contract.output_names
    used = {node.op_type for node in graph.node}
    assert ("GridSample" in used) == (exported.parent.name == "gridsample")
    assert all(node.domain == "" for node in graph.node)


def test_the_card_says_what_the_graph_holds_and_what_comes_after_it(exported: Path, work: Work) -> None:
    card = json.loads(Path(f"{exported}.json").read_text())
    assert card["contract"]["occ_grid"]["xbound"] == [-50.0, 50.0, 2.0]
    assert card["anchors"] == f"{work.folder}/motion_anchor_infos_mode6.pkl" and len(card["anchors_sha256"]) == 64
    assert "not in the graph" in card["post_processing"]["collision_optimiser"]["what"]
    meaning = {e["name"]: e["meaning"] for e in (*card["contract"]["inputs"], *card["contract"]["outputs"])}
    assert "0 right, 1 left, 2 straight" in meaning["command"]
    assert "before any collision optimisation" in meaning["plan_traj"]


def test_agents_come_and_go_and_occupy_cells_in_the_recorded_sequence(exported: Path) -> None:
    with np.load(exported.with_suffix(".sequence.npz")) as z:
        ids = [set(z[f"f{i}/out/agent_id"][0][z[f"f{i}/out/agent_valid"][0] != 0].tolist()) - {-2} for i in range(FRAMES)]
        occ = np.stack([z[f"f{i}/out/occ_seg"] for i in range(FRAMES)])
        plans = np.stack([z[f"f{i}/out/plan_traj"] for i in range(FRAMES)])
    assert all(ids[1:]) and any(b - a for a, b in zip(ids, ids[1:])) and any(a - b for a, b in zip(ids, ids[1:]))
    assert 0.0 < occ.mean() < 1.0
    assert np.abs(np.diff(plans, axis=0)).max() > 1e-2, "the plan follows from what is seen"


def test_onnxruntime_and_torch_agree_on_the_future_over_fed_back_frames(exported: Path) -> None:
    code, printed, err = ran("tools/verify.py", exported, "--backend", "torch,onnxruntime")
    assert code == 0, printed + err
    for report in json.loads(Path(f"{exported}.verify.json").read_text()):
        worst = report["worst"]
        assert report["ok"] and report["tracks"] > FRAMES and worst["ids"] == 0
        assert worst["plan_m"] <= 1e-3 and worst["traj_m"] <= 1e-3 and worst["occ_cells"] <= 1e-3
    assert "before the collision optimiser" in printed


@pytest.mark.long
def test_weights_go_into_the_whole_step_and_out_again_to_the_byte(exported: Path, work: Work, tmp_path: Path) -> None:
    """Verified in between: what the other weights should have changed and did not would differ from PyTorch."""
    for source in exported.parent.glob("uniad_nano_cp.*"):
        shutil.copy(source, tmp_path)
    out, other = tmp_path / exported.name, torch.load(work.folder / "nano.pth", weights_only=True)
    noise = torch.Generator().manual_seed(0)
    for key, value in other["state_dict"].items():  # of stage 2's heads: what is fed back stays as exact as it was
        if value.is_floating_point() and key.startswith(("motion_head.", "occ_head.", "planning_head.")):
            value += 1e-4 * value.std(correction=0) * torch.randn(value.shape, generator=noise)
    torch.save(other, tmp_path / "other.pth")
    words = ("--sampling", exported.parent.name, "--refit")
    for checkpoint in (tmp_path / "other.pth", None):
        code, printed, err = ran(*work.export(out, *words, checkpoint=checkpoint))
        assert code == 0 and err == "" and "verified in onnxruntime" in printed, err
        assert (out.read_bytes() == exported.read_bytes()) == (checkpoint is None)
    for name in ("uniad_nano_cp.onnx.json", "uniad_nano_cp.weights.onnx", "uniad_nano_cp.sequence.npz"):
        assert (tmp_path / name).read_bytes() == (exported.parent / name).read_bytes(), name


@pytest.mark.long
def test_a_miscompiled_sample_of_the_whole_step_is_found_among_its_thousands_of_nodes(exported: Path, tmp_path: Path) -> None:
    if exported.parent.name != "gridsample":
        pytest.skip("gather has no GridSample to miscompile")
    bad = onnx.load(exported)
    node = [n for n in bad.graph.node if n.op_type == "GridSample"][4]
    next(a for a in node.attribute if a.name == "mode").s = b"nearest"
    onnx.save(bad, tmp_path / "bad.onnx")
    out = tmp_path / "found.json"
    code, printed, err = ran("tools/locate.py", exported, "--candidate", tmp_path / "bad.onnx", "--out", out)
    found = json.loads(out.read_text())
    assert code == 1, printed + err
    assert (found["verdict"], found["node"], found["op_type"]) == ("located", node.name, "GridSample")
    assert found["probes"] <= 10 and "is at fault" in found["reason"]


def test_both_ways_of_sampling_agree_along_one_recording(exported: Path) -> None:
    other = exported.parent.parent / "gridsample" / exported.name
    if other == exported or not other.is_file():
        pytest.skip("once both are there")
    code, printed, err = ran("tools/compare_sampling.py", other, exported)
    assert code == 0 and "gather - gridsample" in printed, printed + err


def test_a_plan_recorded_otherwise_fails_the_verification_and_is_named(exported: Path, tmp_path: Path) -> None:
    if exported.parent.name != "gridsample":
        pytest.skip("mistakes do not depend on the sampling")
    for source in exported.parent.glob("uniad_nano_cp.*"):
        shutil.copy(source, tmp_path)
    path = tmp_path / "uniad_nano_cp.sequence.npz"
    arrays = dict(np.load(path))
    arrays["f3/out/plan_traj"] = arrays["f3/out/plan_traj"] + np.float32(0.01)
    with open(path, "wb") as handle:
        np.savez_compressed(handle, **arrays)
    # recorded so: a file that was changed afterwards is refused by its digest
    card = tmp_path / "uniad_nano_cp.onnx.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "sequence_sha256": sha256(path)}))
    code, printed, err = ran("tools/verify.py", tmp_path / "uniad_nano_cp.onnx", "--backend", "onnxruntime")
    assert code == 1 and "frame 3: plan_traj differs by 0.0141" in err, err


@pytest.mark.long  # that of stage 1 is built in `make test`, with the same command
def test_an_engine_carries_the_interface_of_the_whole_step(exported: Path) -> None:
    if exported.parent.name != "gridsample":
        pytest.skip("one engine proves the way; gather is verified above")
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed: make env installs it")
    engine = exported.with_suffix(".engine")
    code, _, err = ran("tools/build_engine.py", exported, "--out", engine, "--backend", "tensorrt_rtx", "--no-canary")
    assert code == 0, err
    card, source = (json.loads(Path(f"{p}.json").read_text()) for p in (engine, exported))
    assert card["stage"] == 2 and card["contract"] == source["contract"] and card["onnx_sha256"] == source["sha256"]
    assert card["config_options"] == source["config_options"] != []


def test_a_checkpoint_of_stage_1_is_refused_in_one_line_and_nothing_is_written(work: Work, tmp_path: Path) -> None:
    state = torch.load(work.folder / "nano.pth", weights_only=True)["state_dict"]
    heads = ("motion_head.", "occ_head.", "planning_head.")
    torch.save({"state_dict": {k: v for k, v in state.items() if not k.startswith(heads)}}, tmp_path / "nano_track_map.pth")
    message = refused(*work.export(tmp_path / "out" / "a.onnx", checkpoint=tmp_path / "nano_track_map.pth"))
    assert "is of stage 1" in message and "stage-2 checkpoint" in message
    assert not (tmp_path / "out").exists()


def test_missing_anchors_are_refused_with_the_target_that_makes_them(work: Work, tmp_path: Path) -> None:
    options = [o if not str(o).startswith("anchor_root") else f"anchor_root={tmp_path}/none/" for o in work.options]
    message = refused("tools/export_onnx.py", EXPORT_CONFIG, work.folder / "nano.pth", "--out", tmp_path / "a.onnx", *options)
    assert "make anchors" in message
    assert os.listdir(tmp_path) == []


def test_the_upstream_script_takes_the_export_config(work: Work, tmp_path: Path) -> None:
    """CFG CKPT GPUS, as in upstream; the graph has upstream's name unless told otherwise."""
    out = tmp_path / "a.onnx"
    command = ["tools/uniad_export_onnx.sh", EXPORT_CONFIG.relative_to(REPO), work.folder / "absent.pth", 1, "--out", out]
    assert "absent.pth" in refused(*command, *work.options)
