"""Stage 0: BEVFormer trains from an image backbone, learns from the last frame of a clip, and hands its weights to stage 1."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

from helpers.specs import CONFIGS, edit, full_spec, nano_spec
from uniad.config.read import load_spec
from uniad.data.dataset import SceneStream
from uniad.data.detection import DetectionClips
from uniad.errors import UserError
from uniad.evaluation.detector import best_boxes, collect_detections
from uniad.geometry.boxes import encode_boxes
from uniad.interface.types import DetOutput
from uniad.losses.common import sigmoid_focal_loss
from uniad.losses.detection import detection_losses
from uniad.losses.matcher import FrameTargets
from uniad.models.bevformer import BevFormer
from uniad.models.uniad import UniAD
from uniad.training.carried import load_detector, load_trained
from uniad.training.checkpoint import read_checkpoint, weights_digest
from uniad.training.initial import IMAGENET_STD, adapt_image_backbone, load_initial
from uniad.training.options import TrainOptions
from uniad.training.run import RunOptions, train

LATER = ("seg_head.", "query_interact.", "memory_bank.", "criterion.", "pts_bbox_head.past_traj_reg_branches.")


@pytest.fixture(scope="module")
def spec(data_spec):
    """Nano's stage 0 on the tiny synthetic world, with images of 128x64 and a BEV of 12x12."""
    return edit(
        load_spec(CONFIGS / "bevformer/nano_bevformer.py"),
        data__data_root=data_spec.data_root, data__ann_file_train=data_spec.ann_file_train,
        data__ann_file_val=data_spec.ann_file_val, data__workers_per_gpu=0, data__samples_per_gpu=1,
        data__image__scale=0.0625, data__image__height=64, data__image__width=128, data__bev_hw=(12, 12),
        model__bev__height=12, model__bev__width=12, model__track__num_query=60, model__decoder__num_layers=2,
        train__warmup_iters=0, train__load_from=None,
    )  # fmt: skip


def run(spec, folder, **options):
    return train(spec, RunOptions(train=TrainOptions(folder, tensorboard=False, save_every_s=None, **options), device="cpu"))


def test_its_weights_have_the_names_of_bevformers_checkpoints():
    stage0 = load_spec(CONFIGS / "bevformer/full_bevformer.py")
    with torch.device("meta"):
        ours, uniad = (m.state_dict() for m in (BevFormer(stage0.model), UniAD(full_spec().model)))
    wanted = {name: tuple(x.shape) for name, x in uniad.items() if not name.startswith(LATER)}
    queries, dims = wanted.pop("query_embedding.weight")
    wanted["pts_bbox_head.query_embedding.weight"] = (queries - 1, dims)
    for name in ("weight", "bias"):
        wanted[f"pts_bbox_head.transformer.reference_points.{name}"] = wanted.pop(f"reference_points.{name}")
    assert {name: tuple(x.shape) for name, x in ours.items()} == wanted


def test_a_few_steps_on_the_synthetic_world_lower_the_loss_and_stage_1_takes_over(spec, tmp_path):
    import json

    outcome = run(edit(spec, train__log_interval=4), tmp_path, max_iters=16)
    logged = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in logged if "loss" in entry]
    assert losses[-1] < 0.9 * losses[0], losses
    assert {"loss_cls", "loss_bbox", "d0.loss_cls", "d0.loss_bbox"} <= logged[-1].keys()

    stage1 = nano_spec(
        model__bev=spec.model.bev, model__decoder=spec.model.decoder, model__track__num_query=60, model__map__bev_hw=(12, 12),
        train__load_from=str(outcome.checkpoint),
    )
    said = []
    model = UniAD(stage1.model)
    load_initial(model, stage1, said.append)
    learnt = read_checkpoint(outcome.checkpoint)["state_dict"]
    assert torch.equal(model.query_embedding.weight[:-1], learnt["pts_bbox_head.query_embedding.weight"])
    assert torch.equal(model.pts_bbox_head.bev_embedding.weight, learnt["pts_bbox_head.bev_embedding.weight"])
    with pytest.raises(UserError, match="is of stage 0, a detector"):
        load_trained(spec, outcome.checkpoint)
    uniad = tmp_path / "uniad.pth"
    torch.save({"state_dict": model.state_dict()}, uniad)
    with pytest.raises(UserError, match="is of UniAD, nano_bevformer of stage 0"):
        load_detector(spec, uniad)


