"""Whole frames of Bench2Drive's model, images to plan, against numbers recorded from Bench2DriveZoo's code."""

from __future__ import annotations

import hashlib
import json
from typing import NamedTuple

import numpy as np
import pytest
import torch

from helpers import b2d
from helpers.specs import CONFIGS
from helpers.tolerances import TOLERANCES, close
from helpers.weights import fill
from uniad.config.read import load_spec
from uniad.interface.types import DetOutput, State, StepOutputs
from uniad.models.track import Rows, move_reference_points
from uniad.models.uniad import UniAD

pytestmark = [pytest.mark.slow, pytest.mark.long]

class Played(NamedTuple):
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
        outputs, state = model.step(frame, state)
        frames.append(Played(rows, model.detect(outputs.bev, rows), outputs, state))
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
    for i, frame in enumerate(played[:1]):
        at, ahead = f"f{i}/", frame.outputs.stage2
        kept = ahead.agents.valid[0]
        for name, got in (
            ("motion/score", ahead.motion.score[:, :, kept]),
            ("motion/traj", ahead.motion.traj[:, :, kept]),
            ("plan/traj", ahead.plan.traj),
        ):
            close(recorded.thin(name, got).reshape(recorded[at + name].shape), recorded[at + name], "frame")


def test_occupancy(played: list[Played], recorded: b2d.Numbers) -> None:
    """Where a query attends is a mask with a threshold: measured in frame 0, one logit in a hundred is off by more than 1e-3 of
    the largest, up to 0.23, and no cell of the result differs."""
    for i, frame in enumerate(played[:1]):
        at, occ = f"f{i}/occ/", frame.outputs.stage2.occ
        want = recorded[at + "logits"]
        got = recorded.thin("occ/logits", occ.logits[:, occ.valid[0]]).reshape(want.shape)
        far = (got - want).abs() > TOLERANCES["frame"] * want.abs().max()
        assert far.float().mean() < 0.05
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
    parameters = dict(model.named_parameters())
    entries = [
        [k, list(v.shape), str(v.dtype).removeprefix("torch."), parameters[k].requires_grad if k in parameters else "buffer"]
        for k, v in model.state_dict().items()
    ]
    want = json.loads((b2d.FOLDER / "state_dict.json").read_text())[f"{name}_stage{stage}"]
    assert len(entries) == want["entries"]
    assert hashlib.sha256(json.dumps(sorted(entries)).encode()).hexdigest() == want["sha256"]
