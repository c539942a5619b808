"""The occupancy head: against upstream, as a batch with empty slots, and as a static graph."""

from __future__ import annotations

import json
import runpy
from dataclasses import replace
from functools import lru_cache

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from helpers.played_frames import STEMS, play
from helpers.recorded import EXTRACTS, Prefixed, Recorded, golden_dir
from helpers.specs import config_path, full_spec, nano_spec, tiny_spec
from helpers.tolerances import close
from helpers.weights import fill
from uniad.config.file import ConfigError
from uniad.config.read import load_spec
from uniad.config.spec import ModelSpec, OccSpec
from uniad.data.occupancy import draw_instances
from uniad.evaluation.occupancy import consecutive
from uniad.export.audit import audit
from uniad.export.passes import downgrade_opset
from uniad.geometry.grid import BevGrid
from uniad.interface.types import Agents, MotionOutput, OccOutput
from uniad.models.agents import select_agents
from uniad.models.motion import MotionHead
from uniad.models.occ import BoxDrawer, OccHead, claim_cells
from uniad.models.occ_layers import GridSlicer, _halve

HALF = (-50.0, 50.0, 2.0)
MODELS: dict[str, ModelSpec] = {
    "tiny": tiny_spec(2).model,
    "base": full_spec(
        2, model__stage2__motion__bev_hw=(50, 50), model__stage2__occ__bev_hw=(50, 50), model__stage2__occ__xbound=HALF,
        model__stage2__occ__ybound=HALF,
    ).model,
}
SMALL = replace(
    nano_spec(2).model.stage2.occ, bev_hw=(11, 9), xbound=(-9.0, 9.0, 2.0), ybound=(-11.0, 11.0, 2.0), slice_bev=False,
    bev_dims=12, proj_dims=16, query_dims=16, embed_dims=16, ffn_dims=24, proj_layers=2, num_heads=4, draw_boxes=False,
)  # fmt: skip
AGENTS, MODES = 5, 3
PLACES = torch.randn(1, SMALL.bev_hw[0] * SMALL.bev_hw[1], SMALL.bev_dims, generator=torch.Generator().manual_seed(9))


@lru_cache
def occ_head(name: str) -> OccHead:
    return fill(OccHead(MODELS[name].stage2.occ), "occ_head.", name)


# Against recorded numbers -----------------------------------------------------------------------------------------------


def test_masks_and_logits_of_the_recorded_bev_and_queries(golden) -> None:
    recorded = Recorded.golden(golden, "tiny_stage2", ("forward",))
    query = recorded["f0/occ/ins_query"]
    head = occ_head("tiny")
    with torch.no_grad():
        raw = head.roll_out(recorded["f0/bev_embed"], query, torch.ones(query.shape[:2], dtype=torch.bool))
    out = head.read(raw, recorded["f0/mot/out_track_scores"])
    for name, got in (("mask_preds", raw.mask_logits), ("ins_occ_logits", raw.logits), ("pred_ins_sigmoid", out.prob)):
        close(recorded.thin(f"f0/occ/{name}", got), recorded[f"f0/occ/{name}"], "module")
    assert torch.equal(out.seg, recorded["f0/occ/seg_out"][:, :, 0].int())
    assert np.array_equal(consecutive(out.ids), recorded["f0/occ/ins_seg_out"])


