"""Whole frames of Bench2Drive's model, images to plan, against numbers recorded from Bench2DriveZoo's code."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

import numpy as np
import pytest
import torch

from helpers import b2d
from helpers.recorded import entries
from helpers.specs import CONFIGS
from helpers.tolerances import TOLERANCES, close
from helpers.weights import fill
from uniad.config.read import load_spec
from uniad.interface.types import DetOutput, State, StepOutputs
from uniad.models.track import Rows, move_reference_points
from uniad.models.uniad import UniAD

pytestmark = [pytest.mark.slow, pytest.mark.long]

# How near to its threshold the attention's mask of one agent in one cell of frame 0 is
NEAR = 1e-5


class Played(NamedTuple):
    model: UniAD
    occ_inputs: tuple
    rows: Rows
    det: DetOutput
    outputs: StepOutputs
    state: State


@pytest.fixture(scope="module")
def recorded() -> b2d.Numbers:
    return b2d.Numbers("frames")


@pytest.fixture(scope="module")
@torch.no_grad()
def played(recorded: b2d.Numbers) -> list[Played]:
    torch.set_num_threads(1)
    model = fill(UniAD(b2d.small_spec().model, recorded["anchors"]), kind="b2d")
    state, frames = model.init_state(), []
    for i in range(b2d.small.FRAMES):
        frame = b2d.frame(i)
        rows = model.rows(model.propagate(frame, state))
        given: list[tuple] = []
        hook = model.occ_head.register_forward_pre_hook(lambda module, args, given=given: given.append(args))
        outputs, state = model.step(frame, state)
        hook.remove()
        frames.append(Played(model, given[0], rows, model.detect(outputs.bev, rows), outputs, state))
    return frames


def test_bev_and_detections(played: list[Played], recorded: b2d.Numbers) -> None:
    """Frame 2 sees the BEV of frame 0: the small model looks back two frames, as tiny looks back ten."""
    for i, frame in enumerate(played):
        kept = frame.rows.valid[0]
        for name, got in (
            ("bev", frame.outputs.bev),
            ("det/cls", frame.det.cls[:, :, kept]),
            ("det/boxes", frame.det.boxes[:, :, kept]),
            ("det/ref_pts", frame.det.ref_pts[:, kept]),
        ):
            close(recorded.thin(name, got), recorded[f"f{i}/{name}"], "frame")


def test_tracks(played: list[Played], recorded: b2d.Numbers) -> None:
    for i, frame in enumerate(played):
        at, track, tracks = f"f{i}/", frame.outputs.track, frame.state.tracks
        assert track.obj_id[0, frame.rows.valid[0]].tolist() == recorded[at + "track/ids"].tolist()
        kept = tracks.obj_id[0] >= 0
        assert tracks.obj_id[0, kept].tolist() == recorded[at + "carried/ids"].tolist()
        close(tracks.ref_pts[0, kept], recorded[at + "carried/ref_pts"], "frame")
        close(recorded.thin("carried/query", tracks.query[0, kept]), recorded[at + "carried/query"], "frame")
        assert track.dropped.tolist() == [0]


def test_map_of_things_alone(played: list[Played], recorded: b2d.Numbers) -> None:
    for i, frame in enumerate(played):
        at, got = f"f{i}/map/", frame.outputs.map
        want, some = recorded[at + "bbox"], recorded[at + "bbox"][:, 4] > 0
        close(recorded.thin("map/query", got.query), recorded[at + "query"], "frame")
        close(got.score[0], want[:, 4], "frame")
        assert got.label[0][some].tolist() == recorded[at + "labels"][some].tolist()
        lanes = np.unpackbits(recorded.arrays[at + "lanes"])[: got.lanes.numel()].reshape(got.lanes.shape[1:])
        assert got.lanes.shape[1] == 6
        assert int((got.lanes[0].numpy() != lanes).sum()) <= 4
        assert not got.drivable.any(), "Bench2Drive's map has no areas"


def test_futures_and_plan(played: list[Played], recorded: b2d.Numbers) -> None:
    """Measured after three frames with the state fed back: one of 4063 numbers of the futures is 1.4e-3 off."""
    for i, frame in enumerate(played):
        at, ahead = f"f{i}/", frame.outputs.stage2
        kept = ahead.agents.valid[0]
        close(ahead.motion.score[:, :, kept].reshape(recorded[at + "motion/score"].shape), recorded[at + "motion/score"], "frame")
        close(ahead.plan.traj.reshape(recorded[at + "plan/traj"].shape), recorded[at + "plan/traj"], "frame")
        want = recorded[at + "motion/traj"]
        off = (recorded.thin("motion/traj", ahead.motion.traj[:, :, kept]).reshape(want.shape) - want).abs() / want.abs().max()
        assert off.max() < 2 * TOLERANCES["frame"] and (off > TOLERANCES["frame"]).float().mean() < 1e-3


@torch.no_grad()
def test_occupancy(played: list[Played], recorded: b2d.Numbers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell attends to the agents whose rough mask is over 0.3 there. In frame 0, step 1, one agent's is 6e-6 below in one cell.
    With that one bit the other way every logit is upstream's, without it those around that cell are not."""
    for i, frame in enumerate(played):
        at, occ, head = f"f{i}/occ/", frame.outputs.stage2.occ, frame.model.occ_head
        want, logits = recorded[at + "logits"], occ.logits
        if i == 0:
            blocked, steps = head._blocked, []

            def other_side(mask, valid, head=head, blocked=blocked, steps=steps):
                steps.append(mask)
                if len(steps) == 2:
                    off = (mask.sigmoid() - head.spec.attn_mask_thresh).masked_fill(~valid[:, :, None, None], 1.0).flatten()
                    nearest = off.abs().argmin()
                    assert off[nearest].abs() < NEAR
                    mask = mask.clone()
                    mask.view(-1)[nearest] -= off[nearest].sign() * 1e-3
                return blocked(mask, valid)

            monkeypatch.setattr(head, "_blocked", other_side)
            logits = head.predict(*frame.occ_inputs, with_masks=False).logits
            monkeypatch.undo()
        close(recorded.thin("occ/logits", logits[:, occ.valid[0]]).reshape(want.shape), want, "frame")
        seg = np.unpackbits(recorded.arrays[at + "seg"])[: occ.seg.numel()].reshape(occ.seg.shape)
        assert int((occ.seg.numpy() != seg).sum()) <= 4


