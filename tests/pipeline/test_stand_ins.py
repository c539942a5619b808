"""Every published file's kind, from a stand-in with its names and seeded weights, through evaluation, export and verification.

The files themselves are not here. A stand-in of base has images and a BEV of tiny's size, so that a run takes minutes; names,
layers, levels, classes and deformable convolutions are those of the file.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import REPO
from helpers.command_line import World, start
from helpers.weights import rule_state_dict
from uniad.config.read import load_spec
from uniad.data.anchors import save_motion_anchors
from uniad.data.infos import create_infos
from uniad.formats.checkpoints import UNUSED_OF_V2, recognise
from uniad.models.uniad import UniAD

pytestmark = pytest.mark.long
SMALL = """
_base_ = ["{base}", "{configs}/_base_/variants/tiny_imgx0.25.py"]
bev_size = (50, 50)
canvas_size = bev_size
model = dict(
    pts_bbox_head=dict(bev_h=50, bev_w=50, positional_encoding=dict(row_num_embed=50, col_num_embed=50)),
    seg_head=dict(bev_h=50, bev_w=50, canvas_size=bev_size),
    {heads}
)
train_pipeline = {{{{_base_._quarter_2m_.train}}}}
test_pipeline = {{{{_base_._quarter_2m_.test}}}}
data = dict(
    train=dict(pipeline=train_pipeline, bev_size=bev_size, canvas_size=canvas_size),
    val=dict(pipeline=test_pipeline, bev_size=bev_size, canvas_size=canvas_size),
    test=dict(pipeline=test_pipeline, bev_size=bev_size, canvas_size=canvas_size),
)
"""
HEADS = """occ_head=dict(bev_size=bev_size, bevslicer=False, grid_conf=dict(xbound=[-50.0, 50.0, 2], ybound=[-50.0, 50.0, 2])),
    motion_head=dict(bev_h=50, bev_w=50),
    planning_head=dict(bev_h=50, bev_w=50),"""
# file -> generation, config, stage
FILES = {
    "uniad_base_track_map.pth of v1": ("uniad-v1", "stage1_track_map/full_track_map.py", 1),
    "uniad_base_e2e.pth of v1": ("uniad-v1", "stage2_e2e/full_e2e.py", 2),
    "uniad_base_track_map.pth of v2.0": ("uniad-v2", "stage1_track_map/full_track_map.py", 1),
    "uniad_base_e2e.pth of v2.0": ("uniad-v2", "stage2_e2e/full_e2e.py", 2),
    "tiny_imgx0.25_e2e_ep20.pth of NVIDIA": ("uniad-v1", "stage2_e2e/tiny_imgx0.25_e2e.py", 2),
}


# Minutes each on two cores, half an hour in all
ALL = bool(os.environ.get("UNIAD_ALL_PUBLISHED"))
CHOSEN = [pytest.param(name, marks=pytest.mark.skipif(not ALL, reason="UNIAD_ALL_PUBLISHED=1 runs it")) for name in FILES]


def completes(*words: object) -> None:
    """The command ends well. Base's export takes minutes, where others work beside it a quarter of an hour."""
    process = start(*words)
    printed, err = process.communicate(timeout=1800)
    assert process.returncode == 0, printed + err


@pytest.mark.parametrize("name", CHOSEN)
def test_a_stand_in_is_recognised_evaluated_exported_and_verified(name: str, synthetic_root: Path, tmp_path: Path) -> None:
    generation, config, stage = FILES[name]
    path = REPO / "projects/configs" / config
    if "tiny" not in config:
        text = SMALL.format(base=path, configs=REPO / "projects/configs", heads=HEADS if stage == 2 else "")
        path = tmp_path / ("small_e2e.py" if stage == 2 else "small_track_map.py")
        path.write_text(text)
    world = World(synthetic_root, tmp_path)
    create_infos(synthetic_root, tmp_path, workers=1, progress=False, convention=generation)
    options = [
        f"data_root={world.root}/", f"info_root={world.infos}/", f"anchor_root={tmp_path}/", "data.workers_per_gpu=0",
        "model.score_thresh=0.88", "model.filter_score_thresh=0.86", f"native.compat={generation}",
    ]  # fmt: skip
    spec = load_spec(path, options)
    anchors = None
    if spec.model.stage2:
        motion, rng = spec.model.stage2.motion, np.random.default_rng(0)
        ahead = [
            np.cumsum(np.stack([rng.normal(0, 0.1, (6, 12)), rng.uniform(0, 2, (6, 12))], -1), axis=1) for _ in motion.group_ids
        ]
        save_motion_anchors(tmp_path / "motion_anchor_infos_mode6.pkl", ahead, motion, spec.data.class_names)
        anchors = torch.zeros(len(ahead), 6, 12, 2)
    state = UniAD(spec.model, anchors).state_dict()
    state.update(rule_state_dict(state))
    if generation == "uniad-v2":
        state.update(rule_state_dict(dict(zip(UNUSED_OF_V2, ((3, 256), (3,))))))
    checkpoint = tmp_path / "stand_in.pth"
    torch.save({"meta": {"epoch": 20}, "state_dict": state}, checkpoint)
    del state
    assert recognise(checkpoint).generation == generation

    results, onnx = tmp_path / "results.json", tmp_path / "stand_in.onnx"
    runs = (
        ["tools/test.py", path, checkpoint, "--device", "cpu", "--out", results],
        ["tools/export_onnx.py", path, checkpoint, "--out", onnx, "--frames", 2],
    )
    for words in runs:
        completes(*words, "--cfg-options", *options)
    found = json.loads(results.read_text())
    assert found["samples"] == 6 and ("planning" in found) == (stage == 2)
    assert ("detection_as_published" in found) == (generation == "uniad-v2")
    completes("tools/verify.py", onnx, "--backend", "onnxruntime")
    (report,) = json.loads(Path(f"{onnx}.verify.json").read_text())
    assert report["ok"]
    print(name, {key: found["detection"][key] for key in ("NDS", "mAP")}, report["worst"])