def test_an_interrupted_run_ends_with_the_same_weights(spec, tmp_path):
    whole = run(spec, tmp_path / "a", max_iters=4)
    part = run(spec, tmp_path / "b", max_iters=4, stop_after=2)
    assert not part.finished
    rest = run(spec, tmp_path / "b", max_iters=4)
    one, other = (weights_digest(read_checkpoint(o.checkpoint)["state_dict"]) for o in (whole, rest))
    assert one == other


def test_a_clip_leaves_one_earlier_frame_out_and_marks_where_the_past_ends(spec):
    clips = DetectionClips(edit(spec.data, queue_length=3), "train", 0, training=True)
    drawn = {tuple(clips.chosen(5, np.random.default_rng(seed))) for seed in range(20)}
    assert drawn == {(2, 3, 5), (2, 4, 5), (3, 4, 5)}
    assert clips.chosen(1, np.random.default_rng(0))[-1] == 1 and min(clips.chosen(0, np.random.default_rng(0))) == 0
    clip = clips[(0, 5)]
    assert clip.frames.scene_start.tolist() == [True, False, False]
    assert clip.targets.boxes.shape[0] == 1 and clip.frames.img.shape[:2] == (3, 6) and not clip.targets.lane_valid.any()
    raw = DetectionClips(edit(spec.data, queue_length=3), "train", 0, training=True, raw=True)
    same = raw.finish(raw[(0, 5)])
    assert torch.equal(same.frames.can_bus, clip.frames.can_bus) and torch.equal(same.targets.boxes, clip.targets.boxes)


def test_a_scenes_first_frame_has_no_past_and_has_not_moved(spec):
    torch.manual_seed(0)
    model = BevFormer(spec.model).eval()
    stream = SceneStream(spec.data, "val", stage=0, workers=0)
    first, second = stream.sample(0).frame, stream.sample(1).frame
    with torch.inference_mode():
        alone, _ = model.step(first, model.init_state())
        _, after = model.step(second, model.step(first, model.init_state())[1])
        again, _ = model.step(first._replace(scene_start=torch.tensor([True])), after)
        moved, _ = model.step(second, model.step(first, model.init_state())[1])
        fresh, _ = model.step(second, model.init_state())
    assert torch.equal(alone.boxes, again.boxes)
    assert not torch.equal(moved.boxes, fresh.boxes)
    found = collect_detections(model, spec, stream, torch.device("cpu")).detections
    assert len(found) == len(stream) and all(entry["sample_token"] in found for entries in found.values() for entry in entries)


def test_boxes_are_the_best_pairs_of_query_and_class_and_stand_on_the_ground(spec):
    box = torch.tensor([[[1.0, 2, 0.5, 2, 4, 1.5, 0.3, 1, 0], [100.0, 0, 0, 2, 4, 1.5, 0, 0, 0]]])
    logits = torch.full((1, 1, 2, 10), -9.0)
    logits[0, 0, 0, 3], logits[0, 0, 0, 7], logits[0, 0, 1, 0] = 2.0, 1.0, 3.0
    det = DetOutput(logits, encode_boxes(box)[None], torch.zeros(1), torch.zeros(1), torch.zeros(1))
    boxes, scores, labels = best_boxes(det, edit(spec, model__track__max_num=3))
    assert labels.tolist() == [3, 7] and np.allclose(scores, torch.tensor([2.0, 1.0]).sigmoid())  # the third lies out of range
    assert np.allclose(boxes[0], [1, 2, 0.5 - 0.75, 2, 4, 1.5, 0.3, 1, 0], atol=1e-6)


