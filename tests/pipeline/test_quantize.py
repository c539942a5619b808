"""From an exported end-to-end nano to its int8 graph and what that costs, with a few frames of the synthetic world."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from helpers.command_line import World, ran, refused
from uniad.artifacts.card import read_card, sequence_path
from uniad.artifacts.graph import is_quantised
from uniad.precision.int8.candidates import find_layers, groups_of

pytestmark = [pytest.mark.slow, pytest.mark.long]
CONFIG = "projects/configs/stage2_e2e/nano_e2e_trt_p.py"
FEW = ("--scenes", 1, "--frames", 2, "--threads", 1)


@pytest.fixture(scope="module")
def exported(world: World, anchors: Path, nano_e2e_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, and a threshold that lets objects be tracked."""
    out = tmp_path_factory.mktemp("int8") / "nano.onnx"
    code, _, err = ran(
        "tools/export_onnx.py", CONFIG, nano_e2e_checkpoint, "--out", out, "--frames", 2, "--cfg-options",
        f"data_root={world.root}/", f"info_root={world.infos}/", f"anchor_root={anchors}/", "data.workers_per_gpu=0",
        "model.score_thresh=0.0105", "model.filter_score_thresh=0.01",
    )  # fmt: skip
    assert code == 0, err
    return out


@pytest.fixture(scope="module")
def kept(exported: Path) -> list[str]:
    """All but little: random weights make the rest settle on other objects, and looking for a choice takes minutes."""
    model = onnx.shape_inference.infer_shapes(onnx.load(str(exported)))
    return [group for group in groups_of(find_layers(model)) if not group.startswith(("img_backbone.layer1", "occ_head.dense"))]


@pytest.fixture(scope="module")
def quantised(exported: Path, kept: list[str]) -> Path:
    out = exported.with_name("nano_int8.onnx")
    code, output, err = ran("tools/quantize.py", exported, *FEW, "--keep", *kept)
    assert code == 0, output + err
    assert "layers in int8" in output
    return out


def test_the_int8_graph_has_a_card_that_says_what_it_was_made_of_and_what_it_keeps(quantised: Path, exported: Path, kept) -> None:
    card, source = read_card(quantised), read_card(exported)
    told = card["quantisation"]
    assert is_quantised(quantised) and not is_quantised(exported)
    assert card["precision"] == "int8" and told["source_sha256"] == source["sha256"] != card["sha256"]
    assert card["contract"] == source["contract"] and card["config"] == source["config"]
    assert told["calibration"]["frames"] == 2 and len(told["calibration"]["scenes"]) == 1
    assert len(told["calibration"]["sha256"]) == 64 and told["methods"].keys() == {"percentile", "entropy", "minmax"}
    assert told["method"] == min(told["methods"], key=lambda method: told["methods"][method]["strain"])
    assert set(told["kept"]) == set(kept) and {entry["why"] for entry in told["kept"].values()} == {"asked for"}
    low = {group for group, precision in card["precision_of_groups"].items() if precision == "int8"}
    assert low and low.isdisjoint(kept)
    assert 0 < told["macs_share"] < 1 and told["layers"] < told["candidates"]
    assert 0 < told["effect"]["plan_m"] <= told["tolerance"]["plan_mean_m"] == 0.02
    assert sequence_path(quantised).is_file()


def test_it_passes_the_verification_of_its_precision(quantised: Path) -> None:
    code, output, err = ran("tools/verify.py", quantised, "--backend", "onnxruntime", "--precision", "int8")
    assert code == 0, output + err


def test_both_are_scored_side_by_side(quantised: Path, exported: Path) -> None:
    code, output, err = ran("tools/compare_precision.py", exported, quantised, exported, "--threads", 1)
    assert code == 0, output + err
    itself = json.loads(Path(f"{exported}.metrics.json").read_text())
    assert itself["plans_apart_m"]["worst_frame"] == 0 and not any(row["difference"] for row in itself["differences"])
    report = json.loads(Path(f"{quantised}.metrics.json").read_text())
    assert [report[side]["precision"] for side in ("reference", "other")] == ["fp32", "int8"]
    assert {row["task"] for row in report["differences"]} == {
        "detection", "tracking", "map", "motion", "occupancy", "planning",
    }  # fmt: skip
    assert report["reference"]["sha256"] != report["other"]["sha256"]
    assert report["plans_apart_m"]["mean"] < 0.02 and report["plans_apart_m"]["frames"] == report["other"]["metrics"]["samples"]
    assert "planning" in output and "plans apart" in output


def test_one_report_has_no_room_for_two_graphs(exported: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    assert "is the report of one graph" in refused("tools/compare_precision.py", exported, exported, exported, "--out", out)
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "output"),
    [
        (("--scenes", 0), "the calibration set is empty"),
        (("--frames", 0), "the calibration set is empty"),
        (("--scenes", 99), "the train split has"),
        (("--keep", "img_head"), "layer group 'img_head' has no layer that int8 is for: choose from glue, img_backbone.stem"),
        (("--method", "mean"), "choose one of auto, percentile, entropy, minmax"),
        (("--percentile", 0), "percentile 0"),
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(exported: Path, tmp_path: Path, words: tuple, output: str) -> None:
    out = tmp_path / "out.onnx"
    assert output in refused("tools/quantize.py", exported, "--out", out, *words)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spoil", ["cut", "missing", "of another model"])
def test_a_recorded_sequence_that_cannot_be_read_is_one_line_and_writes_nothing(exported, tmp_path: Path, spoil: str) -> None:
    graph = tmp_path / "in" / "nano.onnx"
    graph.parent.mkdir()
    for path in (exported, Path(f"{exported}.json")):
        shutil.copy(path, graph.parent)
    if spoil == "cut":
        sequence_path(graph).write_bytes(sequence_path(exported).read_bytes()[:5000])
    elif spoil == "of another model":
        with np.load(sequence_path(exported)) as file:
            np.savez(sequence_path(graph), **{k: file[k] for k in file.files if not k.endswith("plan_traj")})
    output = refused("tools/quantize.py", graph, "--out", tmp_path / "out" / "o.onnx")
    assert "sequence.npz" in output and "make export" in output
    assert not (tmp_path / "out").exists()


def test_a_quantised_graph_is_not_quantised_again(quantised: Path, tmp_path: Path) -> None:
    assert "is quantised already" in refused("tools/quantize.py", quantised, "--out", tmp_path / "twice.onnx")