# Later frames, and base, are compared in test_frames.
@pytest.mark.parametrize("name, frames", [("tiny", 1)])
@torch.no_grad()
def test_occupancy_from_images_is_the_recorded_one(name: str, frames: int) -> None:
    """Tracks, motion and occupancy, frame after frame; in base the grid is cut out of the BEV."""
    spec, head, extract = MODELS[name], occ_head(name), Recorded.extract("occ")
    motion_head = fill(MotionHead(spec.stage2.motion, extract["anchors"]), "motion_head.", name)
    sources = [extract]
    if golden_dir() is not None:
        sources.append(Prefixed(Recorded.golden(golden_dir(), STEMS[name], ("forward",)), f"{name}/"))
    for i, frame in enumerate(play(name, frames).frames):
        step = frame.outputs
        agents = select_agents(step.track, 100, spec.track)
        motion = motion_head(step.bev, agents, step.map.query, step.map.query_pos)
        vehicle = torch.isin(agents.label, torch.tensor(spec.stage2.motion.vehicle_ids)) & agents.valid & (agents.obj_id >= 0)
        raw = head.predict(step.bev, motion, agents, vehicle)
        out, took_part = head(step.bev, motion, agents, vehicle), vehicle[0]
        assert raw.mask_logits is not None and torch.equal(raw.logits, out.logits)
        found = {
            "ins_query": head.fuse(motion, vehicle), "mask_preds": raw.mask_logits, "ins_occ_logits": raw.logits,
            "pred_ins_sigmoid": out.prob,
        }  # fmt: skip
        for source in sources:
            at = f"{name}/f{i}/occ/"
            for key, got in found.items():
                if at + key in source:
                    close(source.thin(at + key, got[:, took_part]), source[at + key], "occ")
            # Measured: no cell differs; the recorded margin to the threshold is 6e-6.
            assert (out.seg != source[at + "seg_out"][:, :, 0].int()).sum() <= 2
            assert (consecutive(out.ids) != source[at + "ins_seg_out"].numpy()).sum() <= 4


def test_the_committed_extract_is_what_was_recorded(golden) -> None:
    remade = runpy.run_path(str(EXTRACTS / "make_occ.py"))["compact"](golden)
    kept = Recorded.extract("occ").arrays
    assert kept.keys() == remade.keys()
    for name, value in remade.items():
        assert np.array_equal(kept[name], value), name


def test_ids_of_cells_are_the_recorded_ones() -> None:
    recorded = Recorded.extract("occ")
    ids = claim_cells(recorded["occ_ins/pred_ins_sigmoid"], recorded["occ_ins/seg_out"][:, :, 0])
    assert np.array_equal(consecutive(ids), recorded["occ_ins/ins_seg_out"])


@pytest.mark.parametrize("variant, name", [("tiny", "tiny"), ("base", "base"), ("full", "base")])
def test_parameters_carry_the_upstream_names_and_shapes(variant: str, name: str) -> None:
    with torch.device("meta"):
        head = OccHead({"tiny": tiny_spec, "base": full_spec}[name](2).model.stage2.occ)
    learns = dict(head.named_parameters())
    entries = sorted(
        [f"occ_head.{k}", list(v.shape), str(v.dtype)[len("torch.") :], learns[k].requires_grad if k in learns else "buffer"]
        for k, v in head.state_dict().items()
    )
    assert entries == json.loads(str(Recorded.extract("occ").arrays[f"{name}/state_dict"]))
    if golden_dir() is not None:
        names = json.loads((golden_dir() / f"state_dict_{variant}_stage2.json").read_text())
        assert entries == sorted(n for n in names if n[0].startswith("occ_head."))


def test_copies_start_equal_and_the_transformer_starts_wide() -> None:
    head = OccHead(SMALL)
    first, last = head.downscale_convs[0], head.downscale_convs[-1]
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), last.state_dict().values()))
    weight = head.transformer_decoder.layers[0].ffns[0].layers[1].weight
    assert weight.std().item() == pytest.approx((2 / sum(weight.shape)) ** 0.5, rel=0.2)


# Batches, empty slots ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def head() -> OccHead:
    return lively(OccHead(SMALL))


def lively(head: OccHead) -> OccHead:
    """Random weights and running statistics, with logits that pass their thresholds here and there."""
    fill(head, "occ_head.", "tiny")
    with torch.no_grad():
        head.query_to_occ_feat.layers[-1].bias.normal_(0, 0.5, generator=torch.Generator().manual_seed(3))
    return head


