"""The native stack's half of compare_stacks.py: the same scenes, clips and weights, under the upstream stack's names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from uniad.backends.torch import TorchRunner
from uniad.config.read import load_spec
from uniad.config.spec import DataSpec, Spec
from uniad.data.collate import collate
from uniad.data.dataset import ClipDataset, SceneStream
from uniad.deploy.plausible import Limits
from uniad.deploy.runtime import Runtime
from uniad.evaluation.run import collect, score
from uniad.interface.contract import contract_for
from uniad.interface.types import Targets
from uniad.losses.criterion import Criterion
from uniad.postprocess.result import Result
from uniad.training.build import build_model
from uniad.training.checkpoint import load_checkpoint
from uniad.training.clip import forward_clip
from uniad.training.loader import map_tensors
from uniad.training.regularisation import without_dropout

Arrays = dict[str, NDArray]

# Upstream's code has no fixed number of slots, and untrained weights track far more than trained ones
ALL_TRACKS = ["native.track_capacity=512", "native.agent_capacity=300"]
NOTHING_RANDOM = ["model.use_grid_mask=False", "model.qim_args.random_drop=0.0", "model.qim_args.fp_ratio=0.0"]


def spec_of(config: Path, queue_length: int, options: list[str]) -> Spec:
    """The config with clips of ``queue_length`` frames; paths in it are relative to the working folder."""
    lengths = [f"{name}={queue_length}" for name in ("queue_length", "model.queue_length", "data.train.queue_length")]
    return load_spec(config, [*lengths, *options])


# Samples ----------------------------------------------------------------------------------------------------------------


def train_samples(spec: Spec) -> Iterator[tuple[int, Arrays]]:
    """Every clip by its last frame, flattened to upstream's keys; nothing distorted."""
    dataset = ClipDataset(spec.data, "train", spec.stage, training=False)
    for last in range(len(dataset)):
        frames = dataset.clip_frames(last)
        same_scene = frames.start >= dataset.table.frames_of(int(dataset.table.scene[last])).start
        if same_scene and all(dataset.labeller.has_objects(frame) for frame in frames):
            yield last, _train_sample(dataset, last, _judged(spec))


def _train_sample(dataset: ClipDataset, last: int, judged: int) -> Arrays:
    clip = dataset.clip(last, np.random.default_rng(0))
    frames, t, found = clip.frames, clip.targets, {}
    found["img"] = frames.img.numpy()
    before = None
    for i, _ in enumerate(dataset.clip_frames(last)):
        pose = frames.can_bus[i].numpy().astype(np.float64)
        moved = pose.copy()
        moved[:3] -= pose[:3] if before is None else before[:3]
        moved[-1] -= pose[-1] if before is None else before[-1]
        before = pose
        found[f"img_metas/{i}/can_bus"] = moved
        found |= _meta(f"img_metas/{i}", dataset.spec, clip.meta[i], frames.lidar2img[i], frames.img.shape[-2:])
        found[f"img_metas/{i}/prev_bev"] = np.asarray(i > 0)
        found |= _pose(frames, i, f"/{i}")
        found[f"timestamp/{i}"] = np.asarray([clip.meta[i]["timestamp"] / 1e6], np.float32)
        valid = t.valid[i]
        found[f"gt_bboxes_3d/{i}"] = t.boxes[i][valid].numpy()
        found[f"gt_labels_3d/{i}"] = t.labels[i][valid].numpy()
        found[f"gt_inds/{i}"] = t.ids[i][valid].numpy()
        found[f"gt_past_traj/{i}"] = t.past_traj[i][valid].numpy()
        found[f"gt_past_traj_mask/{i}"] = t.past_traj_mask[i][valid].numpy()
        found[f"gt_sdc_bbox/{i}"] = t.sdc_box[i][None].numpy()
        found[f"gt_sdc_label/{i}"] = t.sdc_label[i][None].numpy()
    valid, ahead = t.valid[-1], t.stage2
    found["gt_fut_traj"], found["gt_fut_traj_mask"] = ahead.fut_traj[valid].numpy(), ahead.fut_traj_mask[valid].numpy()
    found["gt_sdc_fut_traj"], found["gt_sdc_fut_traj_mask"] = ahead.sdc_fut_traj.numpy(), ahead.sdc_fut_traj_mask.numpy()
    for i, present in enumerate(ahead.future_boxes_valid):
        if present.any() or bool(ahead.occ_img_is_valid[2 + i]):
            found[f"gt_future_boxes/{i}"] = ahead.future_boxes[i][present].numpy()
    return found | _labels(t, frames.command[-1], "", judged)


def val_samples(spec: Spec) -> Iterator[tuple[int, Arrays]]:
    """Every frame of the validation split."""
    for index, sample in enumerate(SceneStream(spec.data, "val", stage=spec.stage, workers=0)):
        frame, found = sample.frame, {"img/0": sample.frame.img[0].numpy()}
        found["img_metas/0/can_bus"] = frame.can_bus[0].numpy()
        found |= _meta("img_metas/0", spec.data, sample.info, frame.lidar2img[0], frame.img.shape[-2:])
        found["timestamp/0"] = np.asarray(sample.info["timestamp"] / 1e6)
        found |= _pose(frame, 0, "")
        targets = map_tensors(lambda x: x[0], sample.targets)
        yield index, found | _labels(targets, frame.command[0], "/0", _judged(spec))


