"""UniAD v2.0 against our model under ``compat=uniad-v2``: its functions, and two frames of a scene from images to the plan.

tests/golden/v2/README.md says how they were recorded.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from helpers.decoded import decode_detections, decode_tracks
from helpers.tolerances import close
from helpers.v2 import FOLDER, RecordedV2, anchors, box9_of_v2, same_boxes, small_spec
from helpers.weights import fill
from uniad.config.spec import UNIAD_V2
from uniad.evaluation.occupancy import consecutive
from uniad.formats.checkpoints import UNUSED_OF_V2
from uniad.geometry.boxes import box10_of_v2, corners, encode_boxes, nearest_bev
from uniad.interface.types import EGO_ID, Frame
from uniad.models.bev_encoder import bev_shift
from uniad.models.motion_geometry import agent_from_scene, scene_from_agent
from uniad.models.uniad import UniAD


@pytest.fixture(scope="module")
def ops() -> RecordedV2:
    return RecordedV2("ops")


def test_boxes_are_the_same_boxes(ops):
    theirs = ops["box/tensor"]
    ours = box9_of_v2(theirs)
    close(box10_of_v2(ops["box/code"]), encode_boxes(ours), "exact")
    apart = torch.cdist(corners(ours), ops["box/corners"])
    assert apart.min(-1).values.max() < 1e-4, "the same eight corners, in another order"
    close(nearest_bev(ours), ops["box/nearest_bev"], "exact")


def test_the_bev_shifts_as_in_v2_at_every_heading(ops):
    spec = small_spec().model.bev
    assert spec.shift_rule == UNIAD_V2
    bus, matrix = ops["shift/can_bus"], ops["shift/l2g_r_mat"]
    close(bev_shift(bus.float(), spec, matrix.float()), ops["shift/shift"].float(), "exact")
    v1 = bev_shift(bus.float(), small_spec("uniad-v1").model.bev, matrix.float())
    assert (v1 - ops["shift/shift"]).abs().max() > 5e-3, "v1 turns the car's motion the other way"


def test_anchors_and_trajectories_turn_by_the_heading(ops):
    boxes = box9_of_v2(ops["box/tensor"])[None]
    n = boxes.shape[1]
    for name, turn, given in (
        ("anchors", scene_from_agent, ops["anchors"][None, None].expand(1, n, -1, -1, -1, -1)),
        ("trajectory", agent_from_scene, ops["trajectory"]),
    ):
        close(turn(given, boxes, UNIAD_V2), ops[f"{name}_turned"], "exact")


@pytest.fixture(scope="module")
def played():
    """Two frames of the recorded scene, state fed back; and what was recorded."""
    torch.set_num_threads(1)
    record, spec = RecordedV2("frames"), small_spec()
    model = fill(UniAD(spec.model, anchors()), kind="base")
    state, frames = model.init_state(), []
    shape = (1, *record.arrays["image_shape"].tolist())
    with torch.no_grad():
        for i, seed in enumerate(record.arrays["image_seeds"].tolist()):
            noise = np.random.RandomState(seed).standard_normal(np.prod(shape)).astype(np.float32).reshape(shape)
            at = f"f{i}/"
            frame = Frame(
                img=torch.from_numpy(noise), lidar2img=record["lidar2img"].float()[None],
                can_bus=record[at + "can_bus"][None], l2g_r=record[at + "l2g_r_mat"][None], l2g_t=record[at + "l2g_t"][None],
                time_s=(record[at + "timestamp"] - record["f0/timestamp"]).float()[None],
                scene_start=torch.tensor([i == 0]), command=record[at + "command"].reshape(1).int(),
            )  # fmt: skip
            rows = model.rows(model.propagate(frame, state))
            encoder, refs = model.pts_bbox_head.transformer.encoder, []
            hook = encoder.layers[0].register_forward_pre_hook(lambda module, args, refs=refs: refs.append(args[1][-1]))
            outputs, state = model.step(frame, state)
            hook.remove()
            frames.append((rows, model.detect(outputs.bev, rows), outputs, state, refs[0]))
    return record, spec, frames


def each(played):
    record, _, frames = played
    for i, frame in enumerate(frames):
        yield (record, f"f{i}/", *frame)


def test_where_temporal_attention_looks(played):
    """Unmoved without a BEV before; with one, the previous BEV alone is moved."""
    for record, at, _, _, _, _, ref in each(played):
        want = record[at + "enc/ref_2d"][:, :, 0].transpose(0, 1)[None]
        close(ref.expand(-1, -1, 2, -1)[:, ::25], want, "exact")


def test_bev_and_decoder(played):
    for record, at, rows, det, outputs, _, _ in each(played):
        kept = rows.valid[0]
        for name, got in (
            ("bev_embed", outputs.bev), ("dec/all_cls_scores", det.cls[:, :, kept]),
            ("dec/last_ref_points", det.ref_pts[:, kept]), ("dec/all_bbox_preds", box10_of_v2(det.boxes[:, :, kept])),
        ):  # fmt: skip
            close(record.thin(at + name, got), record[at + name], "decoder")


def test_tracks_and_detections(played):
    spec = played[1].model.track
    for record, at, _, _, outputs, state, _ in each(played):
        found, track = decode_tracks(outputs.track, 0, spec), outputs.track
        assert torch.equal(found["track_ids"].long(), record[at + "trk/result_track_ids"].long())
        assert torch.equal(found["labels"].long(), record[at + "trk/result_labels"].long())
        close(*same_boxes(found["boxes_3d"], record[at + "trk/result_bboxes"]), "frame")
        close(found["scores"], record[at + "trk/result_scores"], "frame")
        close(*same_boxes(track.boxes[0, track.obj_id[0] == EGO_ID], record[at + "trk/sdc_bbox"]), "frame")
        kept = state.tracks.obj_id[0] >= 0
        assert torch.equal(state.tracks.obj_id[0, kept].long(), record[at + "qim/out_obj_idxes"].long())
        detections = decode_detections(track, 0, spec)
        close(detections["scores"], record[at + "res/scores_3d_det"], "frame")
        assert (detections["labels"] != record[at + "res/labels_3d_det"]).sum() <= 2, "rows whose scores tie"


def test_motion_occupancy_and_plan(played):
    for record, at, _, _, outputs, _, _ in each(played):
        stage2 = outputs.stage2
        kept = stage2.agents.valid[0]
        for name, got in (("scores", stage2.motion.score), ("preds", stage2.motion.traj)):
            close(record.thin(f"{at}mot/all_traj_{name}", got[:, :, kept]), record[f"{at}mot/all_traj_{name}"], "frame")
        occ = stage2.occ
        close(record.thin(at + "occ/ins_occ_logits", occ.logits[:, occ.valid[0]]), record[at + "occ/ins_occ_logits"], "occ")
        assert (occ.seg != record[at + "occ/seg_out"][:, :, 0].int()).sum() <= 2
        assert (consecutive(occ.ids) != record[at + "occ/ins_seg_out"].numpy()).sum() <= 4
        steps = record[at + "plan/steps"].unflatten(-1, (6, 2)).cumsum(-2)[:, 0]
        close(stage2.plan.traj, steps, "frame")


@pytest.mark.parametrize("stage", [1, 2])
def test_a_published_file_of_v2_has_our_keys_and_one_unused_layer(stage: int):
    """By names, shapes, types and what is frozen: v2's base is v1's (test_frames.py), but for a layer that is allowed by name."""
    v1 = json.loads((FOLDER.parent / "state_dict.json").read_text())[f"base_stage{stage}"]
    v2 = json.loads((FOLDER / "state_dict.json").read_text())[f"base_stage{stage}"]
    assert {k: v2[k] for k in v1} == v1
    assert sorted(entry[0] for entry in v2["unused"]) == sorted(UNUSED_OF_V2)
