"""Which generation's convention data has, as it shows itself, and the way over and back."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import REPO
from uniad.data import unpickle
from uniad.data.convert import convert_pickle
from uniad.data.infos import create_infos
from uniad.data.table import load_table
from uniad.errors import UserError
from uniad.formats.conventions import anchor_convention, box_convention, convert_anchors, convert_box_code, convert_boxes
from uniad.formats.published import UNIAD_V1, UNIAD_V2
from uniad.geometry.boxes import decode_boxes

TOOL = [sys.executable, str(REPO / "tools/convert.py")]


def cars(count: int, rng: np.random.Generator, convention: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes of cars that drive in all directions."""
    yaw = rng.uniform(-np.pi, np.pi, count)
    velocity = 8 * np.stack([np.cos(yaw), np.sin(yaw)], 1)
    centre, width, length, height = rng.normal(size=(count, 3)), 1.8, 4.5, 1.5
    size, angle = ((width, length, height), -yaw - np.pi / 2) if convention == UNIAD_V1 else ((length, width, height), yaw)
    boxes = np.concatenate([centre, np.tile(size, (count, 1)), angle[:, None]], 1)
    return boxes, np.full(count, "car"), velocity


@pytest.mark.parametrize("convention", [UNIAD_V1, UNIAD_V2])
def test_boxes_show_their_convention_by_sizes_and_by_yaws(convention):
    boxes, names, velocity = cars(60, np.random.default_rng(0), convention)
    assert box_convention(boxes, names, velocity, "f") == convention
    assert box_convention(boxes, names, np.zeros_like(velocity), "f") == convention  # all parked: sizes alone
    round_ones = boxes.copy()
    round_ones[:, 3:5] = 2.0
    assert box_convention(round_ones, names, velocity, "f") == convention  # yaws alone
    assert box_convention(round_ones, names, np.zeros_like(velocity), "f") is None
    assert box_convention(boxes[:0], names[:0], velocity[:0], "f") is None


def test_what_no_generation_writes_is_refused():
    rng = np.random.default_rng(0)
    (boxes, names, velocity), (other, *_) = cars(60, rng, UNIAD_V1), cars(60, rng, UNIAD_V2)
    swapped = boxes.copy()
    swapped[:, [3, 4]] = boxes[:, [4, 3]]
    with pytest.raises(UserError, match="f: its sizes are those of UniAD v2.0, its yaws those of UniAD v1"):
        box_convention(swapped, names, velocity, "f")
    joined = [np.concatenate(pair) for pair in ((boxes, other), (names, names), (velocity, velocity))]
    with pytest.raises(UserError, match="f: its sizes fit neither UniAD v1 .* files of both were joined"):
        box_convention(*joined, "f")


def test_boxes_and_anchors_come_back_to_the_bit():
    rng = np.random.default_rng(1)
    boxes = rng.normal(size=(20000, 7))
    boxes[:, 6] = 10.0 ** rng.uniform(-20, 1, 20000) * rng.choice([-1, 1], 20000)
    there, lost = convert_boxes(boxes)
    back, nothing = convert_boxes(there, lost)
    assert lost.any() and not nothing.any() and np.array_equal(back, boxes)
    anchors = rng.normal(size=(6, 12, 2))
    assert convert_anchors(convert_anchors(anchors, UNIAD_V2), UNIAD_V1).tobytes() == anchors.tobytes()


def test_anchors_show_which_way_their_agents_face():
    rng = np.random.default_rng(2)
    ahead = np.cumsum(np.stack([rng.normal(0, 0.2, (6, 12)), rng.uniform(0, 3, (6, 12))], -1), axis=1)
    assert anchor_convention([ahead, ahead]) == UNIAD_V1
    assert anchor_convention([convert_anchors(ahead, UNIAD_V2)]) == UNIAD_V2
    # ahead stays ahead: 24 m before the agent and 1 m to its right
    assert np.allclose(convert_anchors(np.array([[[1.0, 24.0]]]), UNIAD_V2), [[[24.0, -1.0]]])
    assert anchor_convention([rng.normal(size=(6, 12, 2))]) is None
    assert anchor_convention([np.zeros((6, 12, 2))]) is None