def test_losses_are_those_of_a_matching_by_hand(spec):
    g = torch.Generator().manual_seed(0)
    layers, batch, rows, objects = 2, 2, 7, 3
    det = DetOutput(
        torch.randn(layers, batch, rows, 10, generator=g), torch.randn(layers, batch, rows, 10, generator=g),
        torch.zeros(layers, batch, rows, 8, 2), torch.zeros(batch, rows, 3), torch.zeros(1),
    )  # fmt: skip
    valid = torch.tensor([[True, True, True], [True, False, False]])
    gt = FrameTargets(
        boxes=torch.randn(batch, objects, 10, generator=g) * valid[..., None],
        labels=torch.tensor([[1, 4, 4], [9, 0, 0]]), ids=torch.where(valid, torch.arange(1, 4), -1), valid=valid,
        past_traj=torch.zeros(batch, objects, 8, 2), past_traj_mask=torch.zeros(batch, objects, 8, 2),
        sdc_box=torch.zeros(batch, 10), sdc_label=torch.zeros(batch, dtype=torch.int64),
    )  # fmt: skip
    code, loss = torch.tensor(spec.model.track_loss.code_weights), spec.model.track_loss
    found = detection_losses(det, gt, code, loss, lambda x: x)
    assert list(found) == ["loss_cls", "loss_bbox", "d0.loss_cls", "d0.loss_bbox"]
    for layer, prefix in ((1, ""), (0, "d0.")):
        cls = box = torch.zeros(())
        for b in range(batch):
            p, n = det.cls[layer, b].sigmoid(), int(valid[b].sum())
            pos = -(p + 1e-12).log() * 0.25 * (1 - p) ** 2
            neg = -(1 - p + 1e-12).log() * 0.75 * p**2
            cost = 2 * (pos - neg)[:, gt.labels[b, :n]] + 0.25 * torch.cdist(det.boxes[layer, b, :, :8], gt.boxes[b, :n, :8], 1)
            row, column = linear_sum_assignment(cost.numpy())
            labels = torch.full((rows,), 10)
            labels[row] = gt.labels[b, column]
            cls = cls + sigmoid_focal_loss(det.cls[layer, b], labels).sum()
            box = box + ((det.boxes[layer, b, row] - gt.boxes[b, column]).abs() * code).sum()
        assert torch.allclose(found[f"{prefix}loss_cls"], 2 * cls / 4)
        assert torch.allclose(found[f"{prefix}loss_bbox"], 0.25 * box / 4)


def test_torchvisions_weights_give_the_same_features_for_images_in_bgr():
    spec = load_spec(CONFIGS / "bevformer/full_bevformer.py")
    torch.manual_seed(0)
    weight = torch.randn(8, 3, 7, 7)
    state = OrderedDict({"conv1.weight": weight.clone(), "bn1.weight": torch.ones(8), "fc.weight": torch.zeros(2, 2)})
    done = " ".join(adapt_image_backbone(state, spec, "resnet101.pth"))
    assert list(state) == ["img_backbone.conv1.weight", "img_backbone.bn1.weight"]
    assert "BGR" in done and "caffe" in done and "DCNv2" in done
    rgb = torch.rand(1, 3, 32, 32) * 255
    mean = torch.tensor([123.675, 116.28, 103.53]).view(1, 3, 1, 1)
    theirs = nn.functional.conv2d((rgb - mean) / torch.tensor(IMAGENET_STD).view(1, 3, 1, 1), weight)
    assert spec.data.image.mean == (103.53, 116.28, 123.675) and not spec.data.image.to_rgb
    ours = nn.functional.conv2d((rgb - mean).flip(1), state["img_backbone.conv1.weight"])
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    plain = OrderedDict({"conv1.weight": weight, "fc.weight": torch.zeros(2, 2)})
    adapt_image_backbone(plain, load_spec(CONFIGS / "bevformer/tiny_imgx0.25_bevformer.py"), "resnet50.pth")
    assert torch.equal(plain["img_backbone.conv1.weight"], weight)  # RGB and divided there, as torchvision's were
    with pytest.raises(UserError, match="holds no image backbone .* take torchvision's resnet101"):
        adapt_image_backbone(OrderedDict({"blocks.0.weight": weight}), spec, "vit.pth")
