"""Matching and tracking losses: the tensor code says what the loops say, for any batch, and matches recorded numbers."""

import numpy as np
import pytest
import torch

from helpers import literal, train_clip
from uniad.config.spec import TrackLossSpec
from uniad.geometry.boxes import encode_boxes
from uniad.interface.types import EGO_ID, FREE_ID, DetOutput
from uniad.losses.common import dice_loss, focal_cost, giou_loss, masked_sum, sigmoid_focal_loss
from uniad.losses.matcher import FrameTargets, match_frame
from uniad.losses.track import frame_terms, track_losses

CODE_WEIGHTS = torch.tensor([1.0] * 8 + [0.2] * 2)
SPEC = TrackLossSpec(10, tuple(CODE_WEIGHTS.tolist()), (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0), weight_past_traj=0.7)
LAYERS, FRESH, SLOTS, OBJECTS = 3, 12, 5, 6
ROWS, EGO_ROW = FRESH + SLOTS, FRESH - 1


def random_boxes(generator, *shape):
    box9 = torch.randn(*shape, 9, generator=generator)
    box9[..., :2] *= 6
    box9[..., 3:6] = box9[..., 3:6].exp() * 2
    return box9


def scene(seed, num_objects, carried):
    """One sample: predictions, ids of the rows before matching, ground truth padded to OBJECTS. ``carried``: ids in the slots."""
    g = torch.Generator().manual_seed(seed)
    det = DetOutput(
        cls=torch.randn(LAYERS, 1, ROWS, 10, generator=g),
        boxes=encode_boxes(random_boxes(g, LAYERS, 1, ROWS)) + 0.1,
        past_traj=torch.randn(LAYERS, 1, ROWS, 8, 2, generator=g),
        ref_pts=torch.zeros(1, ROWS, 3),
        query_feat=torch.zeros(LAYERS, 1, ROWS, 4),
    )
    obj_id = torch.full((1, ROWS), FREE_ID)
    obj_id[0, EGO_ROW] = EGO_ID
    row_valid = torch.ones(1, ROWS, dtype=torch.bool)
    for slot in range(SLOTS):
        if slot < len(carried):
            obj_id[0, FRESH + slot] = carried[slot]
        else:
            row_valid[0, FRESH + slot] = False
    iou = torch.rand(1, ROWS, generator=g)
    valid = torch.arange(OBJECTS)[None] < num_objects
    boxes = torch.where(valid[..., None], encode_boxes(random_boxes(g, 1, OBJECTS)), torch.zeros(()))
    gt = FrameTargets(
        boxes=boxes,
        labels=torch.randint(0, 10, (1, OBJECTS), generator=g),
        ids=torch.where(valid, torch.arange(1, OBJECTS + 1), FREE_ID),
        valid=valid,
        past_traj=torch.randn(1, OBJECTS, 8, 2, generator=g),
        past_traj_mask=(torch.rand(1, OBJECTS, 8, 2, generator=g) > 0.4).float(),
        sdc_box=encode_boxes(random_boxes(g, 1)),
        sdc_label=torch.tensor([0]),
    )
    return det, obj_id, iou, row_valid, gt


SCENES = {
    "nothing carried": (1, 4, []),
    "one carried, one of them gone, a false positive that is free": (2, 4, [3, 77, FREE_ID]),
    "all carried, so overlaps stay as they were": (3, 3, [2, 1, 3]),
    "no object, one that is gone": (4, 0, [5]),
    "no object at all": (5, 0, []),
    "the ego query carried by chance": (6, 6, [EGO_ID, 4]),
}


def batch(scenes):
    """Stacks one-sample scenes; tensors of the detection decoder have the batch on axis 1."""
    dets, *rest, gts = zip(*scenes)
    det = DetOutput(*(torch.cat(x, 0 if i == 3 else 1) for i, x in enumerate(zip(*dets))))
    return det, *(torch.cat(x) for x in rest), FrameTargets(*(torch.cat(x) for x in zip(*gts)))


def run(scenes, spec=SPEC, reduce_mean=lambda x: x):
    det, obj_id, iou, row_valid, gt = batch(scenes)
    match = match_frame(det, obj_id, iou, row_valid, gt, spec)
    terms = frame_terms(det, match, row_valid, gt, CODE_WEIGHTS, EGO_ROW, spec)
    return match, track_losses([terms], spec, reduce_mean)


def literal_run(case):
    det, obj_id, iou, row_valid, gt = case
    rows, objects = row_valid[0].nonzero()[:, 0], gt.valid[0].nonzero()[:, 0]
    one = {
        "ids": gt.ids[0][objects], "labels": gt.labels[0][objects], "boxes": gt.boxes[0][objects], "sdc_box": gt.sdc_box[0],
        "sdc_label": gt.sdc_label[0], "past": gt.past_traj[0][objects], "mask": gt.past_traj_mask[0][objects],
    }  # fmt: skip
    cls, boxes, past = (x[:, 0, rows] for x in det[:3])
    pairs, after, iou = literal.match(cls, boxes, obj_id[0][rows], iou[0][rows], one)
    values = literal.losses(cls, boxes, past, pairs, one, EGO_ROW, CODE_WEIGHTS, SPEC.weight_past_traj)
    return pairs, after, iou, values


