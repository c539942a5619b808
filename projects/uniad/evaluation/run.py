"""Drive the pure step along whole scenes and score what it says.

Scenes are shared out between processes; every scene starts from a state that depends on the data alone, so one process and
many give the same numbers.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from uniad.config.spec import Spec
from uniad.evaluation.future import EgoMotion, FutureScores
from uniad.evaluation.map_iou import MapIoU
from uniad.evaluation.official import UNANNOTATED, evaluate_detection, evaluate_tracking, write_submissions
from uniad.evaluation.results import decode_detections, decode_tracks
from uniad.interface.types import Frame, State
from uniad.models.map_select import image_lanes
from uniad.postprocess.submission import class_ranges, to_annotations
from uniad.training.distributed import World, gather_objects


@dataclass
class Collected:
    """What one process saw: submission entries by sample token, map counts, tracks that found no slot, and stage 2's scores.

    Those are kept by scene and added up in the scenes' order: a sum of floats depends on it, and processes must not matter.
    """

    detections: dict[str, list[dict]] = field(default_factory=dict)
    tracks: dict[str, list[dict]] = field(default_factory=dict)
    map_iou: MapIoU = field(default_factory=MapIoU)
    dropped: int = 0
    future: dict[str, FutureScores] = field(default_factory=dict)

    def merge(self, other: Collected) -> None:
        self.detections |= other.detections
        self.tracks |= other.tracks
        self.map_iou.merge(other.map_iou)
        self.dropped += other.dropped
        self.future |= other.future

    def all_futures(self) -> FutureScores | None:
        """Stage 2's scores of all scenes; None for a model without it."""
        scenes = [self.future[token] for token in sorted(self.future)]
        if not scenes:
            return None
        total = copy.deepcopy(scenes[0])
        for scene in scenes[1:]:
            total.merge(scene)
        return total


def start_of_scene(model: torch.nn.Module, previous: np.ndarray | None, device: torch.device) -> State:
    """State before a scene. ``previous``: can_bus [18] of the frame before it in the split, None for the very first.

    Upstream carries the pose over the scene border; taking it from the data keeps that and still lets
    scenes run in any order.
    """
    state = model.init_state(1, device)
    if previous is None:
        return state
    pose = torch.as_tensor(np.asarray(previous, np.float32), device=device)
    return state._replace(prev_pos=pose[None, :3], prev_angle=pose[None, 17])


def to_device(frame: Frame, device: torch.device) -> Frame:
    return Frame(*(t.to(device, non_blocking=True) for t in frame))


@torch.no_grad()
def collect(
    model: torch.nn.Module,
    spec: Spec,
    stream,
    device: torch.device,
    progress: Callable[[int], None] = lambda done: None,
) -> Collected:
    """Run the model over every frame of ``stream`` (a SceneStream of this process's scenes, with the spec's stage)."""
    found, ranges = Collected(), class_ranges()
    annotated = getattr(stream, "version", None) != UNANNOTATED
    model.eval()
    state: State | None = None
    ego = EgoMotion()
    for done, sample in enumerate(stream, start=1):
        if bool(sample.frame.scene_start[0]):
            state = start_of_scene(model, sample.previous_can_bus, device)
        outputs, state = model.step(to_device(sample.frame, device), state)
        track = type(outputs.track)(*(t.cpu() for t in outputs.track))
        token = sample.info["token"]
        for target, decoded, with_ids in (
            (found.detections, decode_detections(track, 0, spec.model.track), False),
            (found.tracks, decode_tracks(track, 0, spec.model.track), True),
        ):
            target[token] = to_annotations(
                decoded["boxes_3d"].numpy(),
                decoded["scores"].numpy(),
                decoded["labels"].numpy(),
                sample.info,
                spec.data.class_names,
                ranges,
                decoded["track_ids"].numpy() if with_ids else None,
            )
        if outputs.map is not None and sample.targets is not None and annotated:
            gt = sample.targets
            labels = torch.where(gt.lane_valid[0], gt.lane_labels[0], -1)
            road = type(outputs.map)(*(None if t is None else t.cpu() for t in outputs.map))
            found.map_iou.update(
                image_lanes(road, 0, spec.model.map),
                road.drivable[0] > 0.5,
                gt.lane_masks[0],
                labels,
                gt.drivable[0],
            )
        if spec.model.has_stage2 and annotated:
            scene = sample.info["scene_token"]
            scores = found.future.setdefault(scene, FutureScores(spec))
            scores.update(outputs, sample, ego.velocity(sample.frame), spec)
        found.dropped += int(track.dropped[0])
        progress(done)
    return found


def score(found: Collected, spec: Spec, version: str, out: Path) -> dict:
    """All metrics of the config's ``eval_mod`` from what all processes collected, and those of stage 2 where there is one.

    Of the test split, which has no ground truth, the submissions alone are written.
    """
    out.mkdir(parents=True, exist_ok=True)
    metrics: dict = {"samples": len(found.detections), "tracks_dropped": found.dropped}
    if version == UNANNOTATED:
        return metrics | {"submissions": write_submissions(found.detections, found.tracks, out)}
    if "det" in spec.data.eval_mod:
        metrics["detection"] = evaluate_detection(found.detections, spec.data.data_root, version, out)
    if "track" in spec.data.eval_mod:
        metrics["tracking"] = evaluate_tracking(found.tracks, spec.data.data_root, version, out)
    if "map" in spec.data.eval_mod:
        metrics["map"] = {k: None if np.isnan(v) else v for k, v in found.map_iou.compute().items()}
    future = found.all_futures()
    return metrics | future.compute() if future else metrics


def gather(world: World, found: Collected) -> Collected:
    """What all processes collected, on every process, in rank order."""
    total = Collected()
    for part in gather_objects(world, found):
        total.merge(part)
    return total
