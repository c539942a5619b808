"""The map head against recorded numbers, from a recorded BEV (golden data) or from the images that led to it (extract)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.images_to_bev import bev_from_images
from helpers.recorded import Recorded
from helpers.specs import edit, full_spec, nano_spec, tiny_spec
from helpers.tolerances import close
from helpers.weights import fill
from uniad.interface.types import MapOutput
from uniad.models.map import MapHead, MapQueries
from uniad.models.map_select import best_pairs
from uniad.models.track import take_rows

SPEC = tiny_spec().model.map


@pytest.fixture(scope="module")
def head() -> MapHead:
    return fill(MapHead(SPEC), "seg_head.")


@pytest.fixture(scope="module", params=["golden", "extract"])
def recorded(request: pytest.FixtureRequest) -> Recorded:
    if request.param == "extract":
        return Recorded.extract("map")
    return Recorded.golden(request.getfixturevalue("golden"), "tiny_stage2", ("forward", "modules"))


@pytest.fixture(scope="module")
def bev(recorded: Recorded) -> Tensor:
    """[1, S, D] of frame 0."""
    return recorded["f0/bev_embed"] if "f0/bev_embed" in recorded else bev_from_images(recorded)


@pytest.fixture(scope="module")
def queries(head: MapHead, bev: Tensor) -> MapQueries:
    with torch.no_grad():
        return head.queries(bev)


@pytest.fixture(scope="module")
def output(head: MapHead, queries: MapQueries) -> MapOutput:
    with torch.no_grad():
        return head.select(queries)


def same(recorded: Recorded, name: str, got: Tensor) -> None:
    close(recorded.thin(f"f0/seg/{name}", got), recorded[f"f0/seg/{name}"], "map")


def test_every_layer_finds_the_recorded_classes_and_boxes(recorded: Recorded, queries: MapQueries) -> None:
    same(recorded, "outputs_classes", queries.cls)
    same(recorded, "outputs_coords", queries.boxes)
    same(recorded, "reference", queries.reference)


def test_memory_and_queries_are_the_recorded_ones(recorded: Recorded, queries: MapQueries) -> None:
    same(recorded, "memory", queries.memory)
    same(recorded, "query", queries.query)
    same(recorded, "query_pos", queries.query_pos)


def test_first_encoder_layer_is_the_recorded_one(golden: Path, head: MapHead) -> None:
    recorded = Recorded.golden(golden, "tiny_stage2", ("forward", "modules"))
    bev = recorded["f0/bev_embed"]
    pos = (head.cell_code + head.transformer.level_embeds[0]).expand_as(bev)
    close(recorded.thin("seg/memory_pos", pos), recorded["seg/memory_pos"], "map")
    out = head.transformer.encoder.layers[0](bev, pos, head.cell_centres, SPEC.bev_hw)
    same(recorded, "enc_layer0_out", out.transpose(0, 1))


@torch.no_grad()
def test_masks_are_the_recorded_ones(recorded: Recorded, head: MapHead, queries: MapQueries) -> None:
    best = best_pairs(queries.cls[-1], SPEC.top_k)
    things = head.thing_masks(queries.memory, take_rows(queries.query, best.index), all_layers=True)
    same(recorded, "things_mask", things.mask[..., None])
    same(recorded, "things_query_last", things.layer_queries[-1])
    stuff = head.stuff_masks(queries.memory, all_layers=True)
    same(recorded, "stuff_mask", stuff.mask[..., None])
    same(recorded, "stuff_query_last", stuff.layer_queries[-1])
    same(recorded, "stuff_inter_masks", torch.stack(stuff.layer_masks)[..., None])


def test_selected_elements_are_the_recorded_ones(recorded: Recorded, output: MapOutput) -> None:
    want = recorded["f0/seg/r_bbox"]
    close(output.score[0], want[:, 4], "map")
    # Elements whose mask is empty all score 0; their order among themselves is arbitrary.
    some = want[:, 4] > 0
    assert some.sum() > 40
    close(output.box[0][some] * SPEC.canvas_hw[0], want[some, :4], "map")
    assert torch.equal(output.label[0][some].long(), recorded["f0/seg/r_labels"].long()[some])
    assert torch.equal(output.kept[0], want[:, 4] >= 0.1)
    inside = (output.mask[0] > 0.5).to(torch.uint8)
    assert torch.equal(inside, recorded["f0/seg/r_segm"])


def test_merged_map_is_the_recorded_one(recorded: Recorded, output: MapOutput) -> None:
    assert output.settled.all()
    assert torch.equal(output.lanes[0], recorded["f0/seg/r_lane"].float())
    assert torch.equal(output.drivable[0] > 0.5, recorded["f0/seg/r_drivable"] != 0)


def test_masks_without_the_auxiliary_ones_are_the_same(head: MapHead, queries: MapQueries) -> None:
    query = queries.query[:, :7]
    fast, full = head.thing_masks(queries.memory, query), head.thing_masks(queries.memory, query, all_layers=True)
    assert fast.layer_masks == () and len(full.layer_masks) == SPEC.things_mask_layers
    close(fast.mask, full.mask, "map")


@pytest.mark.parametrize("name, spec", [("tiny_stage1", tiny_spec()), ("base_stage1", full_spec())])
def test_parameters_carry_the_upstream_names_and_shapes(golden: Path, name: str, spec) -> None:
    want = {
        key.removeprefix("seg_head."): tuple(shape)
        for key, shape, *_ in json.loads((golden / f"state_dict_{name}.json").read_text())
        if key.startswith("seg_head.")
    }
    assert {k: tuple(v.shape) for k, v in MapHead(spec.model.map).state_dict().items()} == want


SMALL = edit(nano_spec().model.map, bev_hw=(12, 10), canvas_hw=(12, 10), num_query=20, top_k=30, attn_levels=4)


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch() -> None:
    torch.manual_seed(0)
    head = MapHead(SMALL).eval()
    bev = torch.randn(3, 120, SMALL.embed_dims)
    together = head(bev)
    for b in range(3):
        alone = head(bev[b : b + 1])
        for field in ("score", "box", "mask", "drivable", "query"):
            close(getattr(together, field)[b : b + 1], getattr(alone, field), "map")
        assert torch.equal(together.lanes[b : b + 1], alone.lanes)


@torch.no_grad()
def test_masks_are_brought_to_a_canvas_of_another_size() -> None:
    head = MapHead(edit(SMALL, canvas_hw=(24, 30))).eval()
    out = head(torch.randn(2, 120, SMALL.embed_dims))
    assert out.mask.shape == (2, 30, 24, 30) and out.lanes.shape == (2, 3, 24, 30) and out.drivable.shape == (2, 24, 30)


def test_an_untrained_head_is_unsure_and_its_first_boxes_are_small() -> None:
    torch.manual_seed(0)
    queries = MapHead(SMALL).eval().queries(torch.randn(1, 120, SMALL.embed_dims))
    assert 0.001 < queries.cls.sigmoid().median() < 0.1
    close(queries.boxes[0, ..., 2:], torch.full_like(queries.boxes[0, ..., 2:], 0.1192), "module")


@torch.no_grad()
def test_no_value_decides_a_shape_or_visits_the_host() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():  # a fake tensor has no value to read
        out = MapHead(SMALL).eval()(torch.randn(2, 120, SMALL.embed_dims))
    assert out.lanes.shape == (2, 3, 12, 10)
