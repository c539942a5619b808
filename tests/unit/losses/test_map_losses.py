"""Map losses: against plain loops over lists, against recorded values, and where there is little or nothing to learn from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from helpers import map_literal, train_clip
from helpers.map_losses import losses_of
from helpers.recorded import Recorded
from helpers.specs import edit, nano_spec, tiny_spec
from helpers.tolerances import TOLERANCES, close
from helpers.weights import fill
from uniad.interface.types import Targets
from uniad.losses.map_matcher import canvas_size, map_targets, match_queries
from uniad.models.map import MapHead, MapQueries
from uniad.models.map_masks import Masks

H, W = 10, 8
SPEC = edit(nano_spec().model.map, bev_hw=(H, W), canvas_hw=(H, W), num_query=12, top_k=20)
LOSS = nano_spec().model.map_loss


def make_targets(counts: list[int], capacity: int = 6, seed: int = 0, hw: tuple[int, int] = (H, W)) -> Targets:
    """Rectangles of random classes, ``counts[b]`` in image b; padding slots hold rubbish."""
    generator = np.random.RandomState(seed)
    batch, (h, w) = len(counts), hw
    labels = torch.from_numpy(generator.randint(0, 3, (batch, capacity)))
    masks = torch.zeros(batch, capacity, h, w, dtype=torch.uint8)
    boxes = torch.zeros(batch, capacity, 4, dtype=torch.int64)
    for b in range(batch):
        for g in range(capacity):
            x, y = generator.randint(0, w - 3), generator.randint(0, h - 3)
            box = x, y, x + 1 + generator.randint(2), y + 1 + generator.randint(2)
            boxes[b, g] = torch.tensor(box)
            masks[b, g, box[1] : box[3] + 1, box[0] : box[2] + 1] = 1
    nothing = dict.fromkeys(Targets._fields)
    return Targets(**nothing | {
        "lane_labels": labels, "lane_boxes": boxes, "lane_masks": masks,
        "lane_valid": torch.arange(capacity) < torch.tensor(counts)[:, None],
        "drivable": torch.from_numpy(generator.randint(0, 2, (batch, h, w)).astype(np.uint8)),
    })  # fmt: skip


@pytest.fixture(scope="module")
def head() -> MapHead:
    torch.manual_seed(0)
    head = MapHead(SPEC).eval()
    with torch.no_grad():  # masks that are neither empty nor alike, boxes that differ
        for tail in (head.things_mask_head.attnen, *(b.attn for b in head.things_mask_head.blocks)):
            tail.linear[0].bias.fill_(0.4)
        for branch in head.reg_branches:
            branch[-1].weight.normal_(0, 0.3)
    return head


def bev(batch: int, seed: int = 1) -> Tensor:
    return torch.randn(batch, H * W, SPEC.embed_dims, generator=torch.Generator().manual_seed(seed))


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(losses.values())).sum()


def alike(targets: Targets) -> Targets:
    """All elements of one class in one box, with masks of their own: only masks can tell which query is whose."""
    generator = torch.Generator().manual_seed(3)
    masks = (torch.rand(targets.lane_masks.shape, generator=generator) > 0.6).to(torch.uint8)
    return targets._replace(
        lane_labels=torch.ones_like(targets.lane_labels),
        lane_boxes=targets.lane_boxes[:, :1].expand_as(targets.lane_boxes),
        lane_masks=masks,
    )


@pytest.mark.parametrize("counts", [[3], [0, 5], [2, 6, 1]])
@pytest.mark.parametrize("change", [lambda targets: targets, alike], ids=["apart", "alike"])
def test_losses_are_those_of_plain_loops(head: MapHead, counts: list[int], change) -> None:
    targets, batch = change(make_targets(counts)), len(counts)
    with torch.no_grad():
        queries = head.queries(bev(batch))
        got = losses_of(head, queries, targets, LOSS)

        def thing_masks(b: int, rows: list[int]) -> list[np.ndarray]:
            masks = head.thing_masks(queries.memory[b : b + 1], queries.query[b : b + 1, rows], all_layers=True)
            return [m[0].unflatten(-1, (H, W)).numpy() for m in (*masks.layer_masks, masks.mask)]

        gt = map_targets(targets, canvas_size(head.spec.canvas_hw), 3)
        images = [
            {"cls": queries.cls[:, b].tolist(), "boxes": queries.boxes[:, b].tolist(), "elements": [
                {"label": int(gt.labels[b, g]), "box": gt.boxes[b, g].tolist(), "mask": targets.lane_masks[b, g].numpy()}
                for g in range(count)]}
            for b, count in enumerate(counts)
        ]  # fmt: skip
        want = map_literal.losses(images, (W, H), thing_masks)
    assert len(want) == 3 * SPEC.decoder_layers + SPEC.things_mask_layers + 1
    for name, value in want.items():
        assert got[name].item() == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_padding_adds_nothing(head: MapHead) -> None:
    queries = head.queries(bev(2))
    short = losses_of(head, queries, make_targets([2, 3], capacity=3), LOSS)
    long = make_targets([2, 3], capacity=3)
    rubbish = make_targets([9, 9], capacity=9, seed=5)
    joined = {
        name: torch.cat([getattr(long, name), getattr(rubbish, name)], dim=1)
        for name in ("lane_labels", "lane_boxes", "lane_masks")
    }
    valid = torch.cat([long.lane_valid, torch.zeros(2, 9, dtype=torch.bool)], dim=1)
    padded = losses_of(head, queries, long._replace(**joined | {"lane_valid": valid}), LOSS)
    for name, value in short.items():
        close(padded[name], value, "module")


def test_without_any_element_all_is_finite_and_stuff_still_learns(head: MapHead) -> None:
    head.zero_grad()
    losses = losses_of(head, head.queries(bev(2)), make_targets([0, 0]), LOSS)
    assert losses["map.loss_bbox"] == 0 and losses["map.loss_iou"] == 0 and losses["map.loss_mask_things"] == 0
    assert losses["map.loss_cls"] > 0 and losses["map.loss_mask_stuff"] > 0
    total(losses).backward()
    grads = {name: p.grad for name, p in head.named_parameters()}
    assert all(g.isfinite().all() for g in grads.values() if g is not None)
    assert grads["stuff_query.weight"].abs().sum() > 0
    # Only a table that nothing reads has no gradient at all.
    assert [name for name, g in grads.items() if g is None] == ["bev_embedding.weight"]


def test_half_precision_changes_losses_little_and_gives_fp32_values(head: MapHead) -> None:
    targets = make_targets([2, 4])
    with torch.no_grad():
        exact = losses_of(head, head.queries(bev(2)), targets, LOSS)
        with torch.autocast("cpu", torch.bfloat16):
            half = losses_of(head, head.queries(bev(2)), targets, LOSS)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in half.values())
    assert total(half).item() == pytest.approx(total(exact).item(), rel=0.05)


def test_branches_trained_with_weight_zero_get_a_gradient_of_zero(head: MapHead) -> None:
    head.zero_grad()
    losses = losses_of(head, head.queries(bev(2)), make_targets([2, 1]), LOSS)
    total(losses).backward()
    for name, parameter in head.named_parameters():
        if name.startswith(("reg_branches2", "cls_thing_branches")):
            assert parameter.grad is not None and not parameter.grad.any(), name
    assert head.query_embedding.weight.grad.any() and head.transformer.reference_points.weight.grad.any()


def test_more_elements_than_queries_leave_some_without(head: MapHead) -> None:
    few = MapHead(edit(SPEC, num_query=4, top_k=4)).eval()
    targets = make_targets([9, 2], capacity=9)
    queries = few.queries(bev(2))
    gt = map_targets(targets, canvas_size(few.spec.canvas_hw), 3)
    chosen = match_queries(queries.cls[-1], queries.boxes[-1], gt, canvas_size(few.spec.canvas_hw), LOSS)
    assert (chosen >= 0).sum(1).tolist() == [4, 2]
    assert sorted(chosen[0][chosen[0] >= 0].tolist()) == [0, 1, 2, 3]
    losses = losses_of(few, queries, targets, LOSS)
    total(losses).backward()
    assert all(p.grad.isfinite().all() for p in few.parameters() if p.grad is not None)


def test_counts_are_averaged_over_processes_once(head: MapHead) -> None:
    targets, calls = make_targets([4, 2]), []

    def other_process_has_none(counts: Tensor) -> Tensor:
        calls.append(counts.tolist())
        return torch.stack([counts[0] / 2, counts[1]])

    with torch.no_grad():
        queries = head.queries(bev(2))
        alone = losses_of(head, queries, targets, LOSS)
        pair = losses_of(head, queries, targets, LOSS, other_process_has_none)
    assert calls == [[6.0, 2.0]]
    # Things are divided by 3 in place of 6, and weigh 3 of 5 in place of 6 of 8; stuff weighs 2 of 5 in place of 2 of 8.
    close(pair["map.loss_bbox"], alone["map.loss_bbox"] * (2 * (3 / 5) / (6 / 8)), "module")
    close(pair["map.loss_mask_stuff"], alone["map.loss_mask_stuff"] * ((2 / 5) / (2 / 8)), "module")


def test_an_image_twice_in_a_batch_gives_the_losses_of_one(head: MapHead) -> None:
    one = make_targets([3])
    two = one._replace(**{n: v.repeat(2, *[1] * (v.dim() - 1)) for n, v in one._asdict().items() if v is not None})
    with torch.no_grad():
        single = losses_of(head, head.queries(bev(1)), one, LOSS)
        double = losses_of(head, head.queries(bev(1).repeat(2, 1, 1)), two, LOSS)
    for name, value in single.items():
        close(double[name], value, "module")


def test_no_value_decides_a_shape_or_visits_the_host() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(allow_non_fake_inputs=True):  # a fake tensor has no value to read
        head = MapHead(SPEC)
        losses = losses_of(head, head.queries(torch.randn(2, H * W, SPEC.embed_dims)), make_fake_targets(2, 6), LOSS)
        total(losses).backward()


def make_fake_targets(batch: int, capacity: int) -> Targets:
    integers = {"dtype": torch.int64}
    return Targets(**dict.fromkeys(Targets._fields) | {
        "lane_labels": torch.zeros(batch, capacity, **integers), "lane_boxes": torch.zeros(batch, capacity, 4, **integers),
        "lane_masks": torch.zeros(batch, capacity, H, W), "lane_valid": torch.zeros(batch, capacity, dtype=torch.bool),
        "drivable": torch.zeros(batch, H, W),
    })  # fmt: skip


# Recorded values ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clip_losses() -> dict[str, float]:
    recorded = train_clip.record()
    names, values = recorded["loss_names"].tolist(), recorded["losses"].tolist()
    return {name: value for name, value in zip(names, values) if name.startswith("map.")}


def recorded_targets(capacity: int = 8) -> Targets:
    """The map elements of the recorded clip; drivable area is the element that is no thing."""
    data = train_clip.record()
    labels, boxes, masks = (torch.from_numpy(data[f"in/gt_lane_{n}"]) for n in ("labels", "bboxes", "masks"))
    things = labels < 3
    return Targets(**dict.fromkeys(Targets._fields) | {
        "lane_labels": train_clip.pad(labels[things], capacity, 0)[None],
        "lane_boxes": train_clip.pad(boxes[things], capacity, 0)[None],
        "lane_masks": train_clip.pad(masks[things], capacity, 0)[None],
        "lane_valid": (torch.arange(capacity) < things.sum())[None],
        "drivable": masks[~things],
    })  # fmt: skip


class StoredMasks(MapHead):
    """A head whose last masks are read from a file."""

    def __init__(self, things: Tensor, stuff: Tensor) -> None:
        super().__init__(edit(tiny_spec().model.map, encoder_layers=0, things_mask_layers=0, stuff_mask_layers=0))
        self.stored = things, stuff

    def thing_masks(self, memory: Tensor, query: Tensor, all_layers: bool = False) -> Masks:
        things = self.stored[0]
        padding = things.new_zeros(1, query.shape[1] - things.shape[1], things.shape[2])
        return Masks(torch.cat([things, padding], dim=1), (), ())

    def stuff_masks(self, memory: Tensor, all_layers: bool = False) -> Masks:
        return Masks(self.stored[1], (), ())


def test_recorded_losses_follow_from_stored_classes_boxes_and_masks(clip_losses: dict[str, float]) -> None:
    stored = Recorded.extract("map")
    head = StoredMasks(stored["train/things_mask"], stored["train/stuff_mask"])
    unread = torch.zeros(1, 300, 256)
    cls, boxes = stored["train/cls"], stored["train/boxes"]
    queries = MapQueries(cls, boxes, torch.zeros(1, 2500, 256), torch.zeros(1, 2500, 256), unread, unread, boxes[0])
    targets = recorded_targets()
    got = losses_of(head, queries, targets, tiny_spec().model.map_loss)
    assert len(got) == 6 * 3 + 2
    for name, value in got.items():
        assert value.item() == pytest.approx(clip_losses[name], rel=TOLERANCES["map_loss"]), name


def test_recorded_queries_are_chosen(golden: Path) -> None:
    stored = Recorded.extract("map")
    want = np.load(golden / "tiny_stage1_train_outputs.npz")["seg_pos_inds_mask"]
    head = StoredMasks(stored["train/things_mask"], stored["train/stuff_mask"])
    gt = map_targets(recorded_targets(), canvas_size(head.spec.canvas_hw), 3)
    spec = tiny_spec().model.map_loss
    chosen = match_queries(stored["train/cls"][-1], stored["train/boxes"][-1], gt, canvas_size(head.spec.canvas_hw), spec)
    assert sorted(chosen[chosen >= 0].tolist()) == sorted(want.tolist())


def test_names_and_their_order_are_upstreams(clip_losses: dict[str, float]) -> None:
    spec = edit(tiny_spec().model.map, bev_hw=(H, W), canvas_hw=(H, W), num_query=12, top_k=12)
    head = fill(MapHead(spec), "seg_head.", "train")
    with torch.no_grad():
        queries = head.queries(torch.randn(1, H * W, spec.embed_dims))
        losses = losses_of(head, queries, make_targets([2]), tiny_spec().model.map_loss)
    assert list(losses) == list(clip_losses)
