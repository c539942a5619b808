"""The planning head, against upstream and as a batched static graph."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from helpers.recorded import Recorded, entries, golden_dir
from helpers.specs import full_spec, nano_spec, tiny_spec
from helpers.tolerances import close
from helpers.weights import fill
from uniad.config.spec import PlanSpec
from uniad.errors import UserError
from uniad.export.audit import audit
from uniad.export.passes import downgrade_opset
from uniad.interface.command import check_command
from uniad.interface.types import MotionOutput
from uniad.models.layers import LearnedPositionalEncoding
from uniad.models.planning import PlanHead, SingleQueryAttention

SPECS = {"tiny": tiny_spec(2).model.stage2.plan, "base": full_spec(2, model__stage2__plan__bev_hw=(50, 50)).model.stage2.plan}
FRAMES = {"tiny": 3, "base": 2}
SMALL = PlanSpec(32, (6, 5), 6, False, True, ())


@pytest.fixture(scope="module")
def recorded() -> Recorded:
    return Recorded.extract("planning")


@lru_cache
def head(name: str) -> PlanHead:
    return fill(PlanHead(SPECS[name]), "planning_head.", name)


def position(name: str) -> Tensor:
    """[1, S, D]"""
    table = fill(LearnedPositionalEncoding(256, 50, 50), "pts_bbox_head.positional_encoding.", name)
    return table().flatten(1).t()[None]


def motion(traj_query: Tensor, track_query: Tensor) -> MotionOutput:
    """The ego car [B, K, D], [B, D] in the last of three slots, with nonsense before it."""
    agents = torch.stack([torch.full_like(traj_query, 7.0), torch.full_like(traj_query, -7.0), traj_query], 1)
    queries = torch.stack([torch.full_like(track_query, 7.0), torch.full_like(track_query, -7.0), track_query], 1)
    nothing = traj_query.new_zeros(0)
    return MotionOutput(nothing, nothing, torch.stack([agents * 0 + 9, agents]), queries, nothing)


def small_inputs(batch: int, seed: int = 0) -> tuple[Tensor, Tensor, MotionOutput, Tensor]:
    g = torch.Generator().manual_seed(seed)
    bev, pos = torch.randn(batch, 30, 32, generator=g), torch.randn(1, 30, 32, generator=g)
    ego = motion(torch.randn(batch, 6, 32, generator=g), torch.randn(batch, 32, generator=g))
    return bev, pos, ego, torch.arange(batch, dtype=torch.int32) % 3


# Parity -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "base"])
def test_parameters_are_those_of_published_checkpoints(name: str, recorded: Recorded) -> None:
    spec = {"tiny": tiny_spec, "base": full_spec}[name](2).model.stage2.plan
    assert sorted(entries(PlanHead(spec), "planning_head.")) == json.loads(str(recorded.arrays[f"{name}/state_dict"]))


@pytest.mark.parametrize("variant", ["tiny", "base", "full"])
def test_parameters_are_those_of_every_recorded_config(variant: str, golden: Path) -> None:
    listed = json.loads((golden / f"state_dict_{variant}_stage2.json").read_text())
    recorded = {k: shape for k, shape, *_ in listed if k.startswith("planning_head.")}
    spec = {"tiny": tiny_spec, "base": full_spec, "full": full_spec}[variant](2).model.stage2.plan
    assert recorded == {f"planning_head.{k}": list(v.shape) for k, v in PlanHead(spec).state_dict().items()}


@torch.no_grad()
@pytest.mark.parametrize(("name", "frame"), [(n, i) for n, count in FRAMES.items() for i in range(count)])
def test_fused_query_and_regression_from_recorded_queries(name: str, frame: int, recorded: Recorded) -> None:
    at, model = f"{name}/f{frame}/", head(name)
    modes = model.modes(recorded[at + "traj_query"], recorded[at + "track_query"], recorded[at + "command"][None])
    close(modes, recorded[at + "mlp_fuser_out"], "module")
    close(model.trajectory(recorded[at + "attn_out"]), recorded[at + "before_collision_optim"], "module")


@torch.no_grad()
def test_attention_from_the_recorded_bev(golden: Path, recorded: Recorded) -> None:
    source = Recorded.golden(golden, "tiny_stage2", ("forward", "modules"))
    model, bev, pos = head("tiny"), source["f0/bev_embed"], position("tiny")
    close(source.thin("bev_pos", pos.transpose(1, 2)), source["bev_pos"], "exact")
    feat = (bev + pos).transpose(1, 2).unflatten(2, (50, 50))
    close(source.thin("f0/plan/bev_adapter_out", model.bev_adapter(feat)), source["f0/plan/bev_adapter_out"], "module")
    ego = motion(recorded["tiny/f0/traj_query"], recorded["tiny/f0/track_query"])
    plan = model(bev, pos, ego, recorded["tiny/f0/command"][None])
    close(plan.traj, recorded["tiny/f0/before_collision_optim"], "module")
    query = model.ego_query(recorded["tiny/f0/traj_query"], recorded["tiny/f0/track_query"], recorded["tiny/f0/command"][None])
    close(model.attend(query, bev, pos), recorded["tiny/f0/attn_out"], "module")


@torch.no_grad()
def test_attention_of_one_query_equals_projecting_every_key() -> None:
    ours = SingleQueryAttention(32, 4).eval()
    reference = nn.MultiheadAttention(32, 4, batch_first=True).eval()
    for p in ours.parameters():
        nn.init.normal_(p, std=0.3)
    reference.load_state_dict(ours.state_dict())
    query, memory = torch.randn(2, 3, 32), torch.randn(2, 50, 32)
    close(ours(query, memory), reference(query, memory, memory)[0], "module")


# As a static, batched graph ---------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_batch_of_two_is_two_singles() -> None:
    model = PlanHead(SMALL).eval()
    bev, pos, ego, command = small_inputs(2)
    both = model(bev, pos, ego, command).traj
    assert both.shape == (2, 6, 2)
    for b in range(2):
        one = ego._replace(traj_query=ego.traj_query[:, b : b + 1], query=ego.query[b : b + 1])
        close(both[b : b + 1], model(bev[b : b + 1], pos, one, command[b : b + 1]).traj, "module")


@torch.no_grad()
def test_the_command_changes_the_plan_and_other_agents_do_not() -> None:
    model = PlanHead(SMALL).eval()
    bev, pos, ego, _ = small_inputs(1)
    plans = [model(bev, pos, ego, torch.tensor([c])).traj for c in range(3)]
    assert not torch.allclose(plans[0], plans[1]) and not torch.allclose(plans[1], plans[2])
    others = torch.cat([torch.randn_like(ego.traj_query[:, :, :2]), ego.traj_query[:, :, 2:]], 2)
    assert torch.equal(plans[0], model(bev, pos, ego._replace(traj_query=others), torch.tensor([0])).traj)


@torch.no_grad()
def test_ego_status_reads_the_cars_own_motion_and_nothing_else() -> None:
    model, told = PlanHead(SMALL).eval(), PlanHead(replace(SMALL, ego_status=True)).eval()
    missing = told.load_state_dict(model.state_dict(), strict=False)
    assert set(missing.missing_keys) == {f"status_mlp.{layer}.{kind}" for layer in (0, 2) for kind in ("weight", "bias")}
    inputs, at_rest = small_inputs(1), torch.zeros(1, 18)
    for column in range(18):
        moved = at_rest.clone()
        moved[0, column] = 1.0
        assert torch.equal(model(*inputs, at_rest).traj, model(*inputs, moved).traj)
        # forward and left acceleration, yaw rate, forward and left velocity, as in types.Frame
        changes = not torch.equal(told(*inputs, at_rest).traj, told(*inputs, moved).traj)
        assert changes == (column in (7, 8, 12, 13, 14)), column


def test_ego_status_is_dropped_in_training_alone_and_for_whole_clips() -> None:
    torch.manual_seed(0)
    planner = PlanHead(replace(SMALL, ego_status=True, status_dropout=0.3, dropout=0.0))
    status = torch.ones(2000, 32)
    kept = planner.train().known(status)
    rows = kept.unique(dim=0)
    assert rows.tolist() == [[0.0] * 32, [1.0] * 32] and abs(float(kept.mean()) - 0.7) < 0.03
    assert torch.equal(planner.eval().known(status), status)


def test_the_patch_ahead_is_read_cell_by_cell_and_nothing_behind_it() -> None:
    spec = replace(SMALL, bev_hw=(20, 16), bev_patch=True)
    head, (_, _, ego, command) = PlanHead(spec).eval(), small_inputs(1)
    bev = torch.randn(1, 20 * 16, SMALL.embed_dims, requires_grad=True)
    head.patch_ahead(bev).square().sum().backward()
    seen = bev.grad.abs().sum(-1).view(20, 16) > 0
    wanted = torch.zeros(20, 16, dtype=torch.bool)
    wanted[8:18, 4:12] = True  # of 20 rows, the car between 9 and 10; row 0 is behind it
    assert torch.equal(seen, wanted)
    with torch.no_grad():
        swapped = bev.detach().clone().view(1, 20, 16, -1)
        swapped[:, 10], swapped[:, 14] = swapped[:, 14].clone(), swapped[:, 10].clone()
        assert not torch.allclose(head.patch_ahead(bev), head.patch_ahead(swapped.flatten(1, 2)), atol=1e-4)
    plain = PlanHead(replace(spec, bev_patch=False))
    assert {n.split(".")[0] for n in head.state_dict().keys() - plain.state_dict().keys()} == {"patch_ahead"}
    places = torch.zeros(1, 20 * 16, SMALL.embed_dims)
    assert head(bev, places, ego, command).traj.shape == (1, SMALL.steps, 2)


def test_the_images_ahead_are_read_cell_by_cell_and_begin_as_nothing() -> None:
    spec = replace(SMALL, image_patch=(5, 8))
    head, (bev, places, ego, command) = PlanHead(spec).eval(), small_inputs(1)
    plain = PlanHead(SMALL).eval()
    missing = head.load_state_dict(plain.state_dict(), strict=False)
    assert {n.split(".")[0] for n in missing.missing_keys} == {"images_ahead"}
    images = torch.randn(1, 3, SMALL.embed_dims, 5, 8, requires_grad=True)
    assert torch.equal(head(bev, places, ego, command, images=images).traj, plain(bev, places, ego, command).traj)
    nn.init.normal_(head.images_ahead.read[-1].weight)
    head.images_ahead(images).square().sum().backward()
    assert (images.grad.abs().sum(2) > 0).all()  # every cell of all three
    with torch.no_grad():
        mirrored = images.detach()[:, [0, 2, 1]]
        assert not torch.allclose(head.images_ahead(images), head.images_ahead(mirrored), atol=1e-4)
        with pytest.raises(ValueError, match=r"plan_image_patch is \(5, 8\).*\(6, 8\)"):
            head.images_ahead(torch.zeros(1, 3, SMALL.embed_dims, 6, 8))


def test_a_path_begins_from_how_the_car_moves() -> None:
    """With nothing to correct it is the arc that speed, acceleration and yaw rate give; integrated in small steps here."""
    plain, head = PlanHead(SMALL).eval(), PlanHead(replace(SMALL, motion_prior=True)).eval()
    missing = head.load_state_dict(plain.state_dict(), strict=False)
    assert missing.missing_keys == ["motion_prior.log_decay"]
    can_bus = torch.zeros(2, 18)
    can_bus[0, [7, 12, 13]] = torch.tensor([1.5, 0.3, 6.0])  # m/s2, rad/s to the left, m/s
    can_bus[1, [7, 13]] = torch.tensor([-6.0, 4.0])  # comes to a stand and stays there
    for decay_s in (1.0, 1e4):
        nn.init.constant_(head.motion_prior.log_decay, math.log(decay_s))
        path = head.motion_prior(can_bus).cumsum(1)
        for b in range(2):
            at, heading, dt = np.zeros(2), 0.0, 0.002
            acceleration, yaw_rate, speed = can_bus[b, [7, 12, 13]].tolist()
            for k in range(1, 1501):
                fading = math.exp(-(k - 0.5) * dt / decay_s)
                heading, speed = heading + yaw_rate * fading * dt, max(speed + acceleration * fading * dt, 0.0)
                at = at + speed * dt * np.array([-math.sin(heading), math.cos(heading)])
                if k % 250 == 0:
                    np.testing.assert_allclose(path[b, k // 250 - 1].detach(), at, atol=0.15)
    inputs = small_inputs(2)
    torch.testing.assert_close(head(*inputs, can_bus).traj, plain(*inputs).traj + head.motion_prior(can_bus).cumsum(1))
    head(*inputs, can_bus).traj.sum().backward()
    assert head.motion_prior.log_decay.grad.isfinite().all() and head.motion_prior.log_decay.grad.abs().min() > 0


def test_every_parameter_learns_and_the_track_query_does_not() -> None:
    model = PlanHead(SMALL).train()
    bev, pos, ego, command = small_inputs(2)
    traj_query, query = ego.traj_query.clone().requires_grad_(), ego.query.clone().requires_grad_()
    bev.requires_grad_()
    plan = model(bev, pos, ego._replace(traj_query=traj_query, query=query), command)
    plan.traj.square().sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all(), name
    assert bev.grad.abs().sum() > 0 and traj_query.grad[-1, :, -1].abs().sum() > 0
    assert traj_query.grad[-1, :, :-1].abs().sum() == 0
    assert query.grad is None


def test_metres_stay_fp32_under_autocast() -> None:
    model = PlanHead(SMALL).train()
    with torch.autocast("cpu", torch.bfloat16):
        plan = model(*small_inputs(2))
    assert plan.traj.dtype == torch.float32
    plan.traj.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


class Flat(nn.Module):
    """The head with plain tensors, as a graph has them."""

    def __init__(self, head: PlanHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, bev: Tensor, pos: Tensor, traj_query: Tensor, query: Tensor, command: Tensor) -> Tensor:
        nothing = bev.new_zeros(0)
        return self.head(bev, pos, MotionOutput(nothing, nothing, traj_query, query, nothing), command).traj


@torch.no_grad()
def test_onnx_computes_the_same() -> None:
    model, (bev, pos, ego, command) = Flat(PlanHead(SMALL)).eval(), small_inputs(2)
    inputs = {"bev": bev, "pos": pos, "traj_query": ego.traj_query, "query": ego.query, "command": command}
    program = torch.onnx.export(
        model, tuple(inputs.values()), input_names=list(inputs), opset_version=18, dynamo=True, verbose=False
    )
    graph = downgrade_opset(program.model_proto, 17)
    assert audit(graph) == []
    assert not {node.op_type for node in graph.graph.node} & {"CumSum", "NonZero", "ScatterND"}
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {k: v.numpy() for k, v in inputs.items()})[0]
    np.testing.assert_allclose(found, model(*inputs.values()).numpy(), atol=1e-5)


def test_nano_has_a_planning_head_too() -> None:
    spec = nano_spec(2).model.stage2.plan
    assert PlanHead(spec).reg_branch[-1].out_features == 2 * spec.steps


# Commands ---------------------------------------------------------------------------------------------------------------


def test_a_command_outside_0_to_2_is_refused_by_name() -> None:
    assert check_command(1).tolist() == 1
    assert check_command([0, 2]).tolist() == [0, 2]
    for wrong in (3, -1, [0, 7], np.array([1.5])):
        with pytest.raises(UserError, match="no driving command; use 0 right, 1 left, 2 straight"):
            check_command(wrong, "frame 3's command")


def test_golden_extract_is_what_was_recorded(recorded: Recorded) -> None:
    folder = golden_dir()
    if folder is None:
        pytest.skip("golden data absent: set UNIAD_GOLDEN to the folder that holds weight_rule.py")
    source = Recorded.golden(folder, "tiny_stage2", ("forward",))
    for i in range(FRAMES["tiny"]):
        for name in ("mlp_fuser_out", "attn_out", "before_collision_optim", "after_collision_optim"):
            assert torch.equal(source[f"f{i}/plan/{name}"], recorded[f"tiny/f{i}/{name}"])
