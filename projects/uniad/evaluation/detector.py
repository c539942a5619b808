"""Stage 0's scores: a detector driven along whole scenes in PyTorch, its boxes scored by the devkit as everybody's are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from uniad.config.spec import Spec
from uniad.data.dataset import SceneStream
from uniad.evaluation.run import Collected
from uniad.geometry.boxes import bottom_from_gravity, decode_boxes
from uniad.interface.types import DetOutput, Frame
from uniad.models.bevformer import BevFormer
from uniad.postprocess.submission import class_ranges, to_annotations
from uniad.postprocess.tracks import in_center_range


def best_boxes(det: DetOutput, spec: Spec) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]:
    """Boxes [n, 9] box9, scores and labels [n] of one frame, best first: the ``max_num`` best pairs of query and class in range.

    BEVFormer regresses the middle of a box; box9 has its bottom.
    """
    track = spec.model.track
    scores = det.cls[-1, 0].float().sigmoid()
    best = scores.flatten().topk(min(track.max_num, scores.numel()))
    query, label = best.indices // scores.shape[1], best.indices % scores.shape[1]
    boxes = decode_boxes(det.boxes[-1, 0].float())[query]
    there = in_center_range(boxes.cpu().numpy(), track)
    return bottom_from_gravity(boxes).cpu().numpy()[there], best.values.cpu().numpy()[there], label.cpu().numpy()[there]


@torch.inference_mode()
def collect_detections(
    model: BevFormer, spec: Spec, stream: SceneStream, device: torch.device, watch: Callable[[], object] = lambda: None
) -> Collected:
    """Run the detector over every frame of ``stream``; a scene's first frame has no past. watch: called after each frame."""
    found, ranges, state = Collected(), class_ranges(), model.init_state()
    for sample in stream:
        frame = Frame(*(x.to(device) for x in sample.frame))
        det, state = model.step(frame, state)
        boxes, scores, labels = best_boxes(det, spec)
        found.detections[sample.info["token"]] = to_annotations(
            boxes, scores, labels, sample.info, spec.data.class_names, ranges
        )
        watch()
    return found
