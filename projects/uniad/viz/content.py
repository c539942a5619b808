"""What a step said about a frame, and what the annotations say, gathered for drawing."""

from __future__ import annotations

import cv2
import numpy as np

from uniad.data.dataset import SceneSample
from uniad.errors import UserError
from uniad.models.map_select import image_lanes
from uniad.models.results import decode_detections, decode_tracks
from uniad.spec import Spec
from uniad.types import StepOutputs
from uniad.viz.page import Content

BEST_GUESSES = 15
MOST_TRACKS = 40  # drawn; more boxes than that tell a person nothing


def content_of(outputs: StepOutputs, sample: SceneSample, spec: Spec, number: int) -> Content:
    """Content of a picture. ``outputs``: of a batch of one; ``number``: of the frame in its scene."""
    track = type(outputs.track)(*(t.cpu() for t in outputs.track))
    found, kind = decode_tracks(track, 0, spec.model.track), "tracks"
    if len(found["boxes_3d"]) == 0:
        # A model that has just begun to learn is sure of nothing; its best guesses still tell how far it is.
        found = {k: v[:BEST_GUESSES] for k, v in decode_detections(track, 0, spec.model.track).items()}
        kind = "best guesses, no track yet"
    count = len(found["boxes_3d"])
    if count > MOST_TRACKS:
        found, kind = {k: v[:MOST_TRACKS] for k, v in found.items()}, f"best of {count} tracks"
    gt = sample.targets
    valid = gt.valid[0, 0]
    lanes = gt.lane_masks[0].numpy()
    labels = gt.lane_labels[0].numpy()
    kept = gt.lane_valid[0].numpy()
    images = {name: _read(path) for name, path in sample.info["cams"].items()}
    speed = float(np.linalg.norm(sample.frame.can_bus[0, 13:16].numpy()))
    return Content(
        images=images,
        lidar2img=dict(zip(sample.info["cams"], sample.info["lidar2img"])),
        boxes=found["boxes_3d"].numpy(),
        labels=found["labels"].numpy(),
        ids=found["track_ids"].numpy(),
        drivable=outputs.map.drivable[0].cpu().numpy(),
        lanes=image_lanes(outputs.map, 0, spec.model.map),
        gt_boxes=gt.boxes[0, 0][valid].numpy(),
        gt_labels=gt.labels[0, 0][valid].numpy(),
        gt_drivable=gt.drivable[0].numpy(),
        gt_lanes=np.stack([lanes[kept & (labels == c)].any(0) if kept.any() else np.zeros(lanes.shape[1:]) for c in range(3)]),
        caption=f"{spec.name}\nframe {number}, {speed:.1f} m/s\n{len(found['boxes_3d'])} {kind}\n{int(valid.sum())} annotated",
    )


def _read(path: str) -> np.ndarray:
    image = cv2.imread(path)
    if image is None:
        raise UserError(f"{path}: cannot be read as an image; run `make data` or restore the file")
    return image[..., ::-1]