def test_a_converted_box_layer_says_the_same_boxes_in_the_other_code():
    rng = np.random.default_rng(3)
    weight, bias, x = rng.normal(size=(10, 8)), rng.normal(size=10), rng.normal(size=(8, 5))
    v1 = decode_boxes(torch.from_numpy((weight @ x).T + bias))
    v2 = decode_boxes(torch.from_numpy((convert_box_code(weight) @ x).T + convert_box_code(bias)))
    assert torch.equal(v1[:, :3], v2[:, :3]) and torch.equal(v1[:, 7:], v2[:, 7:])
    assert torch.equal(v1[:, (3, 4, 5)], v2[:, (4, 3, 5)])
    turned = (-v2[:, 6] - np.pi / 2 - v1[:, 6] + np.pi) % (2 * np.pi) - np.pi
    assert turned.abs().max() < 1e-12
    assert np.array_equal(convert_box_code(convert_box_code(weight)), weight)


@pytest.fixture(scope="module")
def both_infos(synthetic_root: Path, tmp_path_factory) -> dict[str, Path]:
    """The validation split of the tiny world in either convention, as create_data writes it."""
    found = {}
    for convention in (UNIAD_V1, UNIAD_V2):
        folder = tmp_path_factory.mktemp(convention)
        create_infos(synthetic_root, folder, workers=1, progress=False, convention=convention)
        found[convention] = folder / "nuscenes_infos_temporal_val.pkl"
    return found


def test_infos_of_either_convention_are_read_as_the_same_boxes(both_infos, synthetic_root):
    v1, v2 = (load_table(both_infos[c], synthetic_root) for c in (UNIAD_V1, UNIAD_V2))
    assert (v1.convention, v2.convention) == (UNIAD_V1, UNIAD_V2)
    assert np.abs(v1.boxes - v2.boxes).max() < 1e-12 and len(v1.boxes)


def test_infos_are_converted_and_come_back_to_the_bit(both_infos, tmp_path):
    there = subprocess.run(
        [*TOOL, both_infos[UNIAD_V1], "--to", UNIAD_V2, "--out", tmp_path / "v2.pkl", "--report", tmp_path / "r.json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    report = json.loads((tmp_path / "r.json").read_text())
    assert "infos: UniAD v1 -> UniAD v2.0" in there.stdout and report["from"] == UNIAD_V1 and report["changed"]["frames"] == 6
    assert report["sha256_before"] != report["sha256_after"]
    written, made = (unpickle.load(p)["infos"] for p in (tmp_path / "v2.pkl", both_infos[UNIAD_V2]))
    assert all(np.abs(a["gt_boxes"] - b["gt_boxes"]).max() < 1e-12 for a, b in zip(written, made))
    convert_pickle(tmp_path / "v2.pkl", tmp_path / "v1.pkl", UNIAD_V1)
    old, new = unpickle.load(both_infos[UNIAD_V1]), unpickle.load(tmp_path / "v1.pkl")
    assert pickle.dumps(old["metadata"]) == pickle.dumps(new["metadata"])
    for a, b in zip(old["infos"], new["infos"]):
        assert a.keys() == b.keys() and a["gt_boxes"].tobytes() == b["gt_boxes"].tobytes()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--to", "uniad-v1"], "its boxes are those of UniAD v1 already: nothing to convert"),
        (["--to", "uniad-v2", "--from", "uniad-v2"], "--from uniad-v2, but its boxes are those of UniAD v1: leave --from out"),
        (["--to", "uniad-v3"], "unknown --to 'uniad-v3': choose uniad-v1 or uniad-v2"),
        (["--to", "uniad-v2", "--report", "OUT/out.pkl"], "--report .* would overwrite what is converted"),
        (["--to", "uniad-v2", "--out", "OUT/out.pth"], "--out .*out.pth: .* ends alike"),
        (["--to", "bench2drive"], "unknown --to 'bench2drive': .* Bench2Drive has other classes and commands"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_writes_nothing(both_infos, tmp_path, words, line):
    run = subprocess.run(
        [*TOOL, both_infos[UNIAD_V1], "--out", tmp_path / "out.pkl", *(word.replace("OUT", str(tmp_path)) for word in words)],
        capture_output=True, text=True,
    )
    assert run.returncode and len(run.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())

    assert re.search(line, run.stderr)
