"""Detection scores of Bench2Drive: nuScenes' protocol with Bench2Drive's classes and ranges, by the devkit's own functions.

As Bench2DriveZoo evaluates: labels count where |x| and |y| from the lidar are within their class's range, predictions everywhere;
there are no attributes, so NDS is the mean of mAP (five times) and of four errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from nuscenes.eval.common.data_classes import EvalBoxes
from nuscenes.eval.common.utils import center_distance
from nuscenes.eval.detection.algo import accumulate, calc_ap, calc_tp

from uniad.config.spec import DataSpec
from uniad.data.bench2drive import RouteTable
from uniad.data.dataset import labeller_of, open_table
from uniad.errors import UserError
from uniad.postprocess.submission import to_annotations

DISTANCES = (0.5, 1.0, 2.0, 4.0)
DISTANCE_OF_ERRORS = 2.0
MIN_RECALL = MIN_PRECISION = 0.1
MAP_WEIGHT = 5
ERRORS = ("trans_err", "scale_err", "orient_err", "vel_err")


@dataclass
class RouteBox:
    """What the devkit's functions read of a box."""

    sample_token: str
    translation: tuple[float, ...]
    size: tuple[float, ...]
    rotation: tuple[float, ...]
    velocity: tuple[float, ...]
    detection_name: str
    detection_score: float
    attribute_name: str = ""


def evaluate_routes(results: Mapping[str, list[dict]], spec: DataSpec) -> dict[str, Any]:
    """NDS, mAP, AP per class and distance, true-positive errors, as ``official.evaluate_detection``; results too."""
    if not any(results.values()):
        raise UserError("the model reported no box on any sample; it is not trained, or belongs to another config")
    truth, found = EvalBoxes(), EvalBoxes()
    for token, boxes in _labels(spec).items():
        if token in results:
            truth.add_boxes(token, [RouteBox(**box) for box in boxes])
            found.add_boxes(token, [RouteBox(**box) for box in results[token]])
    ap, errors = {}, {}
    for name, _ in spec.eval_range:
        data = {d: accumulate(truth, found, name, center_distance, d) for d in DISTANCES}
        ap[name] = {str(d): float(calc_ap(data[d], MIN_RECALL, MIN_PRECISION)) for d in DISTANCES}
        errors[name] = {key: float(calc_tp(data[DISTANCE_OF_ERRORS], MIN_RECALL, key)) for key in ERRORS}
    mean_ap = {name: float(np.mean(list(values.values()))) for name, values in ap.items()}
    total = float(np.mean(list(mean_ap.values())))
    means = {key: float(np.nanmean([of_class[key] for of_class in errors.values()])) for key in ERRORS}
    scores = [1.0 - min(1.0, value) for value in means.values()]
    return {
        "NDS": (MAP_WEIGHT * total + sum(scores)) / (MAP_WEIGHT + len(scores)),
        "mAP": total,
        "errors": means,
        "AP": ap,
        "mean_AP": mean_ap,
    }


def _labels(spec: DataSpec) -> dict[str, list[dict]]:
    """Every annotated box in range, by token, as submission entries."""
    table = open_table(spec, "val")
    assert isinstance(table, RouteTable)
    labeller, ranges, found = labeller_of(table, spec), dict(spec.eval_range), {}
    for frame in range(len(table)):
        span = table.objects_of(frame)
        names = table.name[span]
        reach = np.array([ranges.get(name, (-1.0, -1.0)) for name in names.tolist()]).reshape(-1, 2)
        near = (np.abs(table.boxes[span][:, :2]) <= reach).all(1) & (labeller.label[span] >= 0)
        info = {
            "token": str(table.token[frame]),
            "lidar2ego_translation": table.ego_from_lidar[frame, :3, 3],
            "lidar2ego_rotation": table.lidar_quaternion[frame],
            "ego2global_translation": table.global_from_ego[frame, :3, 3],
            "ego2global_rotation": table.ego_quaternion[frame],
        }
        boxes, labels = labeller.boxes(span).numpy()[near], labeller.label[span][near]
        found[info["token"]] = to_annotations(boxes, np.full(len(boxes), -1.0), labels, info, spec.class_names, {})
    return found
