"""The motion head against recorded numbers, and what fixed slots promise."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from helpers import motion_data
from helpers.images_to_bev import bev_from_images
from helpers.motion_data import recorded_agents, recorded_head
from helpers.recorded import Prefixed, Recorded, entries, golden_dir
from helpers.specs import edit, nano_spec, tiny_spec
from helpers.tolerances import close
from helpers.weights import fill
from uniad.config.spec import UPSTREAM
from uniad.export.audit import audit
from uniad.export.passes import downgrade_opset, keep_int32_indices
from uniad.interface.types import Agents, MotionOutput
from uniad.models import motion_geometry as geometry
from uniad.models.map import MapHead
from uniad.models.motion import MotionHead
from uniad.ops.sampling import sampling_as

# Small enough for every promise below to be tried in a moment
SMALL = edit(
    nano_spec(2).model.stage2.motion, embed_dims=32, ffn_dims=64, bev_hw=(10, 8), num_layers=2, num_classes=10, det_layers=2,
    group_ids=((0, 1, 2, 3, 4), (6, 7), (8,), (5, 9)), num_heads=4,
)  # fmt: skip


@pytest.fixture(scope="module", params=["golden", "extract"])
def recorded(request: pytest.FixtureRequest) -> Recorded:
    extract = Recorded.extract("motion")
    if request.param == "extract":
        return extract
    source = Prefixed(Recorded.golden(request.getfixturevalue("golden"), "tiny_stage2", ("forward", "modules")), "tiny/")
    source.arrays["anchors"] = np.load(golden_dir() / "motion_anchors.npy")
    return source


@pytest.fixture(scope="module")
def output(recorded: Recorded) -> MotionOutput:
    """Frame 0, from the recorded BEV or from the images that led to it."""
    name = "tiny/f0/bev_embed"
    bev = recorded[name] if name in recorded else bev_from_images(Recorded.extract("map"))
    head = recorded_head(recorded["anchors"])
    with torch.no_grad():
        lanes = fill(MapHead(tiny_spec().model.map), "seg_head.").queries(bev)
        return head(bev, recorded_agents(recorded, "tiny/f0/", padding=3), lanes.query, lanes.query_pos)


def real(x: Tensor, axis: int, padding: int = 3) -> Tensor:
    """Without the empty slots."""
    return torch.cat([x.narrow(axis, 0, x.shape[axis] - 1 - padding), x.narrow(axis, x.shape[axis] - 1, 1)], axis)


def test_every_layer_predicts_what_was_recorded(recorded: Recorded, output: MotionOutput) -> None:
    for name, got in (("all_traj_scores", real(output.score, 2)), ("all_traj_preds", real(output.traj, 2)),
                      ("traj_query", real(output.traj_query, 2)), ("track_query_pos", real(output.query_pos, 1))):  # fmt: skip
        key = f"tiny/f0/mot/{name}"
        close(recorded.thin(key, got), recorded[key], "motion")


def test_anchors_and_their_embeddings_are_the_recorded_ones(recorded: Recorded) -> None:
    head, agents = recorded_head(recorded["anchors"]), no_query(recorded, "tiny/f1/")
    with torch.no_grad():
        whole = head.anchors[head.group_of_class[agents.label.long()]]
        end, agent_end, learnt = head.anchor_ends(agents)
        level = head.goal_embeddings(agent_end, end, agents.boxes)
    trajs = geometry.scene_from_agent(whole, agents.boxes, UPSTREAM)
    assert torch.equal(trajs[..., -1, :], end)
    for name, got in (("reference_trajs", trajs), ("agent_level_embedding", level[0]), ("scene_level_offset_embedding", level[1]),
                      ("scene_level_ego_embedding", level[2]), ("learnable_embed", learnt)):  # fmt: skip
        key = f"tiny/f1/mot/mf_{name}"
        close(recorded.thin(key, got), recorded[key], "module")


def no_query(source: Recorded, at: str) -> Agents:
    boxes = source[f"{at}mot/in_boxes"][None]
    empty = torch.zeros(boxes.shape[:2])
    return Agents(empty, boxes, source[f"{at}mot/in_labels"][None], empty, empty, empty > 0, empty, empty)


@pytest.mark.parametrize("name", ["tiny", "base", "full"])
def test_checkpoint_names_shapes_and_order(golden: Path, name: str) -> None:
    head = MotionHead(motion_data.SPECS["base" if name == "base" else "tiny"], torch.zeros(4, 6, 12, 2))
    wanted = json.loads((golden / f"state_dict_{name}_stage2.json").read_text())
    assert entries(head, "motion_head.") == [entry for entry in wanted if entry[0].startswith("motion_head.")]


@pytest.mark.parametrize("rotation", [UPSTREAM, "fixed"])
def test_turning_into_scene_axes_and_back_is_nothing(rotation: str) -> None:
    points, boxes = torch.randn(2, 3, 6, 2), torch.randn(2, 3, 9)
    there = geometry.scene_from_agent(points, boxes, rotation)
    torch.testing.assert_close(geometry.agent_from_scene(there, boxes, rotation), points)


def test_upstreams_turn_is_reproduced() -> None:
    points, boxes = torch.randn(2, 3, 6, 2), torch.randn(2, 3, 9)
    boxes[..., 6] = 3.1415953 + torch.pi / 2
    there = geometry.scene_from_agent(points, boxes, UPSTREAM)
    torch.testing.assert_close(there, torch.stack([-points[..., 1], points[..., 0]], -1))


def test_an_anchor_straight_ahead_points_where_the_agent_heads() -> None:
    """Ahead is +y of the agent's axes. The box of an agent that heads for the angle h (from x, counter-clockwise) has the yaw
    -pi/2 - h. By hand: the four quarters and one between two of them."""
    yaw = torch.tensor([-torch.pi, -torch.pi / 2, 0.0, torch.pi / 2, -3 * torch.pi / 4])
    heads_for = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [-1.0, 0.0], [0.5**0.5, 0.5**0.5]])
    boxes = torch.zeros(1, 5, 9)
    boxes[0, :, 6] = yaw
    ahead = torch.tensor([0.0, 1.0]).expand(1, 5, 2)
    torch.testing.assert_close(geometry.scene_from_agent(ahead, boxes, "fixed")[0], heads_for, atol=1e-6, rtol=0)
    mirrored = heads_for * torch.tensor([-1.0, 1.0])  # upstream: agents that cross start backwards
    torch.testing.assert_close(geometry.scene_from_agent(ahead, boxes, UPSTREAM)[0], mirrored, atol=1e-5, rtol=0)


# Promises of fixed slots ----------------------------------------------------------------------------------------------


def small_head() -> MotionHead:
    g = torch.Generator().manual_seed(0)
    return fill(MotionHead(SMALL, torch.randn(4, 6, 12, 2, generator=g) * 8), "motion_head.")


def scene(batch: int = 2, agents: int = 5, lanes: int = 7, seed: int = 1) -> tuple[Tensor, Agents, Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(batch, *shape, generator=g)

    valid = torch.tensor([[True, True, False, False, True], [True, False, False, False, True]])[:batch, -agents:]
    boxes = noise(agents, 9) * torch.tensor([20.0, 20, 1, 1, 1, 1, 2, 3, 3])
    labels = torch.arange(batch * agents).view(batch, agents).int() % 10
    ids = torch.where(valid, labels, -1)
    slots = Agents(noise(agents, 32), boxes, labels, noise(agents), ids, valid, labels.long(), labels[:, 0])
    return noise(80, 32), slots, noise(lanes, 32), noise(lanes, 32)


def test_what_an_empty_slot_holds_does_not_matter() -> None:
    head, (bev, agents, lane, pos) = small_head(), scene()
    other = agents._replace(
        query=torch.where(agents.valid[..., None], agents.query, 50.0),
        boxes=torch.where(agents.valid[..., None], agents.boxes, -7.0),
        label=torch.where(agents.valid, agents.label, 3),
    )
    with torch.no_grad():
        one, two = head(bev, agents, lane, pos), head(bev, other, lane, pos)
    for name in ("traj", "score", "traj_query"):
        a, b = getattr(one, name), getattr(two, name)
        assert torch.equal(a[:, agents.valid], b[:, agents.valid])
        assert b.isfinite().all()


def test_a_batch_is_its_samples_one_by_one_and_slots_can_be_left_away() -> None:
    head, (bev, agents, lane, pos) = small_head(), scene()
    with torch.no_grad():
        both = head(bev, agents, lane, pos)
        for i in range(2):
            keep = agents.valid[i]
            alone = Agents(*(x[i : i + 1, keep] if x.dim() > 1 else x[i : i + 1] for x in agents))
            one = head(bev[i : i + 1], alone, lane[i : i + 1], pos[i : i + 1])
            torch.testing.assert_close(one.traj[:, 0], both.traj[:, i, keep], rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(one.score[:, 0], both.score[:, i, keep], rtol=1e-5, atol=1e-5)


def test_the_ego_car_alone_is_enough_and_gradients_are_finite() -> None:
    head, (bev, agents, lane, pos) = small_head().train(), scene()
    agents = agents._replace(valid=torch.tensor([[False] * 4 + [True]] * 2), query=agents.query.requires_grad_())
    out = head(bev.requires_grad_(), agents, lane, pos)
    (out.traj[:, :, -1].sum() + out.score[:, :, -1].sum()).backward()
    for x in (agents.query, bev, *(p for n, p in head.named_parameters() if "layer_track_query_fuser" not in n)):
        assert x.grad is not None and x.grad.isfinite().all()
    assert (agents.query.grad[:, :-1] == 0).all()


def test_a_layers_loss_teaches_no_trajectory_of_a_layer_before_it() -> None:
    """Upstream hands goals and boxes on without their gradients: where a layer ends is taught by its own loss alone."""
    head, (bev, agents, lane, pos) = small_head(), scene()
    agents = agents._replace(boxes=agents.boxes.requires_grad_())
    goals, ends, embed = [], [], head.goal_embeddings
    head.goal_embeddings = lambda *given: goals.append([x.requires_grad for x in given]) or embed(*given)
    for layer in head.motionformer.bev_interaction_layers:
        layer.register_forward_pre_hook(lambda _, given: ends.append(given[3]))
    out = head(bev, agents, lane, pos)
    out.traj[-1].square().sum().backward()
    learns = [any(p.grad.any() for p in branch.parameters()) for branch in head.traj_reg_branches]
    assert learns == [False, True]
    assert len(goals) == SMALL.num_layers and goals[0][-1] and not any(goals[1]), "boxes teach by way of the first goals alone"
    assert [end.requires_grad for end in ends] == [False, False]
    assert torch.equal(ends[1], out.traj[0, ..., -1, :2].detach()), "and it looks where the layer before ended"


def test_mode_probabilities_sum_to_one_and_deviations_are_positive() -> None:
    bev, agents, lane, pos = scene()
    out = small_head()(bev, agents, lane, pos)
    torch.testing.assert_close(out.score.exp().sum(-1), torch.ones(2, 2, 5))
    assert (out.traj[..., 2:4] > 0).all() and (out.traj[..., 4].abs() <= 1).all()


def test_anchors_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"anchors are \(4, 6, 8, 2\), the spec asks for \(4, 6, 12, 2\)"):
        MotionHead(SMALL, torch.zeros(4, 6, 8, 2))


def test_anchors_are_in_no_checkpoint_but_move_with_the_head() -> None:
    head = small_head()
    assert not any("anchors" in name for name in head.state_dict())
    assert head.double().anchors.dtype == torch.float64


class Graph(nn.Module):
    def __init__(self, head: MotionHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, bev, query, boxes, label, valid, lane, pos):
        agents = Agents(query, boxes, label, query[..., 0], label, valid > 0, label, label[:, 0])
        out = self.head(bev, agents, lane, pos)
        return out.traj, out.score, out.traj_query, out.query_pos


@pytest.mark.parametrize("sampling", ["gridsample", "gather"])
def test_a_plain_graph_computes_what_torch_computes(sampling: str) -> None:
    bev, agents, lane, pos = scene()
    inputs = (bev, agents.query, agents.boxes, agents.label, agents.valid.int(), lane, pos)
    model = Graph(small_head()).eval()
    with torch.no_grad(), sampling_as(sampling):
        program = torch.onnx.export(model, inputs, opset_version=18, dynamo=True, verbose=False)
    graph = downgrade_opset(keep_int32_indices(program.model_proto), 17)
    assert audit(graph) == []
    used = {node.op_type for node in graph.graph.node}
    assert not used & {"CumSum", "NonZero", "If", "Loop", "ScatterND", "ScatterElements"}
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    other = scene(seed=2)
    values = (other[0], other[1].query, other[1].boxes, other[1].label, replace_valid(agents.valid), *other[2:])
    got = session.run(None, {i.name: v.numpy() for i, v in zip(session.get_inputs(), values, strict=True)})
    with torch.no_grad():
        for ours, want in zip(got, model(*values), strict=True):
            np.testing.assert_allclose(ours, want.numpy(), rtol=1e-4, atol=1e-4)


def replace_valid(valid: Tensor) -> Tensor:
    """Another set of agents than the graph was traced with."""
    return valid.flip(0).int()


def test_the_number_of_branches_follows_the_spec() -> None:
    head = MotionHead(replace(SMALL, num_layers=1, num_cls_fcs=2), torch.zeros(4, 6, 12, 2))
    assert [len(head.traj_cls_branches), len(head.traj_reg_branches[0])] == [1, 3]
