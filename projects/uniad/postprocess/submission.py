"""Decoded boxes of a frame as nuScenes submission entries (global frame), the way upstream writes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from nuscenes.eval.common.config import config_factory
from pyquaternion import Quaternion

from uniad.postprocess.result import Objects, Result

TRACKING_NAMES = ("car", "truck", "bus", "trailer", "motorcycle", "bicycle", "pedestrian")
MOVING_MPS = 0.2  # above this speed an object counts as moving
MODALITY = {"use_lidar": False, "use_camera": True, "use_radar": False, "use_map": False, "use_external": True}
# (attribute when moving, attribute when standing); barriers and cones have none.
ATTRIBUTES = {
    "car": ("vehicle.moving", "vehicle.parked"),
    "truck": ("vehicle.moving", "vehicle.parked"),
    "construction_vehicle": ("vehicle.moving", "vehicle.parked"),
    "trailer": ("vehicle.moving", "vehicle.parked"),
    "bus": ("vehicle.moving", "vehicle.stopped"),
    "motorcycle": ("cycle.with_rider", "cycle.without_rider"),
    "bicycle": ("cycle.with_rider", "cycle.without_rider"),
    "pedestrian": ("pedestrian.moving", "pedestrian.standing"),
    "barrier": ("", ""),
    "traffic_cone": ("", ""),
}


def class_ranges() -> dict[str, float]:
    """Metres from the ego beyond which the detection protocol ignores a class (detection_cvpr_2019)."""
    return config_factory("detection_cvpr_2019").class_range


def to_annotations(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    info: Mapping,
    class_names: Sequence[str],
    ranges: Mapping[str, float],
    track_ids: np.ndarray | None = None,
) -> list[dict]:
    """Submission entries of one frame.

    boxes: [n, 9] box9 in the lidar frame; scores, labels, track_ids: [n]; info: the frame's entry of the info file (poses).
    Boxes outside their class's range are dropped; with track ids, classes that the tracking protocol lacks too.
    """
    ego_from_lidar, global_from_ego = Quaternion(info["lidar2ego_rotation"]), Quaternion(info["ego2global_rotation"])
    ego_t, global_t = np.asarray(info["lidar2ego_translation"]), np.asarray(info["ego2global_translation"])
    global_from_lidar = global_from_ego * ego_from_lidar
    entries = []
    for i, (box, score, label) in enumerate(zip(np.asarray(boxes, np.float64), scores, labels)):
        name = class_names[int(label)]
        if track_ids is not None and name not in TRACKING_NAMES:
            continue
        centre = box[:3] + [0.0, 0.0, box[5] / 2]
        in_ego = ego_from_lidar.rotate(centre) + ego_t
        if np.hypot(in_ego[0], in_ego[1]) > ranges.get(name, np.inf):
            continue
        # The stored yaw runs clockwise from the axis pointing left; nuScenes counts from x, counter-clockwise.
        heading = global_from_lidar * Quaternion(axis=[0, 0, 1], radians=-box[6] - np.pi / 2)
        velocity = np.asarray(global_from_lidar.rotate(np.array([box[7], box[8], 0.0])))[:2]
        moving = np.hypot(box[7], box[8]) > MOVING_MPS
        entry = {
            "sample_token": info["token"],
            "translation": (global_from_ego.rotate(in_ego) + global_t).tolist(),
            "size": box[3:6].tolist(),
            "rotation": heading.elements.tolist(),
            "velocity": velocity.tolist(),
            "detection_name": name,
            "detection_score": float(score),
            "attribute_name": ATTRIBUTES.get(name, ("", ""))[0 if moving else 1],
        }
        if track_ids is not None:
            entry |= {"tracking_name": name, "tracking_score": float(score), "tracking_id": str(int(track_ids[i]))}
        entries.append(entry)
    return entries


def entries_of(
    result: Result, info: Mapping, class_names: Sequence[str], ranges: Mapping[str, float]
) -> tuple[list[dict], list[dict]]:
    """One frame's detections, the car's own box among them as upstream has it, and its tracks. info, ranges: see above."""

    def entries(objects: Objects, tracked: bool) -> list[dict]:
        ids = objects.ids if tracked else None
        return to_annotations(objects.boxes, objects.scores, objects.labels, info, class_names, ranges, ids)

    return entries(result.detections.joined(result.ego), False), entries(result.tracks, True)


def submission(results: Mapping[str, list[dict]]) -> dict:
    """A whole submission file: token -> entries."""
    return {"meta": MODALITY, "results": dict(results)}