class Case:
    """Inputs of a step; slots without a vehicle hold rubbish, the last slot is the ego car."""

    def __init__(self, vehicles: list[int], seed: int = 0, rubbish: float = 50.0) -> None:
        g = torch.Generator().manual_seed(seed)
        batch, dim = len(vehicles), SMALL.bev_dims  # tracks are as wide as the BEV
        self.vehicle = torch.arange(AGENTS) < torch.tensor(vehicles)[:, None]
        cells = SMALL.bev_hw[0] * SMALL.bev_hw[1]
        self.bev = torch.randn(batch, cells, SMALL.bev_dims, generator=g)
        traj = torch.randn(2, batch, AGENTS, MODES, dim, generator=g)
        query, pos = torch.randn(batch, AGENTS, dim, generator=g), torch.randn(batch, AGENTS, dim, generator=g)
        score = torch.rand(batch, AGENTS, generator=g)
        empty = torch.where(self.vehicle, 0.0, rubbish)[..., None]
        self.motion = MotionOutput(None, None, traj + empty[..., None], query + empty, pos + empty)
        valid = self.vehicle.clone()
        valid[:, -1] = True
        self.agents = Agents(query, None, None, score, None, valid, None, None)

    def run(self, head: OccHead) -> OccOutput:
        return head(self.bev, self.motion, self.agents, self.vehicle, PLACES)

    def sample(self, b: int) -> Case:
        one = object.__new__(Case)
        one.bev, one.vehicle = self.bev[b : b + 1], self.vehicle[b : b + 1]
        traj, query, pos = (x.narrow(axis, b, 1) for x, axis in zip(self.motion[2:], (1, 0, 0)))
        one.motion = MotionOutput(None, None, traj, query, pos)
        one.agents = self.agents._replace(**{k: getattr(self.agents, k)[b : b + 1] for k in ("query", "score", "valid")})
        return one


@torch.no_grad()
def test_a_batch_computes_what_its_samples_compute_alone(head: OccHead) -> None:
    case = Case([3, 1, 0])
    both = case.run(head)
    assert both.seg[:2].any() and not both.seg.all()
    for b in range(3):
        alone = case.sample(b).run(head)
        for name in ("logits", "prob"):
            torch.testing.assert_close(getattr(alone, name)[0], getattr(both, name)[b], rtol=1e-4, atol=1e-5)
        assert torch.equal(alone.seg[0], both.seg[b]) and torch.equal(alone.ids[0], both.ids[b])


@torch.no_grad()
def test_what_empty_slots_hold_changes_nothing(head: OccHead) -> None:
    clean, dirty = Case([3, 0], rubbish=0.0), Case([3, 0], rubbish=float("nan"))
    a, b = clean.run(head), dirty.run(head)
    for x, y in zip(a, b):
        assert torch.equal(x, y)


@torch.no_grad()
def test_more_slots_change_nothing(head: OccHead) -> None:
    case = Case([2])
    few = case.sample(0)
    few.vehicle = few.vehicle[:, :2]
    few.motion = MotionOutput(None, None, *(x[..., :2, :, :] if x.dim() == 5 else x[:, :2] for x in case.motion[2:]))
    few.agents = few.agents._replace(score=few.agents.score[:, :2], valid=few.vehicle)
    a, b = few.run(head), case.run(head)
    torch.testing.assert_close(a.prob, b.prob[:, :2], rtol=1e-4, atol=1e-6)
    assert torch.equal(a.ids, b.ids) and not b.prob[:, 2:].any()


@torch.no_grad()
def test_without_a_vehicle_the_grid_is_empty(head: OccHead) -> None:
    out = Case([0, 0]).run(head)
    assert torch.isfinite(out.logits).all()
    for value in (out.valid, out.prob, out.seg, out.ids):
        assert not value.any()


@torch.no_grad()
def test_ids_follow_the_agent_and_occupied_cells(head: OccHead) -> None:
    out = Case([3]).run(head)
    assert torch.equal(out.ids > 0, out.seg == 1)
    assert torch.equal(out.seg == 1, out.prob.amax(1) > SMALL.test_seg_thresh)
    own = out.prob.gather(1, (out.ids.long() - 1).clamp(min=0)[:, None])[:, 0]
    assert torch.equal(own[out.seg == 1], out.prob.amax(1)[out.seg == 1])
    assert out.ids.max() <= 3