@pytest.mark.parametrize("name", SCENES)
def test_matching_and_losses_are_those_of_the_loops(name):
    case = scene(*SCENES[name])
    pairs, after, iou, (cls, box, past) = literal_run(case)
    match, losses = run([case])
    num_rows = len(after)
    for layer in range(LAYERS):
        expected = torch.full((num_rows,), -1)
        for row, g in pairs[layer]:
            expected[row] = g
        assert torch.equal(match.gt_of_row[layer, 0, :num_rows], expected)
        torch.testing.assert_close(losses[f"track.frame_0_loss_cls_{layer}"].item(), cls[layer], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(losses[f"track.frame_0_loss_bbox_{layer}"].item(), box[layer], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(losses[f"track.frame_0_loss_past_trajs_{layer}"].item(), past[layer], rtol=1e-5, atol=1e-6)
    assert torch.equal(match.obj_id[0, :num_rows], after)
    torch.testing.assert_close(match.iou[0, :num_rows], iou)


def test_a_batch_of_the_same_clip_twice_loses_what_one_loses():
    case = scene(*SCENES["one carried, one of them gone, a false positive that is free"])
    _, one = run([case])
    _, two = run([case, case])
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=1e-6, atol=0)


def test_samples_of_a_batch_are_matched_apart():
    cases = [scene(*arguments) for arguments in SCENES.values()]
    together, _ = run(cases)
    for b, case in enumerate(cases):
        alone, _ = run([case])
        assert torch.equal(together.gt_of_row[:, b], alone.gt_of_row[:, 0])
        assert torch.equal(together.obj_id[b], alone.obj_id[0])
        torch.testing.assert_close(together.iou[b], alone.iou[0])


def test_a_batch_counts_as_so_many_processes():
    cases = [scene(*SCENES["nothing carried"]), scene(*SCENES["no object, one that is gone"])]
    counts = []
    for case in cases:
        run([case], reduce_mean=lambda x: counts.append(x) or x)
    average = torch.stack(counts).mean(0)
    apart = [run([case], reduce_mean=lambda x: average)[1] for case in cases]
    _, together = run(cases)
    for name in together:
        torch.testing.assert_close(together[name], (apart[0][name] + apart[1][name]) / 2)


def test_every_loss_is_finite_with_gradients_that_are_finite_even_without_objects():
    det, obj_id, iou, row_valid, gt = batch([scene(*SCENES["no object at all"]), scene(*SCENES["nothing carried"])])
    det = DetOutput(*(x.requires_grad_() for x in det))
    gt = gt._replace(boxes=torch.where(gt.valid[..., None], gt.boxes, float("-inf")))
    match = match_frame(det, obj_id, iou, row_valid, gt, SPEC)
    losses = track_losses([frame_terms(det, match, row_valid, gt, CODE_WEIGHTS, EGO_ROW, SPEC)], SPEC, lambda x: x)
    sum(losses.values()).backward()
    assert all(torch.isfinite(x) for x in losses.values())
    for x in det[:3]:
        assert torch.isfinite(x.grad).all()


def test_no_object_slots_at_all_is_a_batch_like_any_other():
    det, obj_id, iou, row_valid, gt = scene(*SCENES["no object at all"])
    empty = FrameTargets(*(x[:, :0] for x in gt[:6]), gt.sdc_box, gt.sdc_label)
    match = match_frame(det, obj_id, iou, row_valid, empty, SPEC)
    short = track_losses([frame_terms(det, match, row_valid, empty, CODE_WEIGHTS, EGO_ROW, SPEC)], SPEC, lambda x: x)
    _, padded = run([scene(*SCENES["no object at all"])])
    for name in padded:
        torch.testing.assert_close(short[name], padded[name])


def test_empty_slots_change_nothing():
    case = scene(*SCENES["nothing carried"])
    det, obj_id, iou, row_valid, gt = case
    real = row_valid[..., None]
    loud = det._replace(cls=torch.where(real, det.cls, 50.0), boxes=torch.where(real, det.boxes, 0.0))
    expected, losses = run([case])
    got, loud_losses = run([(loud, obj_id, iou, row_valid, gt)])
    assert torch.equal(got.gt_of_row, expected.gt_of_row)
    for name in losses:
        torch.testing.assert_close(loud_losses[name], losses[name])


def test_the_whole_clip_asks_the_other_processes_once():
    case = scene(*SCENES["nothing carried"])
    det, obj_id, iou, row_valid, gt = case
    match = match_frame(det, obj_id, iou, row_valid, gt, SPEC)
    terms = frame_terms(det, match, row_valid, gt, CODE_WEIGHTS, EGO_ROW, SPEC)
    calls = []
    track_losses([terms] * 4, SPEC, lambda x: calls.append(x.shape) or x)
    assert calls == [(4, 2)]


def recorded_frame(record, t):
    """Predictions that make the recorded pairs the cheapest ones, and the ground truth of frame t."""
    rows, num_rows = torch.from_numpy(record[f"f{t}/rows"]), int(record[f"f{t}/num_rows"])
    given = {k: torch.from_numpy(record[f"in/f{t}/{k}"]) for k in ("gt_boxes", "gt_labels", "gt_inds")}
    labels, gt_boxes = given["gt_labels"], encode_boxes(given["gt_boxes"])
    boxes = torch.full((num_rows, 10), 300.0).index_copy(0, rows, torch.from_numpy(record[f"f{t}/pred_boxes"]))
    cls, layer_boxes = torch.zeros(6, 1, num_rows, 10), boxes.repeat(6, 1, 1, 1)
    pairs = [torch.from_numpy(record[f"f{t}/matched_{layer}"]).long() for layer in range(6)]
    for layer in range(6):
        for row, g in pairs[layer].tolist():
            if g >= 0 and row < 901:
                cls[layer, 0, row, labels[g]] = 1e3
                if layer < 5:
                    layer_boxes[layer, 0, row] = gt_boxes[g]
    det = DetOutput(cls, layer_boxes, torch.zeros(6, 1, num_rows, 8, 2), None, None)
    n = len(labels)
    gt = FrameTargets(
        gt_boxes[None], labels[None], given["gt_inds"][None], torch.ones(1, n, dtype=torch.bool), torch.zeros(1, n, 8, 2),
        torch.zeros(1, n, 8, 2), encode_boxes(torch.from_numpy(record["in/sdc_box"])), torch.zeros(1, dtype=torch.int64),
    )  # fmt: skip
    after = {
        name: torch.full((1, num_rows), fill).index_copy(1, rows, torch.from_numpy(record[f"f{t}/{name}"])[None])
        for name, fill in (("ids", FREE_ID), ("iou", 0.0), ("matched_gt", -1))
    }
    return det, gt, pairs, after


def test_ids_and_overlaps_along_the_recorded_clip():
    """Born, gone and back again: what each frame hands on is what was recorded, and so is what the next one makes of it."""
    record = train_clip.record()
    obj_id, iou = torch.full((1, 901), FREE_ID), torch.zeros(1, 901)
    for t in range(5):
        det, gt, pairs, after = recorded_frame(record, t)
        obj_id[:, 900] = EGO_ID
        match = match_frame(det, obj_id, iou, torch.ones_like(obj_id, dtype=torch.bool), gt, SPEC)
        for layer in range(6):
            expected = torch.full((obj_id.shape[1],), -1)
            expected[pairs[layer][:, 0]] = pairs[layer][:, 1]
            assert torch.equal(match.gt_of_row[layer, 0], expected), (t, layer)
        assert torch.equal(match.obj_id, after["ids"])
        assert torch.equal(match.gt_of_row[-1], after["matched_gt"])
        torch.testing.assert_close(match.iou, after["iou"], rtol=0, atol=1e-5)
        kept = (match.obj_id >= 0) & (match.iou > 0.5)
        obj_id = torch.cat([torch.full((1, 901), FREE_ID), match.obj_id[kept][None]], 1)
        iou = torch.cat([torch.zeros(1, 901), match.iou[kept][None]], 1)


def test_focal_loss_of_the_recorded_case(golden):
    record = np.load(golden / "data_ops.npz")
    logits, target = torch.from_numpy(record["loss_focal/x"]), torch.from_numpy(record["loss_focal/y"])
    loss = 2.0 * sigmoid_focal_loss(logits, target).sum() / 7
    torch.testing.assert_close(loss, torch.tensor(record["loss_focal/out_avg_factor_7"]), rtol=1e-5, atol=0)


def test_focal_cost_is_the_difference_of_two_focal_losses():
    logits, labels = torch.randn(1, 5, 10, generator=torch.Generator().manual_seed(0)), torch.tensor([[3, 0]])
    cost = focal_cost(logits, labels)
    for g, label in enumerate(labels[0]):
        for r in range(5):
            one = torch.full((10,), -1e4).scatter(0, label[None], logits[0, r, label][None])
            difference = literal.focal(one[label][None], 0) - literal.focal(one[label][None], 1)
            assert cost[0, g, r].item() == pytest.approx(difference, rel=1e-4)


def test_giou_and_dice_by_hand():
    a, b = torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 0.0, 3.0, 2.0])
    assert giou_loss(a, b).item() == pytest.approx(1 - 1 / 3)  # hull is their union
    assert giou_loss(a, b + 4).item() == pytest.approx(1 + (42 - 8) / 42, rel=1e-6)
    assert dice_loss(torch.tensor([1.0, 0.0, 0.5]), torch.tensor([1, 0, 0])).item() == pytest.approx(1 - 2 / 2.25, abs=1e-5)


def test_masked_entries_give_no_gradient_even_if_infinite():
    x = torch.tensor([1.0, 0.0], requires_grad=True)
    masked_sum(1 / x, torch.tensor([True, False]), 0).backward()
    assert x.grad[0] == -1
