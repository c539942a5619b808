"""Memory bank, query interaction and detection decoder against recorded inputs and outputs; padding must not show."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from helpers.recorded import Recorded
from helpers.specs import nano_spec, tiny_spec
from helpers.tolerances import close
from helpers.weights import fill
from uniad.interface.types import DetOutput
from uniad.models.decoder import DetectionBranches, DetectionDecoder, detect
from uniad.models.track import empty_tracks
from uniad.models.track_modules import MemoryBank, QueryInteraction, ReferencePoints

MODEL = tiny_spec().model


@pytest.fixture(scope="module")
def tiny(golden) -> Recorded:
    return Recorded.golden(golden, "tiny_stage2", ("forward", "modules"))


@pytest.fixture(scope="module", params=["golden", "extract"])
def memory(request: pytest.FixtureRequest) -> Recorded:
    return Recorded.extract("track") if request.param == "extract" else request.getfixturevalue("tiny")


def test_memory_bank_equals_the_recorded_one(memory: Recorded) -> None:
    bank = fill(MemoryBank(MODEL.track), "memory_bank.")
    at = "f1/mem/"
    stored = memory[at + "in_mem_bank"][None]
    tracks = empty_tracks(1, stored.shape[1], 256, 4)._replace(
        mem_bank=stored,
        mem_padding=memory[at + "in_mem_padding_mask"][None].bool(),
        save_period=memory[at + "in_save_period"][None],
    )
    with torch.no_grad():
        embedding, after = bank(memory[at + "in_output_embedding"][None], memory[at + "in_scores"][None], tracks)
    close(embedding[0], memory[at + "out_output_embedding"], "module")
    close(memory.thin(at + "out_mem_bank", after.mem_bank[0]), memory[at + "out_mem_bank"], "module")
    assert torch.equal(after.mem_padding[0], memory[at + "out_mem_padding_mask"].bool())
    assert torch.equal(after.save_period[0], memory[at + "out_save_period"])


def test_memory_saves_every_fourth_frame_at_test_and_every_frame_in_training() -> None:
    bank = MemoryBank(MODEL.track)
    saved: dict[bool, list[int]] = {}
    for training in (False, True):
        bank.train(training)
        tracks, saved[training] = empty_tracks(1, 1, 256, 4), []
        for frame in range(9):
            before = tracks.mem_bank
            _, tracks = bank(torch.randn(1, 1, 256), torch.full((1, 1), 0.6), tracks)
            if not torch.equal(before, tracks.mem_bank):
                saved[training].append(frame)
    assert saved == {False: [0, 4, 8], True: list(range(9))}
    _, unscored = bank(torch.randn(1, 1, 256), torch.zeros(1, 1), empty_tracks(1, 1, 256, 4))
    assert unscored.mem_padding.all()


def test_query_interaction_equals_the_recorded_one_whatever_is_padded(tiny: Recorded) -> None:
    module = fill(QueryInteraction(MODEL.track), "query_interact.")
    query, embedding = tiny["f1/qim/in_query_active"][None], tiny["f1/qim/in_output_embedding_active"][None]
    n = query.shape[1]
    padded_query, padded_embedding = (torch.cat([x, 9.0 * torch.randn(1, 7, x.shape[2])], 1) for x in (query, embedding))
    with torch.no_grad():
        out = module(padded_query, padded_embedding, torch.arange(n + 7)[None] < n)
    close(out[0, :n], tiny["f1/qim/out_query"], "module")


def test_no_track_at_all_gives_finite_queries_and_gradients() -> None:
    module = QueryInteraction(MODEL.track)
    query = torch.randn(2, 4, 512, requires_grad=True)
    module(query, torch.randn(2, 4, 256), torch.zeros(2, 4, dtype=torch.bool)).sum().backward()
    assert torch.isfinite(query.grad).all()


def _decoder(spec=MODEL.decoder) -> tuple[nn.Module, nn.Module]:
    return fill(DetectionDecoder(spec), "pts_bbox_head.transformer.decoder."), fill(DetectionBranches(spec), "pts_bbox_head.")


def test_decoder_equals_the_recorded_one(tiny: Recorded) -> None:
    query = fill(nn.Embedding(901, 512), "query_embedding.").weight[None]
    ref_pts = fill(ReferencePoints(256), "reference_points.")(query)
    close(ref_pts[0], tiny["f0/dec/ref_points_in"], "module")
    # Two batch elements, the second of them with padded rows that must change nothing.
    query = torch.cat([query, torch.randn(1, 3, 512)], 1).expand(2, -1, -1)
    ref_pts = torch.cat([ref_pts, torch.randn(1, 3, 3)], 1).expand(2, -1, -1)
    valid = (torch.arange(904) < 901).expand(2, -1)
    with torch.no_grad():
        out = detect(*_decoder(), tiny["f0/bev_embed"].expand(2, -1, -1), (50, 50), query, ref_pts, valid, MODEL.decoder.pc_range)
    for b in range(2):
        cut = DetOutput(*(x[:, b : b + 1, :901] if x.dim() > 3 else x[b : b + 1, :901] for x in out))
        names = {
            "all_cls_scores": cut.cls, "all_bbox_preds": cut.boxes, "all_past_traj_preds": cut.past_traj,
            "last_ref_points": cut.ref_pts, "query_feats": cut.query_feat, "query_feats_last": cut.query_feat[-1],
        }  # fmt: skip
        for name, value in names.items():
            close(tiny.thin(f"f0/dec/{name}", value), tiny[f"f0/dec/{name}"], "decoder")
    assert (out.cls[:, :, 901:].sigmoid() == 0).all()


def _random_input(rows: int = 12, padded: int = 0) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(3)
    spec = nano_spec().model.decoder
    return {
        "bev": torch.randn(2, 30, spec.embed_dims, generator=g),
        "bev_hw": (5, 6),
        "query": torch.randn(2, rows, 2 * spec.embed_dims, generator=g),
        "ref_pts": torch.randn(2, rows, 3, generator=g),
        "valid": (torch.arange(rows) < rows - padded).expand(2, -1),
        "pc_range": spec.pc_range,
    }


def test_reading_only_the_last_layer_changes_no_number() -> None:
    parts = _decoder(nano_spec().model.decoder)
    every, last = (detect(*parts, **_random_input(padded=3), all_layers=a) for a in (True, False))
    for name in DetOutput._fields:
        want, got = getattr(every, name), getattr(last, name)
        assert torch.equal(got, want if name == "ref_pts" else want[-1:]), name


def test_gradients_reach_queries_and_first_references_but_not_padded_rows() -> None:
    given = _random_input(padded=3)
    for name in ("query", "ref_pts"):
        given[name] = given[name].requires_grad_()
    out = detect(*_decoder(nano_spec().model.decoder), **given)
    (out.boxes[:, :, :9].square().sum() + out.cls.masked_fill(out.cls < -1e3, 0).square().sum()).backward()
    for name in ("query", "ref_pts"):
        grad = given[name].grad
        assert torch.isfinite(grad).all() and (grad[:, :9].abs().sum(-1) > 0).all() and (grad[:, 9:] == 0).all(), name


def test_half_precision_keeps_boxes_in_full_precision() -> None:
    parts, given = _decoder(nano_spec().model.decoder), _random_input()
    with torch.autocast("cpu", torch.bfloat16):
        half = detect(*parts, **given)
    full = detect(*parts, **given)
    assert half.boxes.dtype == half.ref_pts.dtype == half.cls.dtype == torch.float32
    assert (half.boxes - full.boxes)[..., :2].abs().median() < 0.2  # metres, with random weights