@torch.no_grad()
def test_cell_features_tell_cells_of_the_same_state_apart(head: OccHead) -> None:
    """Logits move where a cell's own feature or place changes, by the head's query, and nowhere else."""
    case, plain = Case([3]), lively(OccHead(replace(SMALL, cell_features=False)))

    def logits(head: OccHead, places: Tensor) -> Tensor:
        return head.predict(case.bev, case.motion, case.agents, case.vehicle, places).logits

    elsewhere = PLACES.clone()
    elsewhere[:, 40] += 1.0
    row, column = divmod(40, SMALL.bev_hw[1])
    moved = (logits(head, PLACES) != logits(head, elsewhere)).any(2)[0, :3]
    assert moved[:, row, column].all() and moved.sum() == 3
    assert torch.equal(logits(plain, PLACES), logits(plain, elsewhere))
    assert {name.split(".")[0] for name in head.state_dict().keys() - plain.state_dict().keys()} == {"cell_proj"}


@pytest.mark.parametrize("cell", [0.5, 2.0])
@torch.no_grad()
def test_boxes_are_drawn_as_the_labels_are_where_their_velocity_takes_them(cell: float) -> None:
    """Before anything is learnt, boxes give the masks that labels have, but for cells that a box's edge passes through."""
    rng = np.random.default_rng(0)
    grid = BevGrid.from_bounds((-50.0, 50.0, cell), (-50.0, 50.0, cell))
    boxes = np.zeros((1, 40, 9), np.float32)
    boxes[..., :2], boxes[..., 3:6] = rng.uniform(-35, 35, (1, 40, 2)), rng.uniform((1.6, 3.8, 1), (3.0, 12.0, 2), (1, 40, 3))
    boxes[..., 6], boxes[..., 7:] = rng.uniform(-np.pi, np.pi, (1, 40)), rng.uniform(-5, 5, (1, 40, 2))
    drawer = BoxDrawer(16, 5, grid)
    logits = drawer(torch.from_numpy(boxes), torch.randn(1, 40, 16))
    assert logits.shape == (1, 40, 5, *grid.shape) and logits.min() >= -8 and logits.max() > 0
    for step in range(5):
        there = boxes[0].copy()
        there[:, :2] += there[:, 7:] * 0.5 * step
        masks = np.stack([draw_instances(grid, box[None], np.array([1]))[0] for box in there]) > 0
        found = logits[0, :, step].numpy() > 0
        assert (masks & found).sum() / (masks | found).sum() > (0.9 if cell < 1 else 0.7)
        wrong = np.abs(found.sum((1, 2)) / masks.sum((1, 2)) - 1)
        assert wrong.mean() < 0.2  # neither fatter nor thinner


def test_a_head_that_draws_boxes_learns_to_correct_them() -> None:
    case, plain, drawing = Case([3]), lively(OccHead(SMALL)), OccHead(replace(SMALL, draw_boxes=True)).eval()
    drawing.load_state_dict(plain.state_dict(), strict=False)
    agents = case.agents._replace(boxes=torch.rand(1, AGENTS, 9) * 4)
    words = case.bev, case.motion, agents, case.vehicle, PLACES
    drawn = drawing.predict(*words).logits - plain.predict(*words).logits
    query = drawing.fuse(case.motion, case.vehicle & agents.valid)
    torch.testing.assert_close(drawn, drawing.box_drawer(agents.boxes, query), atol=1e-4, rtol=1e-4)
    drawing.predict(*words).logits[:, :3].sigmoid().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in drawing.box_drawer.parameters())
    assert drawing.box_drawer.margin.grad.abs().sum() > 0
    assert {name.split(".")[0] for name in drawing.state_dict().keys() - plain.state_dict().keys()} == {"box_drawer"}


@torch.no_grad()
def test_the_score_of_the_track_counts_only_where_asked(head: OccHead) -> None:
    case = Case([3])
    raw = head.predict(case.bev, case.motion, case.agents, case.vehicle, PLACES)
    plain = OccHead(replace(SMALL, test_with_track_score=False)).read(raw, case.agents.score)
    weighted = head.read(raw, case.agents.score)
    score = case.agents.score[:, :3, None, None, None]
    torch.testing.assert_close(weighted.prob[:, :3], plain.prob[:, :3] * score)


