"""Bench2Drive's modules one by one, fed with noise, against what Bench2DriveZoo's own gave."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import b2d
from helpers.tolerances import close
from helpers.weights import fill
from uniad.interface.types import Agents, MotionOutput
from uniad.models.decoder import detect
from uniad.models.uniad import UniAD

Given = dict[str, Tensor]
LAST = 7  # the ego car's agent slot


@pytest.fixture(scope="module")
def recorded() -> b2d.Numbers:
    return b2d.Numbers("modules")


@pytest.fixture(scope="module")
def model() -> UniAD:
    return fill(UniAD(b2d.clip_spec(2), b2d.Numbers("frames")["anchors"]), kind="b2d-train")


@pytest.fixture(scope="module")
def given() -> Given:
    return {name: torch.from_numpy(value) for name, value in b2d.small.module_inputs().items()}


def hold(recorded: b2d.Numbers, name: str, got: Tensor, row: str = "module") -> None:
    want = recorded[name]
    close(recorded.thin(name, got).reshape(want.shape), want, row)


@pytest.mark.parametrize("name, has_before", [("encoder/bev", True), ("encoder/bev_first", False)])
@torch.no_grad()
def test_encoder_with_the_shift_of_a_car_that_turned(model: UniAD, given: Given, recorded: b2d.Numbers, name, has_before) -> None:
    before, now = b2d.small.pose(0)["can_bus"], b2d.small.pose(1)["can_bus"].copy()
    now[:3], now[-1] = now[:3] - before[:3], now[-1] - before[-1]
    head, frame = model.pts_bbox_head, b2d.frame(1)
    bev = head.transformer.bev_features(
        [given["feats"]], head.bev_embedding.weight, head.positional_encoding(), given["prev_bev"], torch.tensor([has_before]),
        torch.from_numpy(now)[None], frame.lidar2img, b2d.small.IMAGE,
    )  # fmt: skip
    hold(recorded, name, bev)


@torch.no_grad()
def test_track_head_with_carried_queries(model: UniAD, given: Given, recorded: b2d.Numbers) -> None:
    spec, head = model.spec, model.pts_bbox_head
    fresh = model.query_embedding.weight
    query = torch.cat([fresh, given["query"]])[None]
    reference = torch.cat([model.reference_points(fresh[:, :256]), given["ref_pts"]])[None]
    side = (b2d.small.CELLS, b2d.small.CELLS)
    valid = torch.ones(query.shape[:2], dtype=torch.bool)
    out = detect(head.transformer.decoder, head, given["bev"], side, query, reference, valid, spec.decoder.pc_range)
    for name, got in zip(("cls", "boxes", "past_traj", "ref_pts", "query"), out):
        hold(recorded, f"decoder/{name}", got, "decoder")


@torch.no_grad()
def test_map_head_of_things_alone(model: UniAD, given: Given, recorded: b2d.Numbers) -> None:
    queries = model.seg_head.queries(given["bev"])
    hold(recorded, "map/query", queries.query, "map")
    out = model.seg_head.select(queries)
    want, some = recorded["map/bbox"], recorded["map/bbox"][:, 4] > 0
    close(out.score[0], want[:, 4], "map")
    assert some.any() and out.label[0][some].tolist() == recorded["map/labels"][some].tolist()
    lanes = np.unpackbits(recorded.arrays["map/lanes"])[: out.lanes.numel()].reshape(out.lanes.shape[1:])
    assert lanes.any() and np.array_equal(out.lanes[0].numpy(), lanes)


def agents(given: Given) -> Agents:
    everyone = torch.ones(1, LAST + 1, dtype=torch.bool)
    ids = torch.tensor([[*range(LAST), -2]], dtype=torch.int32)
    return Agents(
        query=given["agents/query"], boxes=given["agents/boxes"][None], label=given["agents/labels"][None].int(),
        score=given["agents/scores"][None], obj_id=ids, valid=everyone, row=torch.arange(LAST + 1)[None],
        dropped=torch.zeros(1, dtype=torch.int32),
    )  # fmt: skip


@torch.no_grad()
def test_motion_head(model: UniAD, given: Given, recorded: b2d.Numbers) -> None:
    out = model.motion_head(given["bev"], agents(given), given["lane_query"], given["lane_query_pos"])
    for name, got in (("traj", out.traj), ("score", out.score), ("traj_query", out.traj_query), ("query_pos", out.query_pos)):
        hold(recorded, f"motion/{name}", got, "motion")


def futures(given: Given) -> MotionOutput:
    nothing = torch.zeros(0)
    return MotionOutput(nothing, nothing, given["traj_query"], given["agents/query"], given["track_query_pos"])


@torch.no_grad()
def test_occupancy_head(model: UniAD, given: Given, recorded: b2d.Numbers) -> None:
    valid = torch.arange(LAST + 1)[None] < LAST
    for dtype, name in ((torch.float32, "occ/logits"), (torch.float64, "occ/logits64")):
        head = model.occ_head.to(dtype)
        motion = MotionOutput(*(x.to(dtype) for x in futures(given)))
        logits = head.roll_out(given["bev"].to(dtype), head.fuse(motion, valid), valid, with_masks=False).logits
        hold(recorded, name, logits[:, :LAST])
    model.occ_head.float()


@torch.no_grad()
def test_planning_head_by_command(model: UniAD, given: Given, recorded: b2d.Numbers) -> None:
    plans = []
    for command in b2d.small.COMMANDS:
        plan = model.planning_head(given["bev"], given["bev_pos"], futures(given), torch.tensor([command])).traj
        hold(recorded, f"plan/{command}", plan)
        plans.append(plan)
    assert (plans[0] - plans[1]).abs().max() > 1e-2, "a command says where to go"
