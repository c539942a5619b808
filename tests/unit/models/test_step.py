"""The step as a function: batches, scene changes, purity, full slots, gradients and tracing, on the smallest model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.decoded import decode_detections, decode_tracks
from helpers.specs import edit, nano_spec, tiny_spec
from helpers.weights import fill
from uniad.config.spec import Spec
from uniad.export.wrapper import ExportStep
from uniad.interface.contract import contract_for, pack_frame, pack_state
from uniad.interface.types import EGO_ID, Frame, State, StepOutputs, TrackOutput
from uniad.models.uniad import UniAD

SPEC = nano_spec()
# Scores of the test weights lie around this, so that tracks are born, sleep and die.
THRESHOLDS = {"model__track__score_thresh": 0.89, "model__track__filter_score_thresh": 0.88}


def _model(spec: Spec) -> UniAD:
    torch.set_num_threads(1)
    return fill(UniAD(spec.model))


@pytest.fixture(scope="module")
def spec() -> Spec:
    return edit(SPEC, **THRESHOLDS)


@pytest.fixture(scope="module")
def model(spec: Spec) -> UniAD:
    return _model(spec)


def _frames(count: int, seed: int, starts: tuple[int, ...] = (0,)) -> list[Frame]:
    """A small world of noise: a car that drives at 6 m/s and turns."""
    g = torch.Generator().manual_seed(seed)
    image = SPEC.data.image
    camera = torch.eye(4).repeat(6, 1, 1)
    camera[:, :3, :3] = torch.tensor([[100.0, 112.0, 0.0], [0.0, 64.0, -100.0], [0.0, 1.0, 0.0]])
    frames = []
    for i in range(count):
        yaw = torch.tensor(0.3 + 0.05 * i + seed)
        c, s, zero, one = yaw.cos(), yaw.sin(), torch.zeros(()), torch.ones(())
        can_bus = torch.randn(18, generator=g)
        can_bus[:3] = torch.tensor([600.0 + 3 * i, 1600.0, 0.0])
        can_bus[16], can_bus[17] = yaw, torch.rad2deg(yaw)
        frames.append(
            Frame(
                img=torch.randn(1, 6, 3, image.height, image.width, generator=g),
                lidar2img=camera[None],
                can_bus=can_bus[None],
                l2g_r=torch.stack([c, s, zero, -s, c, zero, zero, zero, one]).view(1, 3, 3),
                l2g_t=torch.tensor([[600.0 + 3 * i, 1600.0, 1.8]]),
                time_s=torch.tensor([0.5 * i]),
                scene_start=torch.tensor([i in starts]),
                command=torch.tensor([2], dtype=torch.int32),
            )
        )
    return frames


@torch.no_grad()
def _play(model: UniAD, frames: list[Frame], state: State | None = None) -> list[tuple[StepOutputs, State]]:
    state = model.init_state(len(frames[0].img)) if state is None else state
    played = []
    for frame in frames:
        outputs, state = model.step(frame, state)
        played.append((outputs, state))
    return played


def _leaves(value: object) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [x for item in value or () for x in _leaves(item)]


def test_tracks_live_over_several_frames(model: UniAD) -> None:
    tracks = [outputs.track for outputs, _ in _play(model, _frames(3, 0))]
    ids = [set(t.obj_id[t.obj_id >= 0].tolist()) for t in tracks]
    assert 3 < len(ids[0]) < 30 and ids[0] <= ids[1] < ids[2], "the thresholds of this test no longer fit its weights"
    assert any(((t.obj_id >= 0) & ~t.active).any() for t in tracks), "no track ever sleeps"
    assert not any(t.dropped.any() for t in tracks)


def test_a_batch_is_as_many_independent_cars(model: UniAD) -> None:
    # The second car begins a new scene in the middle.
    left, right = _frames(3, 0), _frames(3, 1, starts=(0, 2))
    alone = [_play(model, frames) for frames in (left, right)]
    both = _play(model, [Frame(*(torch.cat(pair) for pair in zip(a, b))) for a, b in zip(left, right)])
    for i, (outputs, state) in enumerate(both):
        for b in range(2):
            want_out, want_state = alone[b][i]
            for got, want in zip(_leaves((outputs, state)), _leaves((want_out, want_state))):
                if got.is_floating_point():
                    torch.testing.assert_close(got[b], want[0], rtol=1e-3, atol=1e-3)
            for name in ("obj_id", "valid", "active", "dropped"):
                assert torch.equal(getattr(outputs.track, name)[b], getattr(want_out.track, name)[0]), name
            assert torch.equal(state.next_id[b], want_state.next_id[0])


def test_the_step_keeps_nothing_and_changes_no_input(model: UniAD) -> None:
    frame, state = _frames(2, 0)[1], _play(model, _frames(1, 0))[0][1]
    inputs = [x.clone() for x in _leaves((frame, state))]
    first, second = (_play(model, [frame], state)[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(_leaves(first), _leaves(second)))
    assert all(torch.equal(a, b) for a, b in zip(_leaves((frame, state)), inputs))


def test_a_new_scene_forgets_tracks_and_bev_but_not_the_ids_given(spec: Spec) -> None:
    model = _model(edit(spec, model__compat=spec.model.compat.__class__(first_frame_pose="fixed")))
    frames = _frames(3, 0, starts=(0, 2))
    played = _play(model, frames)
    assert (played[1][1].tracks.obj_id >= 0).any()
    fresh = _play(model, [frames[2]])[0][0]
    torch.testing.assert_close(played[2][0].bev, fresh.bev)
    track = played[2][0].track
    assert not track.valid[:, spec.model.track.num_query + 1 :].any()
    new = track.obj_id[track.obj_id >= 0]
    assert new.min() == played[1][1].next_id[0], "ids keep growing over scenes"
    fresh_rows = spec.model.track.num_query + 1
    torch.testing.assert_close(track.boxes[:, :fresh_rows], fresh.track.boxes[:, :fresh_rows])


def test_first_frame_keeps_the_upstream_pose_difference_unless_fixed(spec: Spec) -> None:
    model = UniAD(edit(spec.model, compat=spec.model.compat.__class__()))
    first, later = _frames(2, 0, starts=(0, 1))
    state = model.init_state()
    assert torch.equal(model.pose_delta(first, state), first.can_bus)
    state = model.next_state(first, state.prev_bev, state.tracks, state.next_id)
    delta = model.pose_delta(later, state)
    assert torch.allclose(delta[:, :3], later.can_bus[:, :3] - first.can_bus[:, :3]) and delta[0, 17] != 0
    assert torch.equal(delta[:, 3:17], later.can_bus[:, 3:17])
    fixed = UniAD(edit(spec.model, compat=spec.model.compat.__class__(first_frame_pose="fixed")))
    delta = fixed.pose_delta(later, state)
    assert not delta[:, :3].any() and delta[0, 17] == 0


def test_when_slots_run_out_the_best_tracks_stay_and_the_rest_is_counted(spec: Spec) -> None:
    small = _model(edit(spec, model__track__capacity=4))
    outputs, state = _play(small, _frames(1, 0))[0]
    track = outputs.track
    tracked = track.obj_id[0] >= 0
    assert int(tracked.sum()) > 4 and track.dropped.tolist() == [int(tracked.sum()) - 4]
    best = track.score[0].masked_fill(~tracked, -1).topk(4).indices.sort().values
    assert torch.equal(state.tracks.obj_id[0], track.obj_id[0, best])


def test_initial_state_is_the_contract_s() -> None:
    for spec in (SPEC, tiny_spec()):
        contract = contract_for(spec)
        with torch.device("meta"):
            model = UniAD(spec.model)
        state = model.init_state(1, "cpu")
        for name, got in zip(contract.initial_state(), pack_state(contract, state)):
            want = torch.from_numpy(contract.initial_state()[name])
            assert torch.equal(got, want) and got.dtype == want.dtype, name


def test_tracing_finds_no_branch_on_data_and_no_size_that_depends_on_it(spec: Spec, model: UniAD) -> None:
    contract = contract_for(spec)
    state = _play(model, _frames(1, 0))[0][1]
    tensors = (*pack_frame(contract, _frames(2, 0)[1]), *pack_state(contract, state))
    step = ExportStep(model, contract).eval()
    with torch.no_grad():
        program = torch.export.export(step, tensors, strict=False)
        for got, want in zip(program.module()(*tensors), step(*tensors)):
            torch.testing.assert_close(got, want)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    dynamic = ("aten.nonzero", "aten.masked_select", "aten._local_scalar_dense", "aten.item", "aten.unique", "sym_size")
    assert not {name for name in called if name.startswith(dynamic)}


def test_gradients_reach_every_learned_part_of_tracking_over_two_frames(spec: Spec) -> None:
    model = _model(spec)
    (first, second), state = _frames(2, 0), model.init_state()
    for frame in (first, second):
        feats = model.extract_features(frame.img)
        bev = model.encode_bev(feats, frame, model.pose_delta(frame, state), state.prev_bev, state.has_prev_bev)
        rows = model.rows(model.propagate(frame, state))
        det = model.detect(bev, rows)
        report, after, selection, next_id = model.associate(rows, det, state.next_id)
        tracks = model.carry_tracks(after, selection, report)
        state = model.next_state(frame, bev, tracks, next_id)
    carried = det.boxes[:, :, spec.model.track.num_query + 1 :][:, rows.valid[:, spec.model.track.num_query + 1 :]]
    fresh = det.cls[:, :, : spec.model.track.num_query].square().sum() + det.past_traj.square().sum()
    (carried.square().sum() + fresh + state.tracks.mem_bank.square().sum() + state.tracks.query.square().sum()).backward()
    parts = ("query_embedding", "reference_points", "query_interact", "memory_bank", "pts_bbox_head", "img_neck", "img_backbone")
    silent = [n for n, p in model.named_parameters() if n.startswith(parts) and p.requires_grad and p.grad is None]
    # One pyramid level is fed, so the embeddings of the others are read by nobody; they still receive a zero gradient.
    assert not silent, silent
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def _results() -> TrackOutput:
    score = torch.tensor([[0.5, 0.9, 0.7, 0.8, 0.2, 0.0]])
    boxes = torch.zeros(1, 6, 9)
    boxes[0, :, 0] = torch.tensor([1.0, 2.0, 70.0, 4.0, 5.0, 6.0])  # the third is out of range
    return TrackOutput(
        boxes=boxes, cls_logits=torch.zeros(1, 6, 10), score=score, label=torch.arange(6, dtype=torch.int32)[None],
        obj_id=torch.tensor([[11, 12, 13, -1, EGO_ID, -1]], dtype=torch.int32),
        valid=torch.tensor([[True] * 5 + [False]]), active=torch.tensor([[True, True, True, False, False, False]]),
        embedding=torch.zeros(1, 6, 8), dropped=torch.zeros(1, dtype=torch.int32),
    )  # fmt: skip


def test_results_are_sorted_by_score_limited_and_inside_the_range() -> None:
    track = _results()
    spec = tiny_spec().model.track
    tracks = decode_tracks(track, 0, spec)
    assert tracks["track_ids"].tolist() == [12, 11] and tracks["rows"].tolist() == [1, 0]
    assert tracks["bbox_index"].tolist() == [1, 2, 0] and tracks["mask"].tolist() == [True, False, True]
    assert decode_detections(track, 0, spec)["labels"].tolist() == [1, 3, 0, 4]
    assert decode_detections(track, 0, edit(spec, max_num=2))["labels"].tolist() == [1, 3]
    ego = track.obj_id[0] == EGO_ID
    assert track.boxes[0, ego, 0].tolist() == [5.0] and track.score[0, ego].tolist() == pytest.approx([0.2])


def test_half_precision_keeps_the_state_s_types(model: UniAD) -> None:
    frames = _frames(2, 0)
    want = [x.dtype for x in _leaves(model.init_state())]
    with torch.autocast("cpu", torch.bfloat16):
        played = _play(model, frames)
    for outputs, state in played:
        assert [x.dtype for x in _leaves(state)] == want
        assert outputs.bev.dtype == outputs.track.boxes.dtype == outputs.track.embedding.dtype == torch.float32
        assert all(torch.isfinite(x).all() for x in _leaves((outputs, state)))