def test_a_cell_looks_only_at_agents_that_may_cover_it(head: OccHead) -> None:
    mask = torch.tensor([[[[4.0, -4.0]], [[-4.0, -4.0]], [[9.0, 9.0]]]])  # agents 0 and 1, slot 2 is empty; two cells
    blocked = head._blocked(mask, torch.tensor([[True, True, False]]))
    assert blocked[0].tolist() == [[False, True, True], [False, False, True]]  # none covers cell 1: it looks at both


def test_gradients_are_finite_with_and_without_vehicles() -> None:
    for vehicles in ([2, 0], [0, 0]):
        head = lively(OccHead(SMALL)).train()
        case = Case(vehicles)
        inputs = [case.bev, *case.motion[2:]]
        for x in inputs:
            x.requires_grad_()
        raw = head.predict(case.bev, case.motion, case.agents, case.vehicle, PLACES)
        (raw.logits.square().mean() + raw.mask_logits.square().mean()).backward()
        for name, p in head.named_parameters():
            if "post_norm" in name:
                assert p.grad is None
            else:
                assert torch.isfinite(p.grad).all(), name
        traj, query = case.motion.traj_query.grad, case.motion.query.grad
        assert torch.isfinite(traj).all() and not traj[-1][~case.vehicle].any() and not query[~case.vehicle].any()
        assert case.motion.query_pos.grad is None  # positions learn nothing here
        assert query.any() == any(vehicles)


@torch.no_grad()
def test_training_updates_running_statistics_evaluation_does_not() -> None:
    head, case = lively(OccHead(SMALL)), Case([2])
    norm = head.dense_decoder.layers[0].conv[2]
    before = norm.running_mean.clone()
    case.run(head)
    assert torch.equal(norm.running_mean, before)
    case.run(head.train())
    assert not torch.equal(norm.running_mean, before) and norm.num_batches_tracked == 1


def test_half_precision_agrees_with_full(head: OccHead) -> None:
    case = Case([3])
    with torch.no_grad():
        want = case.run(head)
        with torch.autocast("cpu", torch.bfloat16):
            got = case.run(head)
    assert got.prob.dtype == torch.float32
    assert (got.prob - want.prob).abs().max() < 0.05


# The grid ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [0.5, 2.0, 7.0])
def test_cutting_the_grid_samples_bilinearly(step: float) -> None:
    """Against the general sampler; cells beyond the map fade to zero."""
    grid = BevGrid(-21.0, -14.0, step, step / 2, int(49 / step), int(63 / step))
    first, last = (-15.0, -12.5), (20.0, 10.0)
    x = torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(0))
    got = GridSlicer((8, 10), (first[0], last[0], first[1], last[1]), grid)(x)
    cells = [
        (start + size * (torch.arange(n) + 0.5) - lo) / (hi - lo) * 2 - 1
        for start, size, n, lo, hi in (
            (grid.x_min, grid.cell_x, grid.columns, first[0], last[0]), (grid.y_min, grid.cell_y, grid.rows, first[1], last[1])
        )
    ]  # fmt: skip
    where = torch.stack(torch.meshgrid(*cells, indexing="xy"), -1).expand(2, -1, -1, -1)
    want = F.grid_sample(x, where, mode="bilinear", align_corners=True)
    assert got.shape == (2, 3, *grid.shape)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def aligned(variant: str) -> OccSpec:
    return load_spec(config_path(variant, 2), ["native.compat=dict(occ_grid='fixed')"]).model.stage2.occ


@pytest.mark.parametrize("variant", ["tiny", "full", "nano"])
def test_the_aligned_grid_shows_each_cell_its_own_place(variant: str) -> None:
    """A BEV whose features are its cells' positions: cut, it must hold the positions of the labels' cells."""
    spec = aligned(variant)
    bev = BevGrid.from_bounds(*(2 * [(-51.2, 51.2, 102.4 / spec.bev_hw[0])]))
    assert spec.slice_bev and bev.shape == spec.bev_hw
    labels = BevGrid.from_bounds(spec.xbound, spec.ybound)
    places = torch.stack(torch.meshgrid(centres(bev.x_min, bev.cell_x, bev.columns), centres(bev.y_min, bev.cell_y, bev.rows),
                                        indexing="xy"))  # fmt: skip
    cut = GridSlicer(spec.bev_hw, spec.bev_centres, labels)(places[None])[0]
    x, y = centres(labels.x_min, labels.cell_x, labels.columns), centres(labels.y_min, labels.cell_y, labels.rows)
    torch.testing.assert_close(cut, torch.stack(torch.meshgrid(x, y, indexing="xy")), rtol=1e-4, atol=1e-3)