def test_every_command_has_a_plan_of_its_own() -> None:
    model = UniAD(b2d.small_spec().model, torch.zeros(3, 6, 12, 2))
    assert model.planning_head.navi_embed.weight.shape == (6, 256)


def test_tracks_move_as_published_and_as_they_should(recorded: b2d.Numbers) -> None:
    """The column matrix in a formula for rows, and the matrix that the formula means; metres between them."""
    numbers, (one, two) = b2d.Numbers("velo_update"), (b2d.small.pose(0), b2d.small.pose(2))
    pc_range = b2d.small_spec().model.track.pc_range
    moved = {}
    for name, turn in (("published", lambda r: r), ("rows", lambda r: r.T.copy())):
        args = (turn(one["l2g_r"]), one["l2g_t"], turn(two["l2g_r"]), two["l2g_t"], two["timestamp"] - one["timestamp"])
        moved[name] = move_reference_points(
            numbers["points"][None], numbers["velocity"][None], *(torch.from_numpy(np.asarray(a))[None] for a in args[:4]),
            torch.from_numpy(args[4]).float(), pc_range,
        )[0]  # fmt: skip
        close(moved[name], numbers[name], "module")
    metres = [(moved[name].sigmoid()[:, :2] * 102.4) for name in ("published", "rows")]
    assert (metres[0] - metres[1]).norm(dim=1).max() > 1.0


@pytest.mark.parametrize("stage", [1, 2])
@pytest.mark.parametrize("name", ["b2d-tiny", "b2d-base"])
def test_checkpoint_names_shapes_dtypes_and_frozen_parts(name: str, stage: int) -> None:
    folder, kind = {1: ("stage1_track_map", "track_map"), 2: ("stage2_e2e", "e2e")}[stage]
    spec = load_spec(CONFIGS / folder / f"{name}_{kind}.py")
    with torch.device("meta"):
        model = UniAD(spec.model, torch.zeros(3, 6, 12, 2))
    found = entries(model)
    want = json.loads((b2d.FOLDER / "state_dict.json").read_text())[f"{name}_stage{stage}"]
    assert len(found) == want["entries"]
    assert hashlib.sha256(json.dumps(sorted(found)).encode()).hexdigest() == want["sha256"]