def _judged(spec: Spec) -> int:
    """How many occupancy frames have to exist for a sample to be judged: past, now and predicted."""
    return spec.model.stage2.occ.receptive_field + spec.model.stage2.occ.n_future


def _meta(at: str, spec: DataSpec, info: dict[str, Any], lidar2img: Tensor, size: tuple[int, int]) -> Arrays:
    found = {f"{at}/lidar2img": lidar2img.numpy()}
    found[f"{at}/sample_idx"], found[f"{at}/scene_token"] = np.asarray(info["token"]), np.asarray(info["scene_token"])
    for camera, path in enumerate(info["cams"].values()):
        found[f"{at}/filename/{camera}"] = np.asarray(str(path).removeprefix(str(spec.data_root)))
        for axis, length in enumerate((*size, 3)):
            found[f"{at}/img_shape/{camera}/{axis}"] = found[f"{at}/pad_shape/{camera}/{axis}"] = np.asarray(length)
    return found


def _pose(frames: Any, i: int, at: str) -> Arrays:
    return {f"l2g_r_mat{at}": frames.l2g_r[i].numpy(), f"l2g_t{at}": frames.l2g_t[i].numpy()}


def _labels(t: Targets, command: Tensor, at: str, judged: int) -> Arrays:
    """What belongs to one instant. Upstream's code puts the drivable area last among the map elements, as label 3."""
    lanes, ahead = t.lane_valid, t.stage2
    road = t.drivable.numpy()
    occ_valid = ahead.occ_img_is_valid.numpy()
    return {
        f"gt_lane_labels{at}": np.append(t.lane_labels[lanes].numpy(), 3),
        f"gt_lane_bboxes{at}": np.concatenate([t.lane_boxes[lanes].numpy(), _extent(road)[None]]),
        f"gt_lane_masks{at}": np.concatenate([t.lane_masks[lanes].numpy(), road[None]]),
        f"gt_segmentation{at}": ahead.segmentation.numpy(),
        f"gt_instance{at}": ahead.instance.numpy(),
        f"gt_occ_img_is_valid{at}": occ_valid,
        f"gt_occ_has_invalid_frame{at}": np.asarray(not occ_valid[:judged].all()),
        f"sdc_planning{at}": ahead.sdc_planning.numpy(),
        f"sdc_planning_mask{at}": ahead.sdc_planning_mask.numpy(),
        f"command{at}": command.numpy(),
    }


def _extent(mask: NDArray) -> NDArray[np.int64]:
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return np.asarray([columns[0], rows[0], columns[-1], rows[-1]])


# Evaluation -------------------------------------------------------------------------------------------------------------


def recorded(result: Result) -> Arrays:
    """A frame's result under upstream's names."""
    found: Arrays = {"track_ids": result.tracks.ids}
    for objects, end in ((result.tracks, ""), (result.detections.joined(result.ego), "_det")):
        found |= {f"boxes_3d{end}": objects.boxes, f"scores_3d{end}": objects.scores, f"labels_3d{end}": objects.labels}
    if result.plan is not None:
        found["traj"] = result.forecasts.raw
        found["traj_scores"] = np.log(result.forecasts.prob)
        found["occ/seg_out"] = result.occupancy[None, :, None].astype(np.int32)
        found["plan"] = result.plan.path[None]
    return found


def evaluate(spec: Spec, weights: Path, out: Path) -> tuple[list[Arrays], dict]:
    """Each frame's results under upstream's names, and the metrics."""
    model = build_model(spec)
    load_checkpoint(model, weights, name=spec.name, say=None)
    frames: list[Arrays] = []
    stream = SceneStream(spec.data, "val", stage=spec.stage, workers=0)
    with Runtime(TorchRunner(contract_for(spec), model), spec, limits=Limits.off()) as runtime:
        found = collect(runtime, stream, lambda result: frames.append(recorded(result)))
    metrics = score(found, spec, stream.version, out / "eval")
    future = found.all_futures()
    if future:
        metrics["planning_per_step"] = {name: metric.per_step() for name, metric in future.planning.items()}
    return frames, json.loads(json.dumps(metrics, default=lambda x: np.asarray(x).tolist()))


# Losses -----------------------------------------------------------------------------------------------------------------


def losses(spec: Spec, weights: Path, last: int) -> dict[str, float]:
    """The losses of one clip in training mode, nothing random."""
    model = build_model(spec)
    load_checkpoint(model, weights, name=spec.name, say=None)
    model.train()
    without_dropout(model)
    dataset = ClipDataset(spec.data, "train", spec.stage, training=False)
    clip = dataset.clip(last, np.random.default_rng(0))
    clip = clip._replace(frames=clip.frames._replace(time_s=_upstream_times(clip)))
    with torch.no_grad():
        found, _ = forward_clip(model, collate([clip]), Criterion(spec.model))
    return {name: float(value) for name, value in found.items()}


def _upstream_times(clip: Any) -> Tensor:
    """Seconds as upstream's training sees them: stored as float32 since 1970, so steps of 0.5 s read as 0."""
    seconds = np.asarray([np.float32(meta["timestamp"] / 1e6) for meta in clip.meta])
    return torch.from_numpy(seconds - seconds[0])