def centres(first: float, step: float, count: int) -> Tensor:
    return first + step * (torch.arange(count) + 0.5)


def test_the_aligned_head_needs_no_new_parameter_and_keeps_the_labels_grid() -> None:
    upstream, fixed = MODELS["tiny"].stage2.occ, aligned("tiny")
    assert (fixed.xbound, fixed.ybound) == (upstream.xbound, upstream.ybound) and not upstream.slice_bev
    with torch.device("meta"):
        shapes = [{k: v.shape for k, v in OccHead(s).state_dict().items()} for s in (upstream, fixed)]
    assert shapes[0] == shapes[1]
    head = fill(OccHead(fixed), "occ_head.", "tiny")
    with torch.no_grad():
        both = torch.ones(1, 2, dtype=torch.bool)
        raw = head.roll_out(torch.randn(1, 2500, 256), torch.randn(1, 2, 256), both, with_masks=False)
    assert raw.logits.shape == (1, 2, 5, 50, 50)


def test_a_grid_that_is_not_the_bevs_must_be_cut_out() -> None:
    with pytest.raises(ConfigError, match=r"grid_conf.*\(100, 50\) cells.*bevslicer=True"):
        load_spec(config_path("tiny", 2), ["model.occ_head.grid_conf.ybound=[-25.0, 25.0, 0.5]"])


# Export -----------------------------------------------------------------------------------------------------------------


class Flat(nn.Module):
    """The head with plain tensors in and out."""

    def __init__(self, head: OccHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, bev: Tensor, traj: Tensor, query: Tensor, pos: Tensor, score: Tensor, vehicle: Tensor):
        agents = Agents(query, None, None, score, None, vehicle > 0, None, None)
        out = self.head(bev, MotionOutput(None, None, traj, query, pos), agents, vehicle > 0, PLACES)
        return out.logits, out.prob, out.seg, out.ids


@torch.no_grad()
def test_onnx_computes_the_same() -> None:
    spec = replace(SMALL, slice_bev=True, bev_centres=(-8.0, 8.5, -10.0, 11.5))
    model = Flat(lively(OccHead(spec))).eval()
    case = Case([3, 0], rubbish=2.0)
    names = ("bev", "traj", "query", "pos", "score", "vehicle")
    inputs = (case.bev, *case.motion[2:], case.agents.score, case.vehicle.int())
    program = torch.onnx.export(model, inputs, input_names=names, opset_version=18, dynamo=True, verbose=False)
    graph = downgrade_opset(program.model_proto, 17)
    assert audit(graph) == []
    assert not {node.op_type for node in graph.graph.node} & {"CumSum", "NonZero", "ScatterND", "GridSample", "TopK"}
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    other = Case([1, 2], seed=5, rubbish=2.0)
    for c in (case, other):
        args = (c.bev, *c.motion[2:], c.agents.score, c.vehicle.int())
        found = session.run(None, {k: v.numpy() for k, v in zip(names, args)})
        want = model(*args)
        for got, expected in zip(found[:2], want[:2]):
            np.testing.assert_allclose(got, expected.numpy(), atol=2e-4, rtol=1e-4)
        assert (found[2] != want[2].numpy()).sum() == 0 and (found[3] != want[3].numpy()).sum() == 0


@pytest.mark.parametrize("size", [(6, 4), (7, 4), (6, 5), (7, 5)])
def test_an_odd_edge_is_pooled_with_zeros(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)) - 0.5
    assert torch.equal(_halve(x), F.max_pool2d(F.pad(x, (0, size[1] % 2, 0, size[0] % 2)), 2))
