"""Drive a model along whole scenes, in whatever back end, and score its results.

Scenes are shared out between processes; every scene starts from a state that depends on the data alone, so one process and
many give the same numbers.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from uniad.config.spec import UNIAD_V2, Spec
from uniad.data.bench2drive import VERSION as ROUTES
from uniad.data.dataset import SceneSample, SceneStream
from uniad.deploy.loop import results_along
from uniad.deploy.runtime import Runtime
from uniad.evaluation.future import EgoMotion, FutureScores
from uniad.evaluation.map_iou import MapIoU
from uniad.evaluation.official import UNANNOTATED, evaluate_detection, evaluate_tracking, write_submissions
from uniad.evaluation.routes import evaluate_routes
from uniad.postprocess.collision import UNSOLVED
from uniad.postprocess.result import Result
from uniad.postprocess.submission import class_ranges, entries_of
from uniad.training.distributed import World, gather_objects

AS_PUBLISHED = "as_published"  # scores that a fault of upstream's evaluation is part of, beside the right ones


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

    def add(
        self, result: Result, sample: SceneSample, velocity: NDArray[np.float64], spec: Spec, ranges: Mapping[str, float],
        annotated: bool = True,
    ) -> None:  # fmt: skip
        """One frame: its result, its sample, whose targets are read where it is ``annotated``, and the ego's velocity [2] m/s."""
        info = sample.info
        if not self.future and not self.detections:
            self.map_iou = MapIoU(spec.data.vocabulary)
        self.detections[info["token"]], self.tracks[info["token"]] = entries_of(result, info, spec.data.class_names, ranges)
        if annotated:
            gt = sample.targets
            labels = np.where(gt.lane_valid[0], gt.lane_labels[0], -1)
            self.map_iou.update(result.lanes, result.drivable, gt.lane_masks[0], labels, gt.drivable[0])
        if annotated and spec.model.stage2 is not None:
            scores = self.future.setdefault(info["scene_token"], FutureScores(spec))
            scores.update(result, sample, velocity, spec)
        self.dropped += result.dropped

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


def collect(runtime: Runtime, stream: SceneStream, watch: Callable[[Result], None] = lambda result: None) -> Collected:
    """Run the model over every frame of ``stream``: this process's scenes, with targets of the model's stage.

    The runtime's limits should be off: what a dataset holds is scored. watch: sees each frame's result when it is counted.
    """
    spec, found, ego = runtime.spec, Collected(), EgoMotion()
    ranges = {} if spec.data.eval_range else class_ranges()  # of nuScenes' protocol
    annotated = stream.version != UNANNOTATED
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", UNSOLVED)  # a plan that stays as it was counts as it is
        for sample, result in results_along(runtime, stream):
            known = sample.info.get("ego_velocity")  # else by what the frames say
            velocity = ego.velocity(sample.frame) if known is None else np.asarray(known)
            found.add(result, sample, velocity, spec, ranges, annotated)
            watch(result)
    return found


def score(found: Collected, spec: Spec, version: str, out: Path) -> dict:
    """All metrics of the config's ``eval_mod`` from what all processes collected, and those of stage 2 where there is one.

    Of the test split, which has no ground truth, the submissions alone are written.
    """
    out.mkdir(parents=True, exist_ok=True)
    metrics: dict = {"samples": len(found.detections), "tracks_dropped": found.dropped}
    if version == UNANNOTATED:
        return metrics | {"submissions": write_submissions(found.detections, found.tracks, out)}
    if "det" in spec.data.eval_mod and version == ROUTES:
        metrics["detection"] = evaluate_routes(found.detections, spec.data)
    elif "det" in spec.data.eval_mod:
        metrics["detection"] = evaluate_detection(found.detections, spec.data.data_root, version, out)
        if spec.model.compat.box_sizes == UNIAD_V2:
            there = out / AS_PUBLISHED
            there.mkdir(exist_ok=True)
            exchanged = with_sizes_exchanged(found.detections)
            metrics[f"detection_{AS_PUBLISHED}"] = evaluate_detection(exchanged, spec.data.data_root, version, there)
    if "track" in spec.data.eval_mod:
        metrics["tracking"] = evaluate_tracking(found.tracks, spec.data.data_root, version, out)
    if "map" in spec.data.eval_mod:
        metrics["map"] = {k: None if np.isnan(v) else v for k, v in found.map_iou.compute().items()}
    future = found.all_futures()
    return metrics | future.compute() if future else metrics


def with_sizes_exchanged(found: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """Detections by sample as UniAD v2's own evaluation submits them: lengths stand where nuScenes reads widths, and the reverse.

    Matching goes by centres, so AP does not change; the size error does, and NDS with it.
    """
    return {
        token: [{**entry, "size": [entry["size"][i] for i in (1, 0, 2)]} for entry in entries] for token, entries in found.items()
    }


def gather(world: World, found: Collected) -> Collected:
    """What all processes collected, on every process, in rank order."""
    total = Collected()
    for part in gather_objects(world, found):
        total.merge(part)
    return total
